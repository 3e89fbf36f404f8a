"""The access that `drydock topics acl` gives, on a broker with SCRAM and the ACL authorizer.

One broker for all. Its PLAINTEXT address is that of the administrator; programs use the other one.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.admin import UserScramCredentialUpsertion  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    KafkaError,
    TopicAuthorizationFailedError,
)
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from pipeline.provisioning.acls import Access, Operation, Program, Resource, default_login
from pipeline.provisioning.cluster import connected
from runtime.kafka import KafkaConnection, SaslMechanism, SecurityProtocol
from tests.kafka.brokers import (
    ROOT,
    SHORT_LIVED,
    KafkaCluster,
    free_ports,
    missing_parts,
)
from tests.kafka.gateways import STAMP_KEY
from tests.kafka.started import DRYDOCK, started
from tests.kafka.topics import PARTITIONS, make_topics

SITES = ("london", "tokyo")
PASSWORD = "a-password-of-the-tests"
STRANGER = "another-producer"
LOGINS = (
    *(default_login(program) for program in Program if program is not Program.AGENT),
    *(default_login(Program.AGENT, site) for site in SITES),
    STRANGER,
)


@dataclass
class Cluster:
    """A broker with an address for the administrator, and one for logins."""

    admin: str
    bootstrap: str

    def connection(self, login: str) -> KafkaConnection:
        return KafkaConnection(
            bootstrap=self.bootstrap,
            security_protocol=SecurityProtocol.SASL_PLAINTEXT,
            sasl_mechanism=SaslMechanism.SCRAM_SHA_512,
            sasl_username=login,
            sasl_password=PASSWORD,
            request_timeout_s=10,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    lacking = missing_parts()
    if lacking:
        pytest.skip(f"no Kafka: {lacking}")
    *ports, scram = free_ports(3)
    admin, programs = f"127.0.0.1:{ports[0]}", f"127.0.0.1:{scram}"
    listeners = f"PLAINTEXT://{admin},SASL_PLAINTEXT://{programs}"
    broker = KafkaCluster(
        1,
        tmp_path_factory.mktemp("kafka"),
        ports,
        jvm=SHORT_LIVED,
        extra={
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{ports[1]}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common"
            ".security.scram.ScramLoginModule required;",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        },
    )
    try:
        broker.start()
        make_topics(admin, *SITES)
        with closing(KafkaAdminClient(bootstrap_servers=admin)) as client:
            made = client.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(login, "SCRAM-SHA-512", PASSWORD) for login in LOGINS]
            )
            assert not any(made.values()), made
        yield Cluster(admin, programs)
    finally:
        broker.kill()


@pytest.fixture(scope="module")
def allowed(cluster: Cluster) -> Cluster:
    """The cluster after `drydock topics acl --apply`."""
    done = acl(cluster, "--apply")
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["result"] for line in done.stdout.splitlines()} == {"done"}
    return cluster


def acl(cluster: Cluster, *options: str) -> "subprocess.CompletedProcess[str]":
    where = ("--sites", ",".join(SITES), "--bootstrap", cluster.admin, "--json")
    command = [*DRYDOCK, "topics", "acl", *where, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


Act = Callable[[KafkaConnection, str], None]


def write(connection: KafkaConnection, topic: str) -> None:
    with closing(KafkaProducer(**connection.producer_options(timeout_s=10))) as producer:
        producer.send(topic, key=b"k", value=b"v").get(10)


def read(connection: KafkaConnection, topic: str) -> None:
    with closing(KafkaConsumer(**connection.consumer_options())) as consumer:
        if topic not in consumer.topics():  # a topic without any access is not shown
            raise TopicAuthorizationFailedError(topic)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        consumer.poll(timeout_ms=300)


def join(connection: KafkaConnection, group: str) -> None:
    """Commit an offset in the group, for a topic that the login reads."""
    topic = "drydock.control.v1" if "feeds" not in group else "drydock.feeds.v1"
    with closing(KafkaConsumer(**connection.consumer_options(group))) as consumer:
        consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(0, "", -1)})


def fence(connection: KafkaConnection, transactional_id: str) -> None:
    options = connection.producer_options(timeout_s=10) | {"transactional_id": transactional_id}
    with closing(KafkaProducer(**options)) as producer:
        producer.init_transactions()


def create(connection: KafkaConnection, topic: str) -> None:
    with closing(KafkaAdminClient(**connection.client_options())) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})


def allow(connection: KafkaConnection, login: str) -> None:
    """Allow a login to write the jobs of every site."""
    wanted = Access(
        f"User:{login}", Resource.TOPIC, "drydock.jobs.", Operation.WRITE, is_prefix=True
    )
    with connected(connection, 10) as cluster:
        refusal = cluster.allow([wanted])[wanted]
    if refusal is not None:
        raise KafkaError(refusal)


ALLOWED: list[tuple[str, Act, str]] = [
    ("drydock-gateway", write, "drydock.inventory.v1"),
    ("drydock-gateway", write, "drydock.checkins.v1"),
    ("drydock-gateway", write, "drydock.advisories.v1"),
    ("drydock-gateway", write, "drydock.dead-letters.v1"),
    ("drydock-feeds", write, "drydock.advisories.v1"),
    ("drydock-feeds", read, "drydock.feeds.v1"),
    ("drydock-feeds", join, "drydock-feeds"),
    ("drydock-feeds", fence, "drydock.feeds"),
    ("drydock-worker", read, "drydock.inventory.v1"),
    ("drydock-worker", read, "drydock.control.v1"),
    ("drydock-worker", write, "drydock.jobs.london.v1"),
    ("drydock-worker", write, "drydock.queries.tokyo.v1"),
    ("drydock-worker", write, "drydock.decisions.v1"),
    ("drydock-worker", write, "drydock.halts.v1"),
    ("drydock-worker", join, "drydock-worker"),
    ("drydock-agent-london", read, "drydock.jobs.london.v1"),
    ("drydock-agent-london", read, "drydock.checkins.v1"),
    ("drydock-agent-london", read, "drydock.halts.v1"),
    ("drydock-agent-london", write, "drydock.results.v1"),
    ("drydock-agent-london", join, "drydock.agent.london"),
    ("drydock-agent-london", fence, "drydock.attempts.london.0"),
    ("drydock-operator", write, "drydock.control.v1"),
    ("drydock-operator", read, "drydock.halts.v1"),
    ("drydock-topics", create, "drydock.jobs.paris.v1"),
    ("drydock-on-call", read, "drydock.decisions.v1"),
    ("drydock-on-call", read, "drydock.dead-letters.v1"),
    ("drydock-query", read, "drydock.inventory.v1"),
    ("drydock-query", read, "drydock.decisions.v1"),
]
FORBIDDEN: list[tuple[str, Act, str]] = [
    ("drydock-gateway", write, "drydock.control.v1"),
    ("drydock-gateway", write, "drydock.jobs.london.v1"),
    ("drydock-gateway", write, "drydock.results.v1"),
    ("drydock-gateway", read, "drydock.checkins.v1"),
    ("drydock-feeds", write, "drydock.inventory.v1"),
    ("drydock-feeds", write, "drydock.control.v1"),
    ("drydock-feeds", join, "drydock-worker"),
    ("drydock-worker", write, "drydock.checkins.v1"),
    ("drydock-worker", write, "drydock.inventory.v1"),
    ("drydock-worker", write, "drydock.advisories.v1"),
    ("drydock-worker", write, "drydock.control.v1"),
    ("drydock-worker", fence, "drydock.attempts.london.0"),
    ("drydock-agent-london", read, "drydock.jobs.tokyo.v1"),
    ("drydock-agent-london", read, "drydock.attempts.tokyo.v1"),
    ("drydock-agent-london", write, "drydock.attempts.tokyo.v1"),
    ("drydock-agent-london", write, "drydock.jobs.london.v1"),
    ("drydock-agent-london", write, "drydock.checkins.v1"),
    ("drydock-agent-london", write, "drydock.control.v1"),
    ("drydock-agent-london", write, "drydock.halts.v1"),
    ("drydock-agent-london", fence, "drydock.attempts.tokyo.0"),
    ("drydock-agent-london", join, "drydock.agent.tokyo"),
    ("drydock-operator", write, "drydock.inventory.v1"),
    ("drydock-operator", write, "drydock.jobs.london.v1"),
    ("drydock-operator", write, "drydock.halts.v1"),
    ("drydock-topics", write, "drydock.control.v1"),
    ("drydock-topics", allow, "drydock-topics"),
    ("drydock-on-call", write, "drydock.control.v1"),
    ("drydock-on-call", create, "drydock.jobs.rome.v1"),
    ("drydock-on-call", join, "drydock-worker"),
    ("drydock-query", write, "drydock.decisions.v1"),
    ("drydock-query", write, "drydock.control.v1"),
    ("drydock-query", join, "drydock-worker"),
    ("drydock-query", read, "drydock.state.v1"),
    (STRANGER, write, "drydock.inventory.v1"),
    (STRANGER, read, "drydock.inventory.v1"),
]


def name_of(act: tuple[str, Act, str]) -> str:
    login, done, target = act
    return f"{login} {done.__name__} {target}"


@pytest.mark.parametrize("act", ALLOWED, ids=map(name_of, ALLOWED))
def test_program_may_do_what_it_needs(allowed: Cluster, act: tuple[str, Act, str]) -> None:
    login, done, target = act
    done(allowed.connection(login), target)


@pytest.mark.parametrize("act", FORBIDDEN, ids=map(name_of, FORBIDDEN))
def test_program_may_do_nothing_else(allowed: Cluster, act: tuple[str, Act, str]) -> None:
    login, done, target = act
    with pytest.raises(KafkaError) as refused:
        done(allowed.connection(login), target)
    assert "AuthorizationFailed" in repr(refused.value)


def test_repeated_apply_changes_nothing(allowed: Cluster) -> None:
    done = acl(allowed, "--apply")
    assert {json.loads(line)["result"] for line in done.stdout.splitlines()} == {"exists"}


def test_cluster_without_an_authorizer_is_one_line(kafka: KafkaCluster, tmp_path: Path) -> None:
    done = acl(Cluster(kafka.bootstrap, ""), "--apply")
    assert done.returncode == 2
    assert "SecurityDisabled" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def environment(login: str) -> dict[str, str]:
    return {
        "DRYDOCK_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "DRYDOCK_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "DRYDOCK_KAFKA_SASL_USERNAME": login,
        "DRYDOCK_KAFKA_SASL_PASSWORD": PASSWORD,
        "DRYDOCK_STAMP_KEYS": STAMP_KEY,
    }


def run(allowed: Cluster, login: str, *command: str) -> None:
    """Run a command of Drydock with a login to its end, which is a success."""
    done = subprocess.run(
        [*DRYDOCK, *command, "--bootstrap", allowed.bootstrap],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment(login),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def program(
    allowed: Cluster, login: str, folder: Path, *command: str
) -> AbstractContextManager[str]:
    return started(folder, login, command, allowed.bootstrap, environment(login))


@pytest.mark.timeout(300)  # starts ten processes: 40 s, minutes on a loaded machine
def test_programs_work_with_their_access(allowed: Cluster, tmp_path: Path) -> None:
    keys = str(tmp_path / "keys")
    for purpose in ("service", "records"):
        subprocess.run([*DRYDOCK, "keys", "make", "--dir", keys, "--purpose", purpose], check=True)
    sizes = ("--sites", ",".join(SITES), "--partitions", str(PARTITIONS), "--replication", "1")
    run(allowed, "drydock-topics", "topics", "apply", *sizes)
    policy = ROOT / "examples" / "policy.yaml"
    run(allowed, "drydock-operator", "policy", "publish", str(policy), "--keys", keys)
    run(allowed, "drydock-operator", "halt", "site:tokyo", "--why", "a test", "--keys", keys)
    feed = tmp_path / "sofa.json"
    feed.write_text('{"OSVersions": []}')
    feeds = ("feeds", "--once", "--sofa", str(feed), "--gdmf", "none", "--kev", "none")
    done = subprocess.run(
        [*DRYDOCK, *feeds, "--data-dir", str(tmp_path / "feeds"), "--bootstrap", allowed.bootstrap],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment("drydock-feeds"),
    )
    assert "AuthorizationFailed" not in done.stderr, done.stderr
    signing = ("--keys", keys)
    with (
        program(allowed, "drydock-gateway", tmp_path, "gateway", "--insecure-loopback", *signing),
        program(allowed, "drydock-worker", tmp_path, "worker", *signing),
        program(allowed, "drydock-agent-london", tmp_path, "agent", "--site", "london", *signing),
        program(allowed, "drydock-query", tmp_path, "query", *signing),
    ):
        pass
    run(allowed, "drydock-on-call", "replay", "--kafka", "--verify", *signing)
    logs = [path.read_text() for path in tmp_path.glob("*.log")]
    assert len(logs) == 4
    assert not [log for log in logs if "AuthorizationFailed" in log or "not authorized" in log]
