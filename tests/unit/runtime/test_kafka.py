"""Settings of a Kafka connection: valid combinations, and the options of clients."""

from typing import Any

import pytest
from pydantic import ValidationError

from runtime.kafka import (
    Compression,
    KafkaConnection,
    SettingsError,
    kafka_settings,
    session_options,
)

SASL = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "site-muc",
    "sasl_password": "hidden",
}


@pytest.fixture(autouse=True)
def _no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KafkaConnection.model_fields:
        monkeypatch.delenv(f"DRYDOCK_KAFKA_{name.upper()}", raising=False)


@pytest.mark.parametrize(
    "bootstrap",
    ["kafka:9092", "10.0.0.1:9092,10.0.0.2:9092", "[::1]:9092", "b-1.example.org:9098"],
)
def test_addresses_are_accepted(bootstrap: str) -> None:
    assert KafkaConnection(bootstrap=bootstrap).client_options()[
        "bootstrap_servers"
    ] == bootstrap.split(",")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bootstrap": "kafka"}, "bootstrap"),
        ({"bootstrap": ""}, "bootstrap"),
        ({"bootstrap": "kafka:9092,"}, "bootstrap"),
        ({"bootstrap": "kafka:9092;other:1"}, "bootstrap"),
        ({"security_protocol": "TLS"}, "security_protocol"),
        (
            {"security_protocol": "SASL_SSL"},
            "sasl_mechanism, sasl_username, sasl_password is needed",
        ),
        ({**SASL, "sasl_password": ""}, "sasl_password is needed"),
        ({**SASL, "sasl_mechanism": "MD5"}, "sasl_mechanism"),
        ({**SASL, "security_protocol": "SSL"}, "has no effect with security_protocol SSL"),
        ({"tls_ca_file": "ca.pem"}, "tls_ca_file has no effect with security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL", "tls_cert_file": "c.pem"}, "need each other"),
        ({"compression": "lz4"}, "compression"),
        ({"request_timeout_s": 0}, "request_timeout_s"),
        ({"bootstrp": "kafka:9092"}, "bootstrp"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_invalid_or_conflicting_settings_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        KafkaConnection(**settings)


def test_producer_neither_loses_nor_repeats() -> None:
    options = KafkaConnection().producer_options()
    assert options["acks"] == "all"
    assert options["enable_idempotence"] is True
    assert options["allow_auto_create_topics"] is False


def test_time_limit_of_a_producer_covers_each_step_before_the_confirmation() -> None:
    options = KafkaConnection().producer_options(timeout_s=15)
    assert options["delivery_timeout_ms"] == 15_000
    assert options["max_block_ms"] == options["bootstrap_timeout_ms"] == 15_000
    # kafka-python refuses a delivery timeout below the sum of linger and request timeout.
    assert options["request_timeout_ms"] + options["linger_ms"] < 15_000


def test_producers_of_both_libraries_have_the_same_guarantees() -> None:
    connection = KafkaConnection(compression=Compression.GZIP)
    one, other = connection.producer_options(), connection.aiokafka_producer_options()
    names = ("acks", "enable_idempotence", "compression_type", "max_request_size")
    assert [one[name] for name in names] == [other[name] for name in names]
    assert one["compression_type"] == "gzip"
    assert KafkaConnection().aiokafka_producer_options()["compression_type"] is None


def test_reader_without_a_group_reads_committed_records_from_the_first() -> None:
    options = KafkaConnection().aiokafka_reader_options()
    assert options["group_id"] is None
    assert options["enable_auto_commit"] is False
    assert options["auto_offset_reset"] == "earliest"
    assert options["isolation_level"] == "read_committed"


@pytest.mark.parametrize(("session_s", "heartbeat_ms"), [(6.0, 2_000), (30.0, 3_000)])
def test_member_sends_several_heartbeats_in_a_session(session_s: float, heartbeat_ms: int) -> None:
    options = session_options(session_s)
    assert options["session_timeout_ms"] == session_s * 1000
    assert options["heartbeat_interval_ms"] == heartbeat_ms


def test_consumer_commits_only_explicitly_and_skips_nothing() -> None:
    options = KafkaConnection().consumer_options("group", instance="muc-1")
    assert options["enable_auto_commit"] is False
    assert options["auto_offset_reset"] == "earliest"
    assert options["group_instance_id"] == "muc-1"
    assert "group_instance_id" not in KafkaConnection().consumer_options("group")


def test_password_is_in_client_options_but_not_in_text_output() -> None:
    connection = KafkaConnection.model_validate(SASL)
    for options in (connection.client_options(), connection.aiokafka_options()):
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"
        assert options["sasl_plain_password"] == "hidden"
    assert connection.aiokafka_options()["ssl_context"] is not None
    assert "hidden" not in f"{connection!r} {connection}"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SASL.items():
        monkeypatch.setenv(f"DRYDOCK_KAFKA_{name.upper()}", value)
    monkeypatch.setenv("DRYDOCK_KAFKA_BOOTSTRAP", "kafka:9092")
    expected = KafkaConnection.model_validate({**SASL, "bootstrap": "kafka:9092"})
    assert kafka_settings().model_dump() == expected.model_dump()
    assert kafka_settings("other:1").bootstrap == "other:1"


def test_bad_environment_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYDOCK_KAFKA_BOOTSTRAP", "nowhere")
    with pytest.raises(SettingsError, match="DRYDOCK_KAFKA_BOOTSTRAP: ") as refused:
        kafka_settings()
    assert "\n" not in str(refused.value)
