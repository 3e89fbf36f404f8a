"""The brokers of development and tests: start, stop, failures, errors, TLS."""

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]
from pydantic import SecretStr

from runtime.kafka import KafkaConnection, SaslMechanism, SecurityProtocol
from tests.kafka import kafka_up
from tests.kafka.brokers import ROOT, BrokerError, KafkaCluster, free_ports
from tests.waiting import wait_until


def create(connection: KafkaConnection, topic: str, replication: int) -> None:
    with KafkaAdminClient(**connection.client_options()) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": replication}})
        admin.wait_for_topics([topic])


def values(connection: KafkaConnection, topic: str, count: int) -> list[bytes]:
    options = connection.consumer_options() | {"consumer_timeout_ms": 30_000}
    with KafkaConsumer(topic, **options) as consumer:
        return [next(consumer).value for _ in range(count)]


@pytest.mark.parametrize("brokers", [0, 2, 5])
def test_cluster_has_one_or_three_brokers(brokers: int, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="1 broker or 3"):
        KafkaCluster(brokers, tmp_path, [])


def test_cluster_needs_two_ports_for_each_broker(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="need 2 ports"):
        KafkaCluster(1, tmp_path, [29092])


def test_free_ports_are_below_the_ephemeral_ports() -> None:
    ports = free_ports(10)
    assert len(set(ports)) == 10
    assert all(1024 < port < 32768 for port in ports)


def test_wait_until_raises_after_its_timeout() -> None:
    with pytest.raises(TimeoutError, match="never came"):
        wait_until(lambda: False, 0, "never came")


def test_unreadable_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(BrokerError, match="remove"):
        KafkaCluster.found_in(tmp_path)


def test_empty_folder_has_no_cluster(tmp_path: Path) -> None:
    assert KafkaCluster.found_in(tmp_path) is None
    assert kafka_up.down(tmp_path) == "Kafka is not running"


@pytest.mark.timeout(300)
def test_second_up_does_nothing_and_data_survives_down(
    kafka: KafkaCluster, leaky_clients: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del kafka  # requested for its skip if Kafka is missing
    port = next(p for p in iter(lambda: free_ports(1)[0], 0) if p < 31_999)
    given = ["--folder", str(tmp_path), "--port", str(port)]
    connection = KafkaConnection(bootstrap=f"127.0.0.1:{port}")
    try:
        assert kafka_up.main(["up", *given]) == 0
        create(connection, "kept", 1)
        with KafkaProducer(**connection.producer_options()) as producer:
            producer.send("kept", b"value").get(timeout=30)
        assert kafka_up.main(["up", *given]) == 0
        assert kafka_up.main(["up", *given, "--brokers", "3"]) == 1
        assert kafka_up.main(["down", *given]) == 0
        assert kafka_up.main(["up", *given]) == 0
        assert values(connection, "kept", 1) == [b"value"]
    finally:
        kafka_up.main(["down", *given])
    output = capsys.readouterr()
    assert "is ready" in output.out
    assert "runs already" in output.out
    assert "holds a cluster of 1, not of 3" in output.err


@pytest.mark.timeout(300)
def test_no_acknowledged_record_is_lost_when_one_of_three_brokers_is_killed(
    three_brokers: KafkaCluster,
) -> None:
    connection = KafkaConnection(bootstrap=three_brokers.bootstrap)
    create(connection, "killed", 3)
    victim = leader(connection, "killed")
    acknowledged = []
    with KafkaProducer(**connection.producer_options(linger_ms=0)) as producer:
        for number in range(3000):
            if number == 1000:
                three_brokers.kill(victim)
            acknowledged.append(producer.send("killed", str(number).encode()))
        for each in acknowledged:
            each.get(timeout=90)
    assert not three_brokers.is_running(victim)
    assert values(connection, "killed", 3000) == [str(number).encode() for number in range(3000)]
    three_brokers.restart(victim)
    assert all(map(three_brokers.is_running, three_brokers.nodes))


def leader(connection: KafkaConnection, topic: str) -> int:
    with KafkaAdminClient(**connection.client_options()) as admin:
        [described] = admin.describe_topics([topic])
    return int(described["partitions"][0]["leader_id"])


def certificate(folder: Path) -> Path:
    """Write a key and a self-signed certificate for 127.0.0.1 to one PEM file; return its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.fromtimestamp(time.time(), UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "broker.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + made.public_bytes(Encoding.PEM)
    )
    return path


@pytest.fixture
def secure_kafka(kafka: KafkaCluster, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port for TLS with a password of a broker, and the file with its certificate."""
    del kafka  # requested for its skip if Kafka is missing
    pem = certificate(tmp_path)
    client, control, secure = free_ports(3)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    listeners = f"PLAINTEXT://127.0.0.1:{client},SECURE://127.0.0.1:{secure}"
    cluster = KafkaCluster(
        1,
        tmp_path / "broker",
        (client, control),
        extra={
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{control}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "SECURE:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(pem),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secure.plain.sasl.jaas.config": f'{login} user_site="right";',
        },
    )
    cluster.start()
    yield secure, pem
    cluster.kill()


def test_clients_connect_with_tls_and_a_password(secure_kafka: tuple[int, Path]) -> None:
    port, pem = secure_kafka
    connection = KafkaConnection(
        bootstrap=f"127.0.0.1:{port}",
        security_protocol=SecurityProtocol.SASL_SSL,
        sasl_mechanism=SaslMechanism.PLAIN,
        sasl_username="site",
        sasl_password=SecretStr("right"),
        tls_ca_file=str(pem),
    )
    create(connection, "secret", 1)
    with KafkaProducer(**connection.producer_options()) as producer:
        producer.send("secret", b"value").get(timeout=30)
    assert values(connection, "secret", 1) == [b"value"]
    assert connection.tls_context() is not None


def test_unknown_server_is_an_error() -> None:
    done = subprocess.run(
        ["tools/servers", "path", "kafak"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no such server: kafak" in done.stderr
