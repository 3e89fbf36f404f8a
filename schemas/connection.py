"""How every program of Drydock talks to Kafka: where, as whom, and with which guarantees.

Pure: it validates, and gives the options of a kafka-python client as a dict. The values come
from the environment in `pipeline.connection`; clients are built where the program is put
together.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

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
    """How a broker's listener is protected; Kafka's own names."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """How a program proves who it is; Kafka's own names."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class Compression(StrEnum):
    """What every Python client can read without another package."""

    NONE = "none"
    GZIP = "gzip"


class KafkaConnection(BaseModel):
    """One connection's settings. Files are paths to PEM; `sasl_*` belongs to SASL protocols and
    `tls_*` to SSL ones: a setting that would have no effect is an error, not a false comfort."""

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
    def _belongs_together(self) -> Self:
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
        if names:
            raise ValueError(
                f"{', '.join(names)} {problem} security_protocol {self.security_protocol}"
            )

    @property
    def uses_sasl(self) -> bool:
        """Whether the program proves who it is by SASL."""
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    def client_options(self) -> dict[str, Any]:
        """What every kafka-python client takes. Holds the password: not for logs."""
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

    def producer_options(self, *, linger_ms: int = 5) -> dict[str, Any]:
        """A kafka-python producer that does not lose, repeat or reorder what it sends.

        Idempotence is asked for although it is the default: left to the default, kafka-python
        drops it without a word where another option conflicts. A send that is not acknowledged
        within two minutes fails its future; whoever sends has to look.
        """
        return self.client_options() | {
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if self.compression == "none" else self.compression.value,
            "linger_ms": linger_ms,
            "max_request_size": MAX_MESSAGE_BYTES,
            "delivery_timeout_ms": 120_000,
            "allow_auto_create_topics": False,
        }

    def consumer_options(
        self, group: str | None = None, *, instance: str | None = None
    ) -> dict[str, Any]:
        """A kafka-python consumer that commits only when it is told to, from the first record on.

        `group` None reads without a group. `instance` is a member's lasting name (KIP-345): it
        comes back to its partitions after a restart, and its older double is fenced.
        """
        options = self.client_options() | {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
        }
        return options if instance is None else options | {"group_instance_id": instance}


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
