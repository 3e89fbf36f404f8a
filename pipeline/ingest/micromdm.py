"""MicroMDM webhooks to events (github.com/micromdm/micromdm, docs/user-guide/api-and-webhooks).

The envelope is the one NanoMDM took over, with less in it: no `ids` (user channels are told by
the message itself), no tally (a token update is not known to complete an enrolment), `url_params`
may be null. Enrolments are addressed by UDID.
"""

from datetime import datetime
from typing import Final

from pipeline.ingest.mdm_webhook import translate_webhook
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation

SOURCE: Final = "micromdm"


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """One webhook body, or one bare message of a Mac, to its events. Raises nothing."""
    return translate_webhook(
        raw, source=SOURCE, origin=origin, received_at=received_at, redactor=redactor
    )
