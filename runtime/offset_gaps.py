"""Finds records of a partition that were deleted or skipped before they were processed. Pure.

It compares four offsets when a partition is assigned: `kept` with the state, the committed one, and
the begin and end of the log.

| committed by | begin | end | result |
| --- | --- | --- | --- |
| this program | before the next offset | | no gap |
| this program | after the next offset | | records were deleted |
| another program, equal to `kept` | before it | | no gap |
| another program, higher than `kept` | | | moved; the records between are skipped |
| another program, lower than `kept` | | | moved; records are processed again |
| no program, although `kept` is known | before `kept` | | moved; records are processed again |
| any | | before `kept` | cut: the topic was created again, or lost its end |

A program marks its commits with COMMIT_METADATA: other tools leave the metadata empty.
"""

from typing import Final, NamedTuple

COMMIT_METADATA: Final = "drydock"


class OffsetGap(NamedTuple):
    """Offsets that do not agree.

    `expected` is the next offset to process according to this program, `start` the offset from
    which it reads, `lost` the number of records between that it does not process. `is_moved`: the
    committed offset is not this program's. `is_cut`: the log ends before `expected`, so that an
    unknown number of further records is lost.
    """

    expected: int
    start: int
    lost: int
    is_moved: bool = False
    is_cut: bool = False


def find_gap(
    *, kept: int | None, committed: int | None, metadata: str, begin: int, end: int
) -> OffsetGap | None:
    """Return the gap of one partition; None if no record is lost and no offset was moved.

    `kept` is the next offset to process that was written with the state, which may be older than
    the state; `committed` that of the group, with its `metadata`. Each is None if there is none.
    Without both, the partition is new. A record at or after `kept` is possibly processed, one
    before it certainly.
    """
    is_own = committed is not None and metadata == COMMIT_METADATA
    known = [kept, committed if is_own or kept is None else None]
    expected = max((offset for offset in known if offset is not None), default=None)
    if expected is None:
        return None
    # The reset policy of the consumers is `earliest`.
    start = committed if committed is not None and begin <= committed <= end else begin
    is_cut = end < expected
    is_moved = kept is not None and not is_own and committed != kept and not is_cut
    if committed is None:
        is_moved = is_moved and begin < expected
    lost = 0 if is_cut else max(start - expected, 0)
    if not (lost or is_moved or is_cut):
        return None
    return OffsetGap(expected, start, lost, is_moved, is_cut)
