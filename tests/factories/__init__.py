"""Factories of valid defaults for tests: import a subject's module, or the names below from here.

The modules `sites` (keys, jobs, simulated Macs) and `sofa` (documents of the SOFA feed) have times
and defaults of their own and are imported by their names.
"""

from tests.factories.advisories import (
    apple,
    catalogue,
    cve_of,
    kev,
    narrowed,
    raised,
    release,
    retracted,
)
from tests.factories.control import (
    NIGHTS,
    POLICY_TEXT,
    SIGNED,
    approval,
    attempts_reset,
    denied,
    granted,
    halt,
    halt_cleared,
    halted,
    policy,
    policy_changed,
    reset,
)
from tests.factories.devices import (
    MODERN,
    RELEASES,
    UDID,
    build_of,
    checked_out,
    enrolled,
    full_report,
    mac,
    polled,
    reported,
    with_report,
)
from tests.factories.events import key_of, make_event, topic_of
from tests.factories.jobs import entry, failed, issued, job, result, resulted, superseded
from tests.factories.situations import situation
from tests.factories.times import DAY, HOUR, NOW, at

__all__ = [
    "DAY",
    "HOUR",
    "MODERN",
    "NIGHTS",
    "NOW",
    "POLICY_TEXT",
    "RELEASES",
    "SIGNED",
    "UDID",
    "apple",
    "approval",
    "at",
    "attempts_reset",
    "build_of",
    "catalogue",
    "checked_out",
    "cve_of",
    "denied",
    "enrolled",
    "entry",
    "failed",
    "full_report",
    "granted",
    "halt",
    "halt_cleared",
    "halted",
    "issued",
    "job",
    "kev",
    "key_of",
    "mac",
    "make_event",
    "narrowed",
    "policy",
    "policy_changed",
    "polled",
    "raised",
    "release",
    "reported",
    "reset",
    "result",
    "resulted",
    "retracted",
    "situation",
    "superseded",
    "topic_of",
    "with_report",
]
