"""Assignment of partitions that respects refused partitions.

Kafka has no request to give one partition back. So a member that cannot work on a partition names
it in the metadata of its next join, and the leader of the group assigns it to another member.
"""

from collections.abc import Sequence
from typing import Any, Final

from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.coordinator.assignors.sticky.sticky_assignor import (  # type: ignore[import-untyped]
    StickyPartitionAssignor,
)
from kafka.protocol.consumer.metadata import (  # type: ignore[import-untyped]
    ConsumerProtocolAssignment,
)

# No topic can have this name. It is sent in the list of former partitions, which a leader without
# this class ignores for an unknown topic: versions with and without it can share a group.
_REFUSED: Final = "drydock refused"


class RefusalAssignor(StickyPartitionAssignor):  # type: ignore[misc]
    """The sticky assignor of kafka-python, which moves refused partitions. One topic in a group.

    A partition that its member refuses goes to the member with the fewest partitions that does not
    refuse it, in exchange for another one if that member has more. If all members refuse it, it
    stays. `refused` are the partitions that this member refuses from its next join on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: frozenset[int] = frozenset()

    def metadata(self, topics: Any) -> Any:
        """Return the metadata of this member for its join."""
        own = self.member_assignment
        if self.refused:
            refused = [TopicPartition(_REFUSED, number) for number in sorted(self.refused)]
            own = [*(own or []), *refused]
        return self._metadata(topics, own, self.generation)

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        """Return the assignment of each member, by member id."""
        refused = {member.member_id: _refused(member.metadata) for member in members}
        assigned = super().assign(cluster, members)
        owned = {member_id: set(one.partitions()) for member_id, one in assigned.items()}
        for member_id, numbers in sorted(refused.items()):
            for each in sorted(each for each in owned[member_id] if each.partition in numbers):
                others = [one for one in owned if each.partition not in refused[one]]
                if others:
                    other = min(others, key=lambda one: (len(owned[one]), one))
                    owned[member_id].remove(each)
                    wanted = sorted(one for one in owned[other] if one.partition not in numbers)
                    if wanted and len(owned[other]) > len(owned[member_id]):
                        owned[other].remove(wanted[0])
                        owned[member_id].add(wanted[0])
                    owned[other].add(each)
        return {member_id: self._encode(partitions) for member_id, partitions in owned.items()}

    @classmethod
    def parse_member_metadata(cls, metadata: Any) -> Any:
        """Return the metadata of a member, without its refused partitions."""
        parsed = super().parse_member_metadata(metadata)
        return parsed._replace(
            partitions=[each for each in parsed.partitions if each.topic != _REFUSED]
        )

    def _encode(self, partitions: set[TopicPartition]) -> Any:
        by_topic: dict[str, list[int]] = {}
        for each in sorted(partitions):
            by_topic.setdefault(each.topic, []).append(each.partition)
        return ConsumerProtocolAssignment(self.version, sorted(by_topic.items()), b"")


def _refused(metadata: Any) -> set[int]:
    """Return the partitions that a member refuses."""
    parsed = StickyPartitionAssignor.parse_member_metadata(metadata)
    return {each.partition for each in parsed.partitions if each.topic == _REFUSED}
