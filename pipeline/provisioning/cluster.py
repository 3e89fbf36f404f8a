"""Reads and changes topics and access of a cluster. Only this module changes them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.admin import (  # type: ignore[import-untyped]
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError, for_code  # type: ignore[import-untyped]
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from pipeline.provisioning.acls import Access, Operation, Resource
from pipeline.provisioning.plan import ActualTopic, TopicChange, TopicDifference, WantedTopic
from runtime.kafka import KafkaConnection

TOPIC: Final = ConfigResourceType.TOPIC
# Longest wait for a change to show: brokers receive it from the controller with a delay.
SETTLE_S: Final = 10.0


class ClusterError(Exception):
    """A request to the cluster failed; the message is one line."""


class Cluster:
    """A connection to a cluster's topics. Every method may raise ClusterError."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin

    def brokers(self) -> int:
        """Return the number of brokers that are registered and not fenced."""
        with _cluster_errors("cannot read the brokers"):
            described = self._admin.describe_cluster()["brokers"]
        return sum(not broker.get("is_fenced", False) for broker in described)

    def topics(self) -> dict[str, ActualTopic]:
        """Return every topic of the cluster by its name, without Kafka's internal topics."""
        with _cluster_errors("cannot read the topics"):
            described = [t for t in self._admin.describe_topics() if not t["is_internal"]]
            if not described:
                return {}
            names = [topic["name"] for topic in described]
            settings = self._admin.describe_configs(
                [ConfigResource(TOPIC, name) for name in names], config_filter="all"
            )[TOPIC.name.lower()]
        return {topic["name"]: _actual(topic, settings[topic["name"]]) for topic in described}

    def apply(
        self, changes: Sequence[TopicDifference], wanted: Sequence[WantedTopic]
    ) -> dict[TopicDifference, str | None]:
        """Make these changes, and return for each the error of the cluster as one line, or None.

        None means that the cluster accepted the change. `wanted` has the topics that the changes
        name. `changes` must have no REPLICATION change: these are made by hand. A refused change
        does not prevent the others; a failed request raises ClusterError.
        """
        by_name = {topic.name: topic for topic in wanted}
        kinds = {kind: [c for c in changes if c.change is kind] for kind in TopicChange}
        created = self._create([by_name[c.topic] for c in kinds[TopicChange.CREATE]])
        grown = self._grow([by_name[c.topic] for c in kinds[TopicChange.PARTITIONS]])
        set_ = self._set(kinds[TopicChange.SETTING])
        errors = {
            TopicChange.CREATE: created,
            TopicChange.PARTITIONS: grown,
            TopicChange.SETTING: set_,
        }
        return {change: errors[change.change].get(change.topic) for change in changes}

    def access(self) -> set[Access]:
        """Return the access that the cluster allows; entries of a form that Access lacks are not.

        A cluster without an authorizer is an error.
        """
        anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
        allowed = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ALLOW, anything)
        with _cluster_errors("cannot read the access control lists"):
            found, _ = self._admin.describe_acls(allowed)
        return {access for each in found if (access := _access(each)) is not None}

    def allow(self, wanted: Sequence[Access]) -> dict[Access, str | None]:
        """Allow each of these; return for each the error of the cluster, or None."""
        if not wanted:
            return {}
        with _cluster_errors("cannot change the access control lists"):
            # One for each request: the response has no order for accepted and refused ones.
            done = {one: self._admin.create_acls([_acl(one)]) for one in wanted}
        return {
            one: result["failed"][0].__name__ if result["failed"] else None
            for one, result in done.items()
        }

    def wait_until_shown(self, wanted: Sequence[WantedTopic]) -> bool:
        """Return True as soon as the brokers show the wanted topics, False if not within 10 s.

        Partitions and settings are compared, replication is not.
        """

        def is_shown() -> bool:
            actual = self.topics()
            return all(
                topic.name in actual
                and actual[topic.name].partitions == topic.partitions
                and topic.settings.items() <= actual[topic.name].settings.items()
                for topic in wanted
            )

        again = Retrying(
            retry=retry_if_result(lambda done: not done),
            stop=stop_after_delay(SETTLE_S),
            wait=wait_fixed(0.2),
            retry_error_callback=lambda _: False,
        )
        return again(is_shown)

    def _create(self, topics: Sequence[WantedTopic]) -> dict[str, str | None]:
        """Create the topics; return for each name the error of the cluster, or None."""
        if not topics:
            return {}
        requested = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication,
                "configs": dict(topic.settings),
            }
            for topic in topics
        }
        with _cluster_errors("cannot create topics"):
            response = self._admin.create_topics(requested, raise_errors=False)
        return {each["name"]: _refusal(each) for each in response["topics"]}

    def _grow(self, topics: Sequence[WantedTopic]) -> dict[str, str | None]:
        """Give the topics their wanted partitions; return for each name its error, or None."""
        if not topics:
            return {}
        with _cluster_errors("cannot add partitions"):
            response = self._admin.create_partitions(
                {topic.name: topic.partitions for topic in topics}, raise_errors=False
            )
        return {each.name: _refusal(each.to_dict()) for each in response.results}

    def _set(self, changes: Sequence[TopicDifference]) -> dict[str, str | None]:
        """Change the settings of topics; return for each topic the cluster's error, or None."""
        by_topic: dict[str, dict[str, str]] = {}
        for change in changes:
            by_topic.setdefault(change.topic, {})[str(change.setting)] = change.wanted
        if not by_topic:
            return {}
        with _cluster_errors("cannot change settings"):
            # Incremental: other settings of the topic keep their values.
            response = self._admin.alter_configs(
                [ConfigResource(TOPIC, name, values) for name, values in by_topic.items()],
                incremental=True,
            )
        results = response[TOPIC.name.lower()]
        return {name: None if results[name] == "OK" else results[name] for name in by_topic}


@contextmanager
def connected(connection: KafkaConnection, timeout_s: float) -> Iterator[Cluster]:
    """Yield a Cluster with an open connection, which the end of the context closes.

    Raises ClusterError if no broker answers within `timeout_s` seconds. Each later request has the
    same limit.
    """
    limit = round(timeout_s * 1000)
    options = connection.client_options() | {
        "bootstrap_timeout_ms": limit,
        "request_timeout_ms": limit,
    }
    with _cluster_errors(f"no Kafka broker at {connection.bootstrap}"):
        admin = KafkaAdminClient(**options)
    try:
        yield Cluster(admin)
    finally:
        admin.close()


@contextmanager
def _cluster_errors(action: str) -> Iterator[None]:
    """Replace a KafkaError, OSError or ValueError by a ClusterError that starts with `action`."""
    try:
        yield
    except (KafkaError, OSError, ValueError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise ClusterError(f"{action}: {message}") from error


def _acl(access: Access) -> Any:
    kind = ACLResourcePatternType.PREFIXED if access.is_prefix else ACLResourcePatternType.LITERAL
    pattern = ResourcePattern(ResourceType[access.resource.name], access.name, kind)
    operation = ACLOperation[access.operation.name]
    return ACL(access.principal, "*", operation, ACLPermissionType.ALLOW, pattern)


def _access(acl: Any) -> Access | None:
    """Return an entry of the cluster; None for one of another form, such as for one host."""
    pattern = acl.resource_pattern
    if acl.host != "*" or pattern.resource_type.name not in Resource.__members__:
        return None
    if acl.operation.name not in Operation.__members__:
        return None
    return Access(
        acl.principal,
        Resource[pattern.resource_type.name],
        pattern.resource_name,
        Operation[acl.operation.name],
        pattern.pattern_type is ACLResourcePatternType.PREFIXED,
    )


def _actual(topic: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> ActualTopic:
    partitions = topic["partitions"]
    return ActualTopic(
        name=topic["name"],
        partitions=len(partitions),
        replication=min((len(each["replica_nodes"]) for each in partitions), default=0),
        settings={name: str(each["value"]) for name, each in settings.items()},
        own=frozenset(
            name
            for name, each in settings.items()
            if each["config_source"] == "DYNAMIC_TOPIC_CONFIG"
        ),
    )


def _refusal(response: Mapping[str, Any]) -> str | None:
    """Return name and message of the error in the response for one topic; None if accepted."""
    if not response["error_code"]:
        return None
    name = for_code(response["error_code"]).__name__
    return f"{name}: {response['error_message']}" if response.get("error_message") else str(name)
