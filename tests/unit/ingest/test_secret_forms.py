"""The search for secrets takes time in proportion to the text, whatever a sender writes."""

import time
from collections.abc import Callable
from typing import Final

import pytest

from pipeline.ingest.redaction import FINGERPRINT_PREFIX
from pipeline.ingest.retained_events import retained_event
from pipeline.ingest.secret_forms import has_secret, replace_secrets
from schemas.envelope import DdmStatusEvent
from schemas.events.checkin import DdmStatusReported
from tests.unit.ingest.device_bodies import RECEIVED_AT, REDACTOR, UDID

_LENGTH: Final = 1_000
# Four times the text takes 4 times as long, and 16 times with a quadratic search.
_GROWTH: Final = 4
_MAX_RATIO: Final = 9

_UNITS: Final = {
    "letters": "a",
    "names": "a-",
    "dotted names": "a.",
    "secret words": "password",
    "joined secret words": "password-",
    "words with a space": "recovery key",
    "words with a dot": "api.key-",
    "urls": "a://",
    "users of urls": "a://b:",
    "users": "b:",
    "parameters": "?key=",
    "dashes": "-",
    "options": "--password ",
    "options of curl": "-u ",
    "spaces": " ",
    "quotes": "\"'",
    "authorization": "Authorization ",
    "bearers": "Bearer ",
    "fingerprints": "password=hmac-sha256:",
    "keys": "AB12-CD34-",
    "begins": "-----BEGIN A",
    "ends": "-----END A",
}
# What stands around the repeated text, so that a form begins and does not end.
_AROUND: Final = {
    "alone": ("-", ""),
    "option": ("--", " "),
    "name": ("", "!:"),
    "value": ("password", ":"),
    "url": ("a://", "!"),
    "private key": ("-----BEGIN PRIVATE KEY-----", ""),
}


def _seconds(search: Callable[[str], object], text: str) -> float:
    """Return the least CPU time of three searches by this thread."""
    times = []
    for _ in range(3):
        begun = time.thread_time()
        search(text)
        times.append(time.thread_time() - begun)
    return min(times)


def _replace(text: str) -> str:
    return replace_secrets(text, lambda _: FINGERPRINT_PREFIX)


def _cut_event(text: str) -> DdmStatusEvent:
    items = {"device": {"identifier": {"serial-number": text}}, text: 1}
    data = DdmStatusReported(udid=UDID, status_items=items, errors=({"StatusItem": text},))
    event = DdmStatusEvent(id="1", source="/s", subject=UDID, time=RECEIVED_AT, data=data)
    found = retained_event(event, REDACTOR)
    assert isinstance(found, DdmStatusEvent)
    return found


@pytest.mark.parametrize("around", _AROUND.values(), ids=_AROUND.keys())
@pytest.mark.parametrize("unit", _UNITS.values(), ids=_UNITS.keys())
@pytest.mark.parametrize("search", [has_secret, _replace, _cut_event])
def test_time_grows_no_faster_than_the_text(
    search: Callable[[str], object], unit: str, around: tuple[str, str]
) -> None:
    before, after = around
    short, long = (
        before + (unit * length)[:length] + after for length in (_LENGTH, _GROWTH * _LENGTH)
    )
    assert _seconds(search, long) < _MAX_RATIO * _seconds(search, short)


@pytest.mark.parametrize(("length", "is_kept"), [(1024, True), (1025, False)])
def test_a_name_over_the_limit_is_hidden_with_its_value(length: int, is_kept: bool) -> None:
    name = "n " * (length // 2) + "n" * (length % 2)
    kept = REDACTOR.cut({name: "seen"})
    assert (kept == {name: "seen"}) is is_kept
    ((key, value),) = kept.items()
    assert key.startswith(FINGERPRINT_PREFIX) is not is_kept
    assert value.startswith(FINGERPRINT_PREFIX) is not is_kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a" * 2000 + "password" + "b" * 2000 + " = hunter2", False),
        ("password_recovery key: hunter2", False),
        ("--password-api.key hunter2", False),
        ("--x-admin.pass hunter2", False),
        ("x" * 2000 + "://munki:hunter2@host", False),
        ("--proxy-http://munki:hunter2@host", False),
        ("passwords are hunter2", True),
    ],
)
def test_a_secret_word_is_found_anywhere_in_a_name(text: str, kept: bool) -> None:
    assert ("hunter2" in _replace(text)) is kept
