"""The member of a consumer group that an agent is, and a rejoin that kafka-python forgets."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GroupMember:
    """Identity of an agent in the consumer group of its site.

    `name` survives a restart: an agent that returns within `session_s` gets its partitions back,
    and an older process with the same name is fenced (static membership, KIP-345).
    """

    site: str
    name: str
    session_s: float = 30.0

    @property
    def group(self) -> str:
        """Name of the site's consumer group."""
        return f"drydock.agent.{self.site}"

    @property
    def instance(self) -> str:
        """The `group.instance.id` of this member."""
        return f"{self.group}.{self.name}"


def rejoin_if_stuck(consumer: Any) -> None:
    """Request a rejoin for a consumer that is stuck in the state 'rebalancing', else do nothing.

    kafka-python 3.0.12: a change of the topic's metadata starts a rejoin. If the metadata changes
    back before the join completes, `need_rejoin()` turns False and the consumer stays in
    'rebalancing' forever: it commits nothing and sends no heartbeat.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - no public name shows this state
    if coordinator.rebalance_in_progress() and not coordinator.need_rejoin():
        request_rejoin(consumer)


def request_rejoin(consumer: Any) -> None:
    """Make the next poll of a consumer join its group again, with new metadata."""
    consumer._coordinator.request_rejoin()  # noqa: SLF001 - no public name does this
