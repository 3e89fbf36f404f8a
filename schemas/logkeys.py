"""Every key of a structured log line, besides `event`, `level` and `timestamp`."""

from typing import Final

UDID: Final = "udid"
SERIAL: Final = "serial"
SITE: Final = "site"
EVENT_ID: Final = "event_id"
EVENT_TYPE: Final = "event_type"
TOPIC: Final = "topic"
PARTITION: Final = "partition"
OFFSET: Final = "offset"
ADVISORY_ID: Final = "advisory_id"
ACTION: Final = "action"
REASON: Final = "reason"
JOB_ID: Final = "job_id"
ATTEMPT: Final = "attempt"
RING: Final = "ring"
OUTCOME: Final = "outcome"
ERROR_CODE: Final = "error_code"
DURATION_S: Final = "duration_s"
METHOD: Final = "method"
SOURCE: Final = "source"
REQUEST_ID: Final = "request_id"
COUNT: Final = "count"
SCOPE: Final = "scope"
BY: Final = "by"
ADDRESS: Final = "address"
DETAIL: Final = "detail"

LOG_KEYS: Final = frozenset(
    value for name, value in tuple(globals().items()) if name.isupper() and name != "LOG_KEYS"
)
