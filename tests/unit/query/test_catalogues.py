"""The catalogue of each order in which a worker can fold advisories and strikes."""

from itertools import accumulate

import pytest

from pipeline.query.catalogues import Catalogues
from pipeline.state.fleet import Fleet
from schemas.envelope import AdvisoryEvent, StrikeClearedEvent, StrikeSetEvent
from tests import factories as make

Record = AdvisoryEvent | StrikeSetEvent | StrikeClearedEvent

FIRST = make.release("26.1")
ADVISORIES = [FIRST, *(make.release(one) for one in ("26.2", "15.6", "15.7"))]


def digests(records: list[Record]) -> list[str]:
    """Return the digest of a worker's catalogue after each record."""
    fleet = Fleet()

    def fold(_: str, record: Record) -> str:
        fleet.apply(record)
        return fleet.advisories.digest

    return [*accumulate(records, fold, initial=fleet.advisories.digest)]


def with_strike(position: int) -> list[Record]:
    records: list[Record] = [*ADVISORIES]
    records.insert(position, make.struck(FIRST))
    return records


@pytest.mark.parametrize("folded_by_worker", range(len(ADVISORIES) + 1))
@pytest.mark.parametrize("folded_by_view", range(len(ADVISORIES) + 1))
def test_catalogue_of_a_worker_is_found_in_either_order_of_a_strike(
    folded_by_view: int, folded_by_worker: int
) -> None:
    catalogues = Catalogues()
    for record in with_strike(folded_by_view):
        catalogues.fold(record)
    for digest in digests(with_strike(folded_by_worker)):
        found = catalogues.find(digest)
        assert found is not None
        assert found.digest == digest


def test_catalogue_after_the_end_of_a_strike_is_found() -> None:
    later = make.release("26.3", day="2026-03-01")
    records = [FIRST, make.struck(FIRST, make.NOW), make.restored(FIRST, make.at("2030-01-01"))]
    catalogues = Catalogues()
    for record in (*records, later):
        catalogues.fold(record)
    assert len({*digests([*records, later])}) == 5
    assert all(catalogues.find(one) is not None for one in digests([*records, later]))
    assert catalogues.find("0" * 64) is None
