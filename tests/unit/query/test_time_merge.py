"""Records of many partitions in the order of their time in Kafka."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.time_merge import READ_TOPICS, Partition, TimeMerge, TopicRecord

A, B = Partition(READ_TOPICS[0].name, 0), Partition(READ_TOPICS[1].name, 0)


def record(partition: Partition, offset: int, stored_ms: int) -> TopicRecord:
    return TopicRecord(*partition, offset, stored_ms, b"", b"")


def offsets(merge: TimeMerge) -> list[tuple[str, int]]:
    return [(one.topic, one.offset) for one in merge.pop()]


def test_partition_behind_its_end_is_waited_for() -> None:
    merge = TimeMerge([A, B])
    merge.add(A, [record(A, 0, 10), record(A, 1, 30)])
    assert offsets(merge) == []
    merge.add(B, [record(B, 0, 20)])
    assert offsets(merge) == [(A.topic, 0), (B.topic, 0)]
    assert merge.waiting(A) == 1
    merge.mark_at_end(B)
    assert offsets(merge) == [(A.topic, 1)]


def test_cause_comes_before_its_effect_within_a_millisecond() -> None:
    merge = TimeMerge([A, B])
    for partition in (B, A):
        merge.add(partition, [record(partition, 0, 5)])
        merge.mark_at_end(partition)
    assert offsets(merge) == [(A.topic, 0), (B.topic, 0)]
    assert not merge.is_behind


@st.composite
def partitions(draw: st.DrawFn) -> dict[Partition, list[TopicRecord]]:
    found = {}
    for number in range(draw(st.integers(1, 4))):
        partition = Partition(READ_TOPICS[number].name, 0)
        times = sorted(draw(st.lists(st.integers(0, 20), max_size=6)))
        found[partition] = [record(partition, at, ms) for at, ms in enumerate(times)]
    return found


@given(partitions(), st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_fetches(
    given_records: dict[Partition, list[TopicRecord]], random: object
) -> None:
    assert hasattr(random, "choice")
    wanted = sorted(
        (one for records in given_records.values() for one in records),
        key=lambda one: (one.stored_ms, [t.name for t in READ_TOPICS].index(one.topic)),
    )
    merge, left = (
        TimeMerge(given_records),
        {one: [*records] for one, records in given_records.items()},
    )
    found = []
    while left:
        partition = random.choice(sorted(left))
        if left[partition]:
            merge.add(partition, [left[partition].pop(0)])
        else:
            del left[partition]
            merge.mark_at_end(partition)
        found += list(merge.pop())
    assert found == wanted
