"""Each gate reads only the fields that it declares, and each declared field varies here.

The declarations determine the Macs that are decided again after a report with nothing but
telemetry. A field missing from them would leave such a Mac held until the sweep.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, get_args

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.decide.candidate import Candidate, make_candidate
from pipeline.decide.exposure import exposure
from pipeline.decide.gate_reads import FOLLOW_UP_READS, Field
from pipeline.decide.gates import GATES, GateResult
from pipeline.decide.methods import choose_method
from pipeline.decide.needs.enrollment import _mdm_grace_ends_us
from pipeline.decide.needs.order import needs
from pipeline.decide.needs.reinstall_history import follow_up_missing
from pipeline.decide.situation import Situation
from pipeline.state.device import CHANGED_BY_EVERY_REPORT, Device
from pipeline.state.fleet import Fleet
from schemas.envelope import Event
from tests.factories import NOW
from tests.strategies import events, reports_without_news, situations

SITUATIONS = situations() | situations(worn=True)


class Recorder:
    """A proxy of an object: adds the name of each attribute that is read to `read`."""

    def __init__(self, of: object, read: set[str], prefix: str = "") -> None:
        self._of, self._read, self._prefix = of, read, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if isinstance(value, Device):
            return Recorder(value, self._read, "device.")
        self._read.add(self._prefix + name)
        return value


def read_by(function: Callable[..., object], s: Situation, *more: object) -> set[str]:
    """Return the names of the fields of a Situation that a function reads."""
    read: set[str] = set()
    function(Recorder(s, read), *more)
    return read


def candidates(s: Situation) -> list[Candidate]:
    """Return every need of a Mac as a candidate for the gates."""
    exposed = exposure(s)
    return [make_candidate(s, need, choose_method(s, need), exposed) for need in needs(s, exposed)]


def reads_of(s: Situation) -> Iterator[tuple[str, set[str]]]:
    """Yield the name of each gate and the fields that it reads for this Mac.

    The fields from which a candidate's method and `not_before_us` are computed count as read by
    `method` and `sure`, the only gates that read these two.
    """
    for p in candidates(s):
        for row in GATES:
            yield row.name, read_by(row.check, s, p)
        yield "method", read_by(choose_method, s, p.need)
    yield "sure", read_by(_mdm_grace_ends_us, s)
    yield "follow_up", read_by(follow_up_missing, s)


DECLARED = {
    name: {field for fields in reads.values() for field in fields}
    for name, reads in [*((row.name, row.reads) for row in GATES), ("follow_up", FOLLOW_UP_READS)]
}


@given(SITUATIONS)
def test_gate_reads_only_the_fields_that_it_declares(s: Situation) -> None:
    for name, read in reads_of(s):
        assert read <= DECLARED[name], name


@given(SITUATIONS)
def test_gate_gives_only_the_reasons_that_it_declares(s: Situation) -> None:
    for p in candidates(s):
        for row in GATES:
            result: GateResult = row.check(s, p)
            assert result.gate == row.name
            assert result.reason is None or result.reason in row.reads


def value_of(s: Situation, field: str) -> object:
    """Return the value of a field; for a method, the values from which it is computed."""
    if field == "device.reported_us":
        return s.device.timestamps
    if field == "device.enrolled_since":
        return s.device.checkins
    name = field.removeprefix("device.")
    return getattr(s.device if field != name else s, name)


def test_every_declared_field_varies_in_the_strategy() -> None:
    seen: defaultdict[str, set[str]] = defaultdict(set)

    @settings(max_examples=500, derandomize=True, database=None, phases=[Phase.generate])
    @given(SITUATIONS)
    def collect(s: Situation) -> None:
        for field in get_args(Field):
            seen[field].add(repr(value_of(s, field)))

    collect()
    assert [field for field in get_args(Field) if len(seen[field]) < 2] == []


def test_every_field_of_the_list_is_declared_by_a_gate() -> None:
    assert set().union(*DECLARED.values()) == set(get_args(Field))


NAMES = sorted(
    name
    for name in dir(Device)
    if not name.startswith("_") and not callable(getattr(Device(""), name))
)


@given(st.lists(events(), max_size=12), st.data())
def test_report_without_news_changes_only_telemetry(
    found: list[Event], data: st.DataObject
) -> None:
    fleet = Fleet()
    for event in found:
        fleet.apply(event)
    for udid in list(fleet.macs()):
        before = fleet.merged_device(udid)
        if before.is_partial:
            continue
        report = data.draw(reports_without_news(before, NOW))
        news = fleet.apply(report).is_material
        after = fleet.merged_device(udid)
        if not news:
            changed = {name for name in NAMES if getattr(before, name) != getattr(after, name)}
            assert changed <= CHANGED_BY_EVERY_REPORT
