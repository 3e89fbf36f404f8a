"""Settings of a site's executor, from the environment."""

from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connection import ENVIRONMENT_PREFIX, KafkaConnection


class KafkaSettings(KafkaConnection, BaseSettings):
    """The connection to Kafka, from DRYDOCK_KAFKA_BOOTSTRAP, DRYDOCK_KAFKA_SASL_PASSWORD, ..."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True)
