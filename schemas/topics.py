"""All topics: name, key, models, partitions and retention.

The topics of the contract (TOPICS) are not compacted. Compaction keeps the record written last,
but folds compare the times of events: a late copy of an old event would replace a newer one. Only
INTERNAL_TOPICS with the state and journals of Drydock's own processes are compacted.

To add a topic, add a `Topic` to TOPICS, or to INTERNAL_TOPICS if no other program may read it;
`drydock topics` creates it.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

from schemas.attempts import AttemptRecord
from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    MAX_EVENT_BYTES,
    MEDIA_TYPE,
    AdvisoryCorrectedEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AttemptsResetEvent,
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CloudEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    HaltClearedEvent,
    HaltSetEvent,
    IdentitySettledEvent,
    InventoryEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    PolicyChangedEvent,
    StrikeClearedEvent,
    StrikeSetEvent,
    TokenUpdatedEvent,
)
from schemas.fast.murmur2 import murmur2
from schemas.feeds import FeedState
from schemas.model import WireModel
from schemas.signing import Signed

# All topics keyed by UDID have this count, so that one worker owns all records of a Mac. It cannot
# be changed later: keys would move to other partitions.
DEVICE_PARTITIONS: Final = 32
# Limits the number of workers that can share the sites.
SITE_PARTITIONS: Final = 8
# Limits the number of executors that can share the jobs of one site.
JOB_PARTITIONS: Final = 4
REPLICATION: Final = 3
Headers = tuple[tuple[str, bytes], ...]
# https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
# (3.3, structured mode). Without it a reader takes the record for an event in binary mode.
EVENT_HEADERS: Final[Headers] = (("content-type", MEDIA_TYPE.encode()),)
# Every event that `schemas.envelope` accepts must fit into a topic, with its key and headers.
MAX_MESSAGE_BYTES: Final = MAX_EVENT_BYTES + 64 * 1024


class Partitioning(StrEnum):
    """The meaning of a topic's partitions for its readers, which limits changes of their number."""

    DEVICE = "device"
    """By UDID; one worker owns a Mac. All such topics have the same count, which never changes."""
    SITE = "site"
    """By site; one worker owns a site. All such topics have the same count, which never changes."""
    SITE_JOBS = "site-jobs"
    """By UDID, shared by the executors of one site: the jobs of one Mac stay in order."""
    WHOLE = "whole"
    """One partition, which every reader reads completely, in one order."""
    LEADER = "leader"
    """One partition: the member of a group that owns it is the only one to do its work."""
    FREE = "free"
    """No order and no owner: partitions can be added at any time."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic. `name` may contain one `{parameter}`; `key` describes the key of its records.

    `models` are the types of its records, as JSON; empty if the rows have their own encoding.
    `retention` None keeps records forever. `settings` are Kafka's topic settings, in addition to
    those that `topic_settings` returns for every topic.
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

    @property
    def headers(self) -> Headers:
        """Headers of each record: those of a CloudEvent, or none."""
        is_events = bool(self.models) and all(issubclass(one, CloudEvent) for one in self.models)
        return EVENT_HEADERS if is_events else ()


INVENTORY: Final = Topic(
    name="drydock.inventory.v1",
    key="UDID, or the serial number if the source knows no UDID",
    partitioning=Partitioning.DEVICE,
    models=(InventoryEvent,),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=14),
    compacted=False,
    description=("Inventory reports of Macs."),
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
    description=("Check-ins, command results and status reports of Macs, from the MDM server."),
)
ADVISORIES: Final = Topic(
    name="drydock.advisories.v1",
    key="advisory id",
    partitioning=Partitioning.WHOLE,
    models=(
        AdvisoryPublishedEvent,
        AdvisorySeverityRaisedEvent,
        AdvisoryNarrowedEvent,
        AdvisoryCorrectedEvent,
        AdvisoryRetractedEvent,
    ),
    partitions=1,
    retention=None,
    compacted=False,
    description=("Apple's releases and their CVEs. Every worker reads the whole topic."),
)
CONTROL: Final = Topic(
    name="drydock.control.v1",
    key="subject of the event",
    partitioning=Partitioning.WHOLE,
    models=(
        PolicyChangedEvent,
        HaltSetEvent,
        HaltClearedEvent,
        ApprovalGrantedEvent,
        ApprovalDeniedEvent,
        AttemptsResetEvent,
        IdentitySettledEvent,
        StrikeSetEvent,
        StrikeClearedEvent,
    ),
    partitions=1,
    retention=None,
    compacted=False,
    description=(
        "Decisions of operators: policy, halts, approvals, resets of attempts, identities of Macs, "
        "struck statements about advisories. Every worker reads the whole topic."
    ),
)
HALTS: Final = Topic(
    name="drydock.halts.v1",
    key="scope of the halt",
    partitioning=Partitioning.WHOLE,
    models=(HaltSetEvent,),
    partitions=1,
    retention=None,
    compacted=False,
    description=(
        "Halts of an action at a site that Drydock itself sets. Operators end them in the control "
        "topic. Every worker and every agent reads the whole topic."
    ),
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
        "Jobs that were decided or withdrawn, before their site has capacity for them. A Mac's "
        "job history is folded from this topic and the results."
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
        "Signed jobs for the executors of one site, in order for each Mac. A job expires long "
        "before the topic's retention ends."
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
    description=("Results of jobs, from the sites' executors."),
)
DECISIONS: Final = Topic(
    name="drydock.decisions.v1",
    key="UDID",
    partitioning=Partitioning.DEVICE,
    models=(DecisionRecord,),
    partitions=DEVICE_PARTITIONS,
    retention=timedelta(days=30),
    compacted=False,
    description=("Every decision with its inputs, from which replay computes it again."),
)
DEAD_LETTERS: Final = Topic(
    name="drydock.dead-letters.v1",
    key="SHA-256 of the input's bytes",
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
    HALTS,
    CONTROL,  # after HALTS: of two topics with one event the later one is that of its senders
    ORDERS,
    JOBS,
    RESULTS,
    DECISIONS,
    DEAD_LETTERS,
)

# Only gateways and feeds write them; each event has their stamp.
INPUT_TOPICS: Final = (INVENTORY, CHECKINS, ADVISORIES)
# Agents of live sites read them; gateways sign their records.
REPORT_TOPICS: Final = (CHECKINS, INVENTORY)

# Topics with the state of Drydock's own processes. They are not part of the contract and not
# published, but they are created and monitored like the others.
ATTEMPTS: Final = Topic(
    name="drydock.attempts.{site}.v1",
    key="job id, in the partition that the job has in its site's topic",
    partitioning=Partitioning.SITE_JOBS,
    models=(AttemptRecord,),
    partitions=JOB_PARTITIONS,
    retention=None,
    compacted=True,
    description=("The journal of a site's executors, which a successor reads."),
    # A new owner reads the whole partition: compact old states within hours. Kafka's default keeps
    # them in the active segment for up to a week.
    settings=(
        ("min.cleanable.dirty.ratio", "0.2"),
        ("segment.bytes", str(64 * 1024 * 1024)),
        ("segment.ms", str(6 * 3600 * 1000)),
    ),
)
_STATE_SETTINGS: Final = (
    ("min.cleanable.dirty.ratio", "0.2"),
    # A worker that lost its partition may still write for a moment. Keep its rows beside those of
    # the new owner, so that a reader can compare their epochs.
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
    description=("The state of each Mac: its folded reports, its job history, its last decision."),
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
        "The jobs of a site on their way to its executors: those that need capacity, and those "
        "that no longer use it."
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
    description=("The jobs that wait for their site's capacity, and those that use it."),
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
        "The state of each advisory feed, written in one transaction with its advisories. The "
        "worker that owns the partition polls the feeds."
    ),
    settings=_STATE_SETTINGS,
)
QUERIES: Final = Topic(
    name="drydock.queries.{site}.v1",
    key="UDID",
    partitioning=Partitioning.LEADER,
    models=(Signed,),
    partitions=1,
    # A query expires within a day: then it is asked again.
    retention=timedelta(days=2),
    compacted=False,
    description=(
        "Signed read-only queries of the Macs of one site. The agent that owns the partition sends "
        "them, within the budget of each MDM server."
    ),
)
INTERNAL_TOPICS: Final[tuple[Topic, ...]] = (
    ATTEMPTS,
    STATE,
    DISPATCH,
    DISPATCH_STATE,
    FEEDS,
    QUERIES,
)


@lru_cache(maxsize=4096)
def jobs_topic(site: str) -> str:
    """Return the name of a site's job topic, such as `drydock.jobs.london.v1`."""
    return JOBS.name.format(site=site)


def attempts_topic(site: str) -> str:
    """Return the name of the topic with the journal of a site's executors."""
    return ATTEMPTS.name.format(site=site)


def queries_topic(site: str) -> str:
    """Return the name of the topic with the queries of a site's Macs."""
    return QUERIES.name.format(site=site)


def headers_of(name: str) -> list[tuple[str, bytes]]:
    """Return the headers of each record of a topic by its full name (`drydock.jobs.london.v1`).

    A topic that is not Drydock's has none. A list, since the Kafka clients accept no tuple.
    """
    return list(_headers_of(name))


@lru_cache(maxsize=4096)
def _headers_of(name: str) -> Headers:
    for topic in (*TOPICS, *INTERNAL_TOPICS):
        before, parameter, after = topic.name.partition("{site}")
        is_of_a_site = parameter and name.startswith(before) and name.endswith(after)
        if is_of_a_site or name == topic.name:
            return topic.headers
    return ()


def topic_settings(topic: Topic, replication: int) -> dict[str, str]:
    """Return the Kafka settings of a topic by name, so that no default of the cluster applies.

    https://kafka.apache.org/documentation/#topicconfigs. `replication` is the number of copies:
    from three on, `min.insync.replicas` is 2, else 1. With three replicas an acknowledged record
    survives the loss of one broker: two replicas have it before the acknowledgement, and a replica
    that is behind cannot become leader. Compression is left to the producer: a broker that
    recompresses with a codec that the Python clients lack would make the topic unreadable for them.
    """
    kept = -1 if topic.retention is None else round(topic.retention.total_seconds() * 1000)
    settings = {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "compression.type": "producer",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        # Retention follows one clock. With times of producers, Kafka 4 refuses the records of one
        # whose clock is an hour ahead (KIP-1030).
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if replication >= 3 else "1",
        "retention.bytes": "-1",
        "retention.ms": str(kept),
        "unclean.leader.election.enable": "false",
    }
    return settings | dict(topic.settings)


# Cached: sites are few, and a UDID is usually looked up several times in a row.
@lru_cache(maxsize=4096)
def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key: murmur2 of its UTF-8 bytes, sign bit dropped, modulo count.

    The default partitioner of Java, kafka-python, aiokafka and Faust for keys that are not null
    (Utils.murmur2 and Utils.toPositive in org.apache.kafka.common.utils). Raises ValueError for
    fewer than one partition, and for text that UTF-8 cannot encode (a lone surrogate).
    """
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}")
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
