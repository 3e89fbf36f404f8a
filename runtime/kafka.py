"""Settings of all Kafka clients of Drydock: addresses, authentication, guarantees.

`kafka_settings` reads them from the environment. KafkaConnection returns the options of the clients
of each library: methods whose names begin with `aiokafka_` for aiokafka, the others for
kafka-python. Programs build their clients at their entry point.
"""

import ssl
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.topics import MAX_MESSAGE_BYTES

ENVIRONMENT_PREFIX: Final = "DRYDOCK_KAFKA_"

BootstrapField = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        pattern=r"^([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}(,([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5})*$",
    ),
]


class SecurityProtocol(StrEnum):
    """Protection of a broker's listener, by Kafka's own names."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """Methods to authenticate with SASL, by Kafka's own names."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class Compression(StrEnum):
    """Compressions that every Python client can read without another package."""

    NONE = "none"
    GZIP = "gzip"


class KafkaConnection(BaseModel):
    """Settings of one connection. The `_file` settings are paths of PEM files.

    `sasl_*` is only valid with a SASL protocol, and `tls_*` with an SSL one: a setting without
    effect is an error, so that a misconfigured connection does not seem protected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: BootstrapField = "127.0.0.1:19092"
    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_key_password: SecretStr | None = None
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "drydock"
    compression: Compression = Compression.NONE
    request_timeout_s: Annotated[float, Field(ge=1, le=300)] = 30.0

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """Return the settings unchanged.

        Raises ValueError for a SASL or TLS setting without effect, a SASL setting that is missing,
        and a certificate file without a key file or the reverse.
        """
        sasl = ("sasl_mechanism", "sasl_username", "sasl_password")
        tls = ("tls_ca_file", "tls_cert_file", "tls_key_file", "tls_key_password")
        if self.uses_sasl:
            self._refuse("is needed by", [name for name in sasl if not getattr(self, name)])
        else:
            self._refuse("has no effect with", [name for name in sasl if getattr(self, name)])
        if not self.uses_tls:
            self._refuse("has no effect with", [name for name in tls if getattr(self, name)])
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise ValueError("tls_cert_file and tls_key_file need each other")
        return self

    def _refuse(self, problem: str, names: list[str]) -> None:
        """Raise ValueError with these names of settings and the problem, unless there are none."""
        if names:
            raise ValueError(
                f"{', '.join(names)} {problem} security_protocol {self.security_protocol}"
            )

    @property
    def uses_sasl(self) -> bool:
        """True if the security protocol is a SASL one: the client authenticates with SASL."""
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        """True if the security protocol is an SSL one: the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    def client_options(self) -> dict[str, Any]:
        """Return the keyword arguments that any kafka-python client needs for this connection.

        Never log them: they hold the password.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol.value,
            "request_timeout_ms": round(self.request_timeout_s * 1000),
        }
        if self.sasl_mechanism is not None:
            options["sasl_mechanism"] = self.sasl_mechanism.value
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = _plain(self.sasl_password)
        if self.uses_tls:
            options["ssl_cafile"] = self.tls_ca_file
            options["ssl_certfile"] = self.tls_cert_file
            options["ssl_keyfile"] = self.tls_key_file
            options["ssl_password"] = _plain(self.tls_key_password)
        return options

    def producer_options(
        self, *, linger_ms: int = 5, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Return the options of a kafka-python producer that does not lose, repeat or reorder.

        Idempotence is set although it is the default: kafka-python silently disables the default
        if another option conflicts with it. A record that is not acknowledged within `timeout_s`,
        or within two minutes if that is None, fails its future, which the caller must check.
        `timeout_s` also limits the time to connect, and that of a call that waits for metadata or
        memory. `linger_ms` is the time in milliseconds for which the producer waits for more
        records before it sends a batch.
        """
        options = self.client_options() | {
            **self._loss_free_options(),
            "linger_ms": linger_ms,
            "delivery_timeout_ms": 120_000,
            "allow_auto_create_topics": False,
        }
        if timeout_s is None:
            return options
        limit = round(timeout_s * 1000)
        return options | {
            "delivery_timeout_ms": limit,
            "request_timeout_ms": limit // 2,
            "max_block_ms": limit,
            "bootstrap_timeout_ms": limit,
        }

    def consumer_options(
        self, group: str | None = None, *, instance: str | None = None
    ) -> dict[str, Any]:
        """Return the options of a kafka-python consumer that commits only explicitly.

        Without a committed offset it starts at the first record. It does not see records of
        aborted transactions. `group` None reads without a group. `instance` is the permanent name
        of a member (KIP-345): after a restart it gets its partitions back, and an older member of
        that name is fenced.
        """
        options = self.client_options() | {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
        }
        return options if instance is None else options | {"group_instance_id": instance}

    def aiokafka_options(self) -> dict[str, Any]:
        """Return the keyword arguments that any aiokafka client needs for this connection.

        Never log them: they hold the password. Raises OSError or ssl.SSLError if a certificate or
        key file cannot be loaded.
        """
        options = self.client_options()
        kept = {name: value for name, value in options.items() if not name.startswith("ssl_")}
        return kept | {"ssl_context": self.tls_context()}

    def aiokafka_producer_options(self) -> dict[str, Any]:
        """Return the options of an aiokafka producer that does not lose, repeat or reorder.

        Raises as `aiokafka_options` does.
        """
        return self.aiokafka_options() | self._loss_free_options()

    def aiokafka_reader_options(self) -> dict[str, Any]:
        """Return the options of an aiokafka consumer without a group, which commits no offset.

        It reads committed records only, from the first one unless the caller seeks. Raises as
        `aiokafka_options` does.
        """
        return self.aiokafka_options() | {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
        }

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for aiokafka and Faust; None if the connection does not use TLS.

        Raises OSError or ssl.SSLError if a certificate or key file cannot be loaded.
        """
        if not self.uses_tls:
            return None
        context = ssl.create_default_context(cafile=self.tls_ca_file)
        if self.tls_cert_file is not None:
            password = _plain(self.tls_key_password)
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file, password)
        return context

    def _loss_free_options(self) -> dict[str, Any]:
        """Return the options that producers of both libraries have in common."""
        return {
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if self.compression == "none" else self.compression.value,
            "max_request_size": MAX_MESSAGE_BYTES,
        }


async def missing_topics(client: Any, topics: Iterable[str]) -> list[str]:
    """Return those of `topics` that the cluster of a connected aiokafka client lacks, sorted.

    Raises KafkaError. All topics are fetched in one request: a request for one topic by name can
    create it (broker setting auto.create.topics.enable).
    """
    existing = (await client.fetch_all_metadata()).topics()
    return sorted(set(topics) - existing)


def session_options(session_timeout_s: float) -> dict[str, int]:
    """Return the options, in both libraries, of a group member that is lost after this time.

    The time is in seconds without a heartbeat.
    """
    session_ms = round(session_timeout_s * 1000)
    return {
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": min(3000, session_ms // 3),
    }


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


class SettingsError(ValueError):
    """Settings are invalid; the message names each of them, in one line."""


class KafkaSettings(KafkaConnection, BaseSettings):
    """The Kafka connection from DRYDOCK_KAFKA_BOOTSTRAP, DRYDOCK_KAFKA_SASL_PASSWORD, ..."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True)


def kafka_settings(bootstrap: str | None = None) -> KafkaSettings:
    """Return the connection that the environment describes.

    `bootstrap`, if given, replaces DRYDOCK_KAFKA_BOOTSTRAP. Raises SettingsError if a setting is
    invalid.
    """
    try:
        return KafkaSettings() if bootstrap is None else KafkaSettings(bootstrap=bootstrap)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(each) for each in error.errors())) from error


def _describe(error: ErrorDetails) -> str:
    """Return one invalid setting as `DRYDOCK_KAFKA_NAME: reason`.

    If the broken rule is about several settings, it has no location: the reason alone, which names
    them.
    """
    name = ".".join(str(part).upper() for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{ENVIRONMENT_PREFIX}{name}: {message}" if name else message
