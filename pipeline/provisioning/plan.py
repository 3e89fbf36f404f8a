"""Compares the wanted topics with the topics of a cluster. Pure.

It also has the rules of allowed changes: no topic is deleted, no partition count is reduced, and
topics of one key space keep one partition count.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from schemas.topics import INTERNAL_TOPICS, JOBS, TOPICS, Partitioning, Topic, topic_settings

PREFIX = "drydock."
# All topics of one of these key spaces need one count: a key is then in the same partition of
# each. With another count, keys move to other partitions.
SAME_COUNT = (Partitioning.DEVICE, Partitioning.SITE, Partitioning.SITE_JOBS)


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic as `schemas.topics` defines it, with its numbers for one cluster."""

    name: str
    partitioning: Partitioning
    partitions: int
    replication: int
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ActualTopic:
    """A topic of a cluster.

    `replication` is the lowest of its partitions. `settings` are all values in effect, defaults of
    the broker included; `own` are the names of those set on the topic itself.
    """

    name: str
    partitions: int
    replication: int
    settings: Mapping[str, str]
    own: frozenset[str] = frozenset()


class TopicChange(StrEnum):
    """The kind of a difference, which is also the kind of the change that removes it."""

    CREATE = "create"
    SETTING = "setting"
    PARTITIONS = "partitions"
    REPLICATION = "replication"


@dataclass(frozen=True, slots=True)
class TopicDifference:
    """One difference between a wanted topic and the cluster.

    `setting` is None except for `TopicChange.SETTING`; `actual` is None if the topic is missing.
    `obstacle` is the reason why the change is not allowed; None if it is.
    """

    topic: str
    change: TopicChange
    setting: str | None
    actual: str | None
    wanted: str
    obstacle: str | None = None


def wanted_topics(
    sites: Sequence[str], partitions: int, replication: int, topics: Iterable[Topic] | None = None
) -> list[WantedTopic]:
    """Return every topic of `topics` (default: all of Drydock's), sorted by name.

    A topic with `{site}` in its name is returned once for each of `sites`. `partitions` is the
    count of the topics of the device key space; the others keep the count of their definition.
    `replication` is the number of copies of every topic.
    """
    every = (*TOPICS, *INTERNAL_TOPICS) if topics is None else topics
    return sorted(
        (
            WantedTopic(
                name=name,
                partitioning=topic.partitioning,
                partitions=partitions
                if topic.partitioning is Partitioning.DEVICE
                else topic.partitions,
                replication=replication,
                settings=topic_settings(topic, replication),
            )
            for topic in every
            for name in (
                [topic.name.format(site=site) for site in sites]
                if "{site}" in topic.name
                else [topic.name]
            )
        ),
        key=lambda topic: topic.name,
    )


def differences(
    wanted: Sequence[WantedTopic],
    actual: Mapping[str, ActualTopic],
    *,
    brokers: int,
    grow: bool = False,
) -> list[TopicDifference]:
    """Return all differences between `wanted` and `actual` (by name), in the order of `wanted`.

    A change that is not allowed has an `obstacle`. `brokers` is the number of live brokers, which
    limits the replication of a new topic. `grow` allows more partitions in a key space, which moves
    keys to other partitions.
    """
    found = []
    for topic in wanted:
        there = actual.get(topic.name)
        out_of_step = _count_conflict(topic, wanted, actual, grow=grow)
        if there is None:
            found.append(_missing(topic, brokers, out_of_step))
        else:
            found += _compare(topic, there, out_of_step)
    return found


def _missing(topic: WantedTopic, brokers: int, out_of_step: str | None) -> TopicDifference:
    """Return the difference of a topic that the cluster lacks.

    Its obstacle is that the cluster has fewer brokers than copies, else `out_of_step` (the result
    of `_count_conflict`), which is None if there is no obstacle.
    """
    obstacle = out_of_step
    if topic.replication > brokers:
        obstacle = (
            f"replication {topic.replication} needs as many brokers; the cluster has {brokers}"
        )
    wanted = f"partitions={topic.partitions} replication={topic.replication}"
    return TopicDifference(topic.name, TopicChange.CREATE, None, None, wanted, obstacle)


def _compare(
    topic: WantedTopic, there: ActualTopic, out_of_step: str | None
) -> Iterator[TopicDifference]:
    """Yield the differences of a topic in partitions, then replication, then settings by name.

    More partitions have the obstacle `out_of_step` (the result of `_count_conflict`), None if it is
    None; a topic that is read whole, or has a leader, may not get more. Fewer partitions and
    another replication always have an obstacle, a setting never.
    """
    if there.partitions != topic.partitions:
        obstacle = out_of_step
        if there.partitions > topic.partitions:
            obstacle = "Kafka cannot reduce partitions"
        elif topic.partitioning is Partitioning.WHOLE:
            obstacle = "it is read whole, in one order"
        elif topic.partitioning is Partitioning.LEADER:
            obstacle = "the owner of its only partition is the leader"
        yield TopicDifference(
            topic.name,
            TopicChange.PARTITIONS,
            None,
            str(there.partitions),
            str(topic.partitions),
            obstacle,
        )
    if there.replication != topic.replication:
        yield TopicDifference(
            topic.name,
            TopicChange.REPLICATION,
            None,
            str(there.replication),
            str(topic.replication),
            "move replicas with kafka-reassign-partitions",
        )
    for name, value in sorted(topic.settings.items()):
        if there.settings.get(name) != value:
            now = there.settings.get(name, "")
            yield TopicDifference(topic.name, TopicChange.SETTING, name, now, value)


def _count_conflict(
    topic: WantedTopic,
    wanted: Sequence[WantedTopic],
    actual: Mapping[str, ActualTopic],
    *,
    grow: bool,
) -> str | None:
    """Return the reason why this topic must not get its wanted count; None if it may.

    All topics of a key space (SAME_COUNT) need one count. The reason is a topic of the key space
    with more partitions, or, without `grow`, one with fewer.
    """
    if topic.partitioning not in SAME_COUNT:
        return None
    counts = {
        each.name: actual[each.name].partitions
        for each in wanted
        if each.partitioning is topic.partitioning and each.name in actual
    }
    more = [name for name, count in counts.items() if count > topic.partitions]
    if more:
        return (
            f"{more[0]} of the same key space has {counts[more[0]]} partitions, and they cannot"
            " be reduced"
        )
    fewer = [name for name, count in counts.items() if count < topic.partitions]
    if fewer and not grow:
        there = "it" if topic.name in fewer else f"{fewer[0]} of the same key space"
        count = counts[topic.name if topic.name in fewer else fewer[0]]
        return (
            f"{there} has {count}, and keys move when partitions are added:"
            " see 'Adding partitions' in docs/operations.md, then --yes"
        )
    return None


def notes(wanted: Sequence[WantedTopic], actual: Mapping[str, ActualTopic]) -> list[str]:
    """Return one line of text for each addition in the cluster, sorted by topic.

    Additions are topics of Drydock's prefix that `wanted` does not have, and settings on a wanted
    topic that `wanted` does not set. They are not differences, and Drydock never changes them.
    """
    known = {topic.name: topic for topic in wanted}
    found = []
    for name, there in sorted(actual.items()):
        topic = known.get(name)
        if topic is None:
            if name.startswith(PREFIX):
                hint = " (a site not named by --sites?)" if _is_job_topic(name) else ""
                found.append(f"{name} is not in the table{hint}")
            continue
        found += [
            f"{name} sets {setting}={there.settings.get(setting)}, which is not in the table"
            for setting in sorted(there.own - topic.settings.keys())
        ]
    return found


def _is_job_topic(name: str) -> bool:
    start, _, end = JOBS.name.partition("{site}")
    return name.startswith(start) and name.endswith(end)
