"""The settings of the Kafka connection, and their form for aiokafka and Faust."""

import ssl
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connection import ENVIRONMENT_PREFIX, KafkaConnection


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

    If the broken rule is about several settings, the reason alone, which names them.
    """
    name = ".".join(str(part).upper() for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    # A rule about several settings has no location; its message names them.
    return f"{ENVIRONMENT_PREFIX}{name}: {message}" if name else message


def tls_context(connection: KafkaConnection) -> ssl.SSLContext | None:
    """Return the TLS context for aiokafka and Faust; None if the connection does not use TLS.

    Raises OSError or ssl.SSLError if a certificate or key file cannot be loaded.
    """
    if not connection.uses_tls:
        return None
    context = ssl.create_default_context(cafile=connection.tls_ca_file)
    if connection.tls_cert_file is not None:
        password = connection.tls_key_password
        context.load_cert_chain(
            connection.tls_cert_file,
            connection.tls_key_file,
            None if password is None else password.get_secret_value(),
        )
    return context


def aiokafka_options(connection: KafkaConnection) -> dict[str, Any]:
    """Return the connection as keyword arguments of any aiokafka client; never log them.

    They include the password, if there is one. Raises OSError or ssl.SSLError if a certificate or
    key file cannot be loaded.
    """
    options = connection.client_options()
    kept = {name: value for name, value in options.items() if not name.startswith("ssl_")}
    return kept | {"ssl_context": tls_context(connection)}
