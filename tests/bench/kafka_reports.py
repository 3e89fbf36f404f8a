"""Records for the benchmarks on Kafka: broadcast records, the Macs' first events, and reports.

Macs and reports are those of `tests.bench.core`, with times that end at the present, because the
worker uses the real clock. The seed is fixed: only the times differ between runs.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final

from schemas.envelope import encode
from schemas.topics import ADVISORIES, CHECKINS, CONTROL, INVENTORY
from tests import factories as make
from tests.bench.core import FLEET, Stream, a_tenth, numbered_report, udid_of
from tests.bench.kafka_world import Record

TARGET: Final = "26.2"
POLICY: Final = """\
version: 1
blast_radius: {jobs_per_hour: null, new_macs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 10000}
follow_up: {compliant: false}
"""
# The reports of a run begin this long ago and must not reach the future.
_SPAN: Final = timedelta(hours=8)


def facts() -> Iterator[Record]:
    """Yield the policy and Apple's releases as records."""
    policy = make.policy_changed(POLICY)
    yield CONTROL.name, policy.subject.encode(), encode(policy)
    for version in make.RELEASES:
        landed = make.release(version)
        yield ADVISORIES.name, landed.subject.encode(), encode(landed)


class Reports:
    """The reports of a run's Macs.

    With `telemetry` each report has another free disk space; without it, nine of ten differ from
    the Mac's previous report in time and id only. `version` gives the first version of each Mac.
    """

    def __init__(self, *, telemetry: bool, version: Callable[[int], str] = a_tenth) -> None:
        self._version = version
        self.began = datetime.now(UTC) - _SPAN
        self._stream = Stream(telemetry=telemetry)
        self._stream.clock = self.began

    def first_records(self) -> Iterator[Record]:
        """Yield the first records of each Mac: an enrollment, a poll and a report."""
        return chain.from_iterable(map(self._first_records, range(FLEET)))

    def _first_records(self, number: int) -> Iterator[Record]:
        udid = udid_of(number)
        before = self.began - make.HOUR
        for event in (*make.enrolled(udid, before - 100 * make.DAY), make.polled(udid, before)):
            yield CHECKINS.name, udid.encode(), encode(event)
        first = encode(numbered_report(number, self._version(number), before))
        yield INVENTORY.name, udid.encode(), first

    def next(self, count: int) -> Iterator[Record]:
        """Yield the next `count` reports. Raises ValueError if they reach into the future."""
        for raw in self._stream.next(count):
            # The subject is the key; a search of the bytes is cheaper than to decode them.
            start = raw.index(b'"subject":"') + 11
            yield INVENTORY.name, raw[start : raw.index(b'"', start)], raw
        if self._stream.clock > datetime.now(UTC):
            raise ValueError("the reports reach into the future: ask for fewer of them")
