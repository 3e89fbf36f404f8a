"""Every topic: its name, what keys and carries it, how it is split, how long it is kept.

Nothing is compacted. Compaction keeps what was written last, and these folds go by when a fact
was true: a late copy of an old fact would push out the newer one. State is compacted where it
belongs, in the tables' own changelogs.

A new topic is one more `Topic` in TOPICS, or in INTERNAL_TOPICS where it is nobody else's to
read; `drydock topics` makes it.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from struct import Struct
from typing import Final

from schemas.attempts import AttemptRecord
from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    MAX_EVENT_BYTES,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    HaltClearedEvent,
    HaltSetEvent,
    InventoryEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    PolicyChangedEvent,
    TokenUpdatedEvent,
)
from schemas.feeds import FeedState
from schemas.model import WireModel

# What is keyed by UDID is partitioned alike, so that one worker owns all there is of a Mac. The
# count is for good: with another one every key moves.
DEVICE_PARTITIONS: Final = 32
# As many workers can share the sites.
SITE_PARTITIONS: Final = 8
# As many executors of one site can share its work.
JOB_PARTITIONS: Final = 4
REPLICATION: Final = 3
# What `schemas.envelope` accepts as an event has to fit into a topic, key and headers included.
MAX_MESSAGE_BYTES: Final = MAX_EVENT_BYTES + 64 * 1024


class Partitioning(StrEnum):
    """What a topic's partitions mean to its readers, and so what one more of them would break."""

    DEVICE = "device"
    """By UDID, and one worker owns a Mac: all such topics have one count, for good."""
    SITE = "site"
    """By site, and one worker owns a site: all such topics have one count, for good."""
    SITE_JOBS = "site-jobs"
    """By UDID, shared by a site's executors: a Mac's orders keep their order."""
    WHOLE = "whole"
    """Read from end to end by everybody, in one order: one partition."""
    FREE = "free"
    """No order and no owner: partitions may be added at any time."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic. `name` may hold one `{parameter}`; `key` says in words what the key is.

    `models` are all that may be in it, each as JSON. `retention` None is for ever. `settings`
    are topic settings of Kafka beside those that `topic_settings` gives to every topic.
    """

    name: str
    key: str
    partitioning: Partitioning
    models: tuple[type[WireModel], ...]
    partitions: int
    retention: timedelta | None
    compacted: bool
    description: str
    settings: tuple[tuple[str, str], ...] = ()


INVENTORY: Final = Topic(
    name="drydock.inventory.v1",
    key="UDID, or the serial number where the source knows no UDID",
    partitioning=Partitioning.DEVICE,
    models=(InventoryEvent,),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=14),
    compacted=False,
    description=("What Macs are, as their inventory sources report it."),
)
CHECKINS: Final = Topic(
    name="drydock.checkins.v1",
    key="UDID",
    partitioning=Partitioning.DEVICE,
    models=(
        AuthenticatedEvent,
        TokenUpdatedEvent,
        CheckedOutEvent,
        CommandReportedEvent,
        BootstrapTokenEvent,
        DdmStatusEvent,
    ),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=30),
    compacted=False,
    description=("What the MDM server saw of Macs."),
)
ADVISORIES: Final = Topic(
    name="drydock.advisories.v1",
    key="advisory id",
    partitioning=Partitioning.WHOLE,
    models=(
        AdvisoryPublishedEvent,
        AdvisorySeverityRaisedEvent,
        AdvisoryNarrowedEvent,
        AdvisoryRetractedEvent,
    ),
    partitions=1,
    retention=None,
    compacted=False,
    description=(
        "What Apple released, and what is known of its holes. Read whole by every worker."
    ),
)
CONTROL: Final = Topic(
    name="drydock.control.v1",
    key="event subject: what the fact is about",
    partitioning=Partitioning.WHOLE,
    models=(
        PolicyChangedEvent,
        HaltSetEvent,
        HaltClearedEvent,
        ApprovalGrantedEvent,
        ApprovalDeniedEvent,
    ),
    partitions=1,
    retention=None,
    compacted=False,
    description=("What people decided: policy, halts, approvals. Read whole by every worker."),
)
ORDERS: Final = Topic(
    name="drydock.orders.v1",
    key="UDID",
    partitioning=Partitioning.DEVICE,
    models=(JobIssuedEvent, JobSupersededEvent),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=30),
    compacted=False,
    description=(
        "Jobs as they were decided and withdrawn, before their site has a slot for "
        "them: with the results, all that a Mac's jobs are folded from."
    ),
)
JOBS: Final = Topic(
    name="drydock.jobs.{site}.v1",
    key="UDID",
    partitioning=Partitioning.SITE_JOBS,
    models=(JobIssuedEvent, JobSupersededEvent),
    partitions=JOB_PARTITIONS,
    retention=timedelta(days=14),
    compacted=False,
    description=(
        "Signed orders for one site's executors, each Mac's in order. A job expires "
        "long before the topic."
    ),
)
RESULTS: Final = Topic(
    name="drydock.results.v1",
    key="UDID",
    partitioning=Partitioning.DEVICE,
    models=(JobResultedEvent,),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=30),
    compacted=False,
    description=("What came of jobs, told by the sites' executors."),
)
DECISIONS: Final = Topic(
    name="drydock.decisions.v1",
    key="UDID",
    partitioning=Partitioning.DEVICE,
    models=(DecisionRecord,),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=30),
    compacted=False,
    description=("Every decision with its inputs: what replay computes again."),
)
DEAD_LETTERS: Final = Topic(
    name="drydock.dead-letters.v1",
    key="SHA-256 of the bytes set aside",
    partitioning=Partitioning.FREE,
    models=(DeadLetter,),
    partitions=4,
    retention=timedelta(days=90),
    compacted=False,
    description=("Inputs that could not be used, with the reason and their bytes."),
)

TOPICS: Final = (
    INVENTORY,
    CHECKINS,
    ADVISORIES,
    CONTROL,
    ORDERS,
    JOBS,
    RESULTS,
    DECISIONS,
    DEAD_LETTERS,
)

# Topics that are a worker's own state: not part of the contract, so not published, but made
# and watched like the others. Kafka keeps them by key: `compacted=True`.
ATTEMPTS: Final = Topic(
    name="drydock.attempts.{site}.v1",
    key="job id, in the partition that the job's order has",
    partitioning=Partitioning.SITE_JOBS,
    models=(AttemptRecord,),
    partitions=JOB_PARTITIONS,
    retention=None,
    compacted=True,
    description=("The journal of a site's executors: what a successor must know."),
    # It is read whole at every change of hands: old states go soon, not after Kafka's week.
    settings=(
        ("min.cleanable.dirty.ratio", "0.2"),
        ("segment.bytes", str(64 * 1024 * 1024)),
        ("segment.ms", str(6 * 3600 * 1000)),
    ),
)
_STATE_SETTINGS: Final = (
    ("min.cleanable.dirty.ratio", "0.2"),
    # A worker that was thought dead may still write for a moment: both rows are there to tell.
    ("min.compaction.lag.ms", str(3600 * 1000)),
    ("segment.bytes", str(256 * 1024 * 1024)),
    ("segment.ms", str(6 * 3600 * 1000)),
)
STATE: Final = Topic(
    name="drydock.state.v1",
    key="UDID",
    partitioning=Partitioning.DEVICE,
    models=(),
    partitions=DEVICE_PARTITIONS,
    retention=None,
    compacted=True,
    description=("What workers know of each Mac: its reports folded, its jobs, its last answer."),
    settings=_STATE_SETTINGS,
)
DISPATCH: Final = Topic(
    name="drydock.dispatch.v1",
    key="site",
    partitioning=Partitioning.SITE,
    models=(JobIssuedEvent, JobSupersededEvent, JobResultedEvent),
    partitions=SITE_PARTITIONS,
    retention=timedelta(days=14),
    compacted=False,
    description=(
        "A site's jobs on their way to its executors: those that want a slot, and those "
        "that gave one back."
    ),
)
DISPATCH_STATE: Final = Topic(
    name="drydock.dispatch-state.v1",
    key="job id, in the partition of its site",
    partitioning=Partitioning.SITE,
    models=(),
    partitions=SITE_PARTITIONS,
    retention=None,
    compacted=True,
    description=("What waits for a site's slots, and who has them."),
    settings=_STATE_SETTINGS,
)
FEEDS: Final = Topic(
    name="drydock.feeds.v1",
    key="the feed's name",
    partitioning=Partitioning.WHOLE,
    models=(FeedState,),
    partitions=1,
    retention=None,
    compacted=True,
    description=(
        "What each advisory feed has said so far. Written in one transaction with the "
        "advisories that tell of it; who has its partition polls."
    ),
    settings=_STATE_SETTINGS,
)
INTERNAL_TOPICS: Final[tuple[Topic, ...]] = (ATTEMPTS, STATE, DISPATCH, DISPATCH_STATE, FEEDS)


@lru_cache(maxsize=4096)
def jobs_topic(site: str) -> str:
    """The name of a site's job topic."""
    return JOBS.name.format(site=site)


def attempts_topic(site: str) -> str:
    """The name of the topic with a site's journal."""
    return ATTEMPTS.name.format(site=site)


def topic_settings(topic: Topic, replication: int) -> dict[str, str]:
    """The Kafka settings of a topic that do not depend on a cluster's defaults, by their name.

    https://kafka.apache.org/documentation/#topicconfigs. What is acknowledged survives the loss
    of one broker (three copies, two of them written before the acknowledgement), and no copy that
    is behind becomes the leader. Compression is the producer's: a cluster that packs again with
    what the Python clients lack would make its topics unreadable for them.
    """
    kept = -1 if topic.retention is None else round(topic.retention.total_seconds() * 1000)
    settings = {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "compression.type": "producer",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "min.insync.replicas": "2" if replication >= 3 else "1",
        "retention.bytes": "-1",
        "retention.ms": str(kept),
        "unclean.leader.election.enable": "false",
    }
    return settings | dict(topic.settings)


# Sites are few, and a Mac is mostly asked for again at once.
@lru_cache(maxsize=4096)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key among `partitions`: murmur2 of its UTF-8 bytes, sign bit dropped.

    The default partitioner of Java, kafka-python, aiokafka and Faust alike for keys that are not
    null (Utils.murmur2 and Utils.toPositive in org.apache.kafka.common.utils). Raises ValueError
    for less than one partition and for text that UTF-8 cannot hold (a lone surrogate).
    """
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}")
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


_WORD: Final = Struct("<I")


def _murmur2(data: bytes) -> int:
    word, multiplier = 0xFFFFFFFF, 0x5BD1E995
    whole = len(data) & ~3
    hashed = 0x9747B28C ^ len(data)
    for (part,) in _WORD.iter_unpack(data[:whole]):
        block = part * multiplier & word
        block = (block ^ (block >> 24)) * multiplier & word
        hashed = (hashed * multiplier & word) ^ block
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * multiplier & word
    hashed = (hashed ^ (hashed >> 13)) * multiplier & word
    return hashed ^ (hashed >> 15)
