"""Assignment of a job topic's partitions, with real metadata of members."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.coordinator.assignors.sticky.sticky_assignor import (  # type: ignore[import-untyped]
    StickyPartitionAssignor,
)
from kafka.protocol.consumer.metadata import (  # type: ignore[import-untyped]
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
)

from agents.assignor import RefusalAssignor

TOPIC = "drydock.jobs.london.v1"


class Cluster:
    """The metadata of the topic."""

    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def topics(self) -> set[str]:
        return {TOPIC}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return self._partitions if topic == TOPIC else None


class Member:
    """A member as the leader sees it, after its metadata was sent."""

    def __init__(self, member_id: str, assignor: Any) -> None:
        self.member_id = member_id
        self.group_instance_id = member_id
        self.metadata = ConsumerProtocolSubscription.decode(assignor.metadata({TOPIC}).encode())


class Group:
    """The assignors of a group, and the generation."""

    def __init__(self, partitions: int, **assignors: Any) -> None:
        self.cluster = Cluster(partitions)
        self.assignors = assignors
        self.generation = 0

    def rebalance(self, leader: str) -> dict[str, set[int]]:
        """Let this member assign; return the partitions of each member."""
        self.generation += 1
        members = [Member(name, assignor) for name, assignor in self.assignors.items()]
        assigned = self.assignors[leader].assign(self.cluster, members)
        found = {}
        for name, assignor in self.assignors.items():
            received = ConsumerProtocolAssignment.decode(assigned[name].encode())
            assignor.on_assignment(received, self.generation)
            found[name] = {each.partition for each in received.partitions()}
        return found


def test_refused_partition_moves_and_returns_only_by_balance() -> None:
    group = Group(4, one=RefusalAssignor(), two=RefusalAssignor())
    before = group.rebalance("one")
    assert sorted(map(len, before.values())) == [2, 2]
    bad = min(before["one"])
    group.assignors["one"].refused = frozenset({bad})
    after = group.rebalance("two")
    assert bad in after["two"]
    assert after["one"] | after["two"] == {0, 1, 2, 3}
    group.assignors["one"].refused = frozenset()
    assert sorted(map(len, group.rebalance("one").values())) == [2, 2]


def test_partition_that_all_members_refuse_stays() -> None:
    group = Group(3, one=RefusalAssignor(), two=RefusalAssignor())
    before = group.rebalance("one")
    for assignor in group.assignors.values():
        assignor.refused = frozenset({0, 1, 2})
    assert group.rebalance("two") == before


def test_leader_of_an_earlier_version_ignores_refusals() -> None:
    group = Group(4, one=RefusalAssignor(), two=StickyPartitionAssignor())
    before = group.rebalance("two")
    group.assignors["one"].refused = frozenset(before["one"])
    assert group.rebalance("two") == before


def test_member_that_refuses_at_its_first_join_gets_the_others() -> None:
    group = Group(2, one=RefusalAssignor(), two=RefusalAssignor())
    group.assignors["one"].refused = frozenset({0})
    assert group.rebalance("one") == {"one": {1}, "two": {0}}


refusals = st.fixed_dictionaries(
    {name: st.frozensets(st.integers(0, 5)) for name in ("one", "two", "three")}
)


@given(st.lists(st.tuples(refusals, st.sampled_from(["one", "two", "three"])), max_size=5))
def test_each_partition_has_one_member_that_does_not_refuse_it_if_there_is_one(
    rounds: list[tuple[dict[str, frozenset[int]], str]],
) -> None:
    group = Group(6, one=RefusalAssignor(), two=RefusalAssignor(), three=RefusalAssignor())
    for refused, leader in rounds:
        for name, assignor in group.assignors.items():
            assignor.refused = refused[name]
        found = group.rebalance(leader)
        assert sorted(each for owned in found.values() for each in owned) == list(range(6))
        for name, owned in found.items():
            for each in owned & refused[name]:
                assert all(each in others for others in refused.values())


def test_partitions_of_a_real_assignment_are_topic_partitions() -> None:
    assignor = RefusalAssignor()
    Group(1, one=assignor).rebalance("one")
    assert assignor.member_assignment == [TopicPartition(TOPIC, 0)]
