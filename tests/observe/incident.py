"""An incident at a running service: faults, the alerts that each one must fire, its repair."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from schemas.envelope import encode
from tests.factories.sites import osquery_report
from tests.factories.sofa import feed, line, release

EVENTS_SECRET: Final = "the-secret-of-the-events"
SETTINGS: Final = {
    "DRYDOCK_EVENTS_SECRET": EVENTS_SECRET,
    "DRYDOCK_NANOMDM_SECRET": "the-secret-of-nanomdm",
    "DRYDOCK_FEEDS_INTERVAL_S": "2",
}
_STEP_S: Final = 0.5


def good_feed() -> bytes:
    """Return a document of SOFA that was checked now."""
    now = datetime.now(UTC).isoformat()
    return feed(line("Tahoe 26", release("26.2"), release("26.1")), last_check=now)


@dataclass
class World:
    """The outside world of a service: Macs that report, an MDM server, a feed."""

    url: str
    feed_path: Path
    rng: random.Random
    macs_report: bool = True
    secret_is_wrong: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def runs(self) -> Iterator["World"]:
        """Send reports, and refused webhooks while the secret is wrong, within the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def write_feed(self, document: bytes) -> None:
        """Replace the document of the feed as a whole."""
        partial = self.feed_path.with_suffix(".new")
        partial.write_bytes(document)
        partial.replace(self.feed_path)

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as client:
            while not self._stop.wait(_STEP_S):
                if self.macs_report:
                    self._report(client)
                if self.secret_is_wrong:
                    for _ in range(self.rng.randint(3, 6)):
                        headers = {"X-Drydock-Secret": "of-last-year"}
                        client.post("/webhooks/nanomdm", content=b"{}", headers=headers)

    def _report(self, client: httpx.Client) -> None:
        udid = f"MAC-{self.rng.randrange(20)}"
        report = osquery_report(udid, datetime.now(UTC), os_version="26.2", build="25C56")
        headers = {"X-Drydock-Secret": EVENTS_SECRET}
        client.post("/v1/events", content=encode(report), headers=headers).raise_for_status()


@dataclass(frozen=True)
class Fault:
    """A fault of the world, the alert that it fires, and how it begins and ends."""

    text: str
    alert: str
    begin: Callable[[World], None]
    end: Callable[[World], None]


def _set(name: str, value: object) -> Callable[[World], None]:
    return lambda world: setattr(world, name, value)


FAULTS: Final = (
    Fault(
        "NanoMDM has the secret of last year",
        "DrydockInputsRefused",
        _set("secret_is_wrong", True),  # noqa: FBT003
        _set("secret_is_wrong", False),  # noqa: FBT003
    ),
    Fault(
        "no Mac reports",
        "DrydockNoInput",
        _set("macs_report", False),  # noqa: FBT003
        _set("macs_report", True),  # noqa: FBT003
    ),
)
SLOW_FAULTS: Final = (
    Fault(
        "the feed is an error page",
        "DrydockFeedRefused",
        lambda world: world.write_feed(b"<html>502 Bad Gateway</html>"),
        lambda world: world.write_feed(good_feed()),
    ),
)


@dataclass
class Seen:
    """The seconds at which each alert was first and last active, from the begin of the incident."""

    first_s: dict[str, float] = field(default_factory=dict)
    last_s: dict[str, float] = field(default_factory=dict)


class Watch:
    """Reads the active alerts of an Alertmanager and keeps what it saw."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._began = time.monotonic()
        self.seen = Seen()

    def active(self) -> set[str]:
        """Return the names of the active alerts now."""
        now = time.monotonic() - self._began
        response = self._client.get("/api/v2/alerts", params={"active": "true"}).raise_for_status()
        names = {str(one["labels"]["alertname"]) for one in json.loads(response.content)}
        for name in names:
            self.seen.first_s.setdefault(name, now)
            self.seen.last_s[name] = now
        return names


def verdicts(faults: Sequence[Fault], seen: Seen, left: set[str]) -> dict[str, str]:
    """Return a verdict for each expected or seen alert; `ok` if it fired and ended as expected."""
    expected = {one.alert for one in faults}
    found = {}
    for name in sorted(expected | set(seen.first_s)):
        if name not in expected:
            found[name] = "not expected"
        elif name not in seen.first_s:
            found[name] = "did not fire"
        else:
            found[name] = "did not end" if name in left else "ok"
    return found
