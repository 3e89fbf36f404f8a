"""Settings of the server programs: from the environment, DRYDOCK_*."""

from typing import Annotated, Final

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

WEBHOOK_SOURCES: Final = ("nanomdm", "micromdm", "jamf", "osquery", "munki")
_MIB: Final = 1024 * 1024
Secret = Annotated[SecretStr, Field(min_length=8)]


class SenderSettings(BaseSettings):
    """Who may post, and how much.

    `<source>_secret` is what a sender proves itself with: as a bearer token, as the password of
    HTTP Basic, or in the header `X-Drydock-Secret`. `nanomdm_hmac_key` is NanoMDM's
    -webhook-hmac-key. `events_secret` is for /v1/events and /v1/feeds. A source without a secret
    is taken from this machine only. `max_waiting` inputs may wait to become durable; more are
    told to come again.
    """

    model_config = SettingsConfigDict(env_prefix="DRYDOCK_", extra="ignore")

    nanomdm_hmac_key: Secret | None = None
    nanomdm_secret: Secret | None = None
    micromdm_secret: Secret | None = None
    jamf_secret: Secret | None = None
    osquery_secret: Secret | None = None
    munki_secret: Secret | None = None
    events_secret: Secret | None = None
    max_webhook_bytes: Annotated[int, Field(ge=1024)] = 8 * _MIB
    max_feed_bytes: Annotated[int, Field(ge=1024)] = 64 * _MIB
    max_waiting: Annotated[int, Field(ge=1)] = 1000

    def secret_of(self, source: str) -> str | None:
        """The secret of a source (`events` among them); None if it has none."""
        secret: SecretStr | None = getattr(self, f"{source}_secret")
        return None if secret is None else secret.get_secret_value()

    @property
    def hmac_key(self) -> bytes | None:
        """NanoMDM's key."""
        key = self.nanomdm_hmac_key
        return None if key is None else key.get_secret_value().encode()

    @property
    def has_secrets(self) -> bool:
        """Whether any sender can prove itself."""
        named = (*WEBHOOK_SOURCES, "events")
        return self.hmac_key is not None or any(self.secret_of(name) for name in named)


class ServerSettings(SenderSettings):
    """What `drydock run` is told besides its options."""

    slots: Annotated[int, Field(ge=1)] = 50
    sweep_hours: Annotated[float, Field(gt=0)] = 6.0


class GatewaySettings(SenderSettings):
    """What `drydock gateway` is told besides its options.

    `redaction_key` fingerprints secrets; all replicas need the same one. `spool_max_bytes` bounds
    what waits on disk, `max_waiting_bytes` the bodies in memory, `ack_wait_s` how long a record
    may be under way to Kafka before it is spooled.
    """

    redaction_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    spool_max_bytes: Annotated[int, Field(ge=_MIB)] = 1024 * _MIB
    max_waiting_bytes: Annotated[int, Field(ge=_MIB)] = 128 * _MIB
    ack_wait_s: Annotated[float, Field(ge=0.1, le=60)] = 2.0


class FeedsSettings(BaseSettings):
    """What `drydock feeds` is told besides its options: DRYDOCK_FEEDS_*.

    `sofa`, `gdmf` and `kev` are each a URL, a file, or `none`. A feed is looked at every
    `interval_s`, Apple's lookup service no more often than every `gdmf_interval_s` (Apple asks for
    once a day). One try may take `timeout_s`, a document have `max_bytes`. Replicas of one `group`
    share the work; one that is not heard of for `session_timeout_s` is replaced.
    """

    model_config = SettingsConfigDict(env_prefix="DRYDOCK_FEEDS_", extra="ignore")

    sofa: Annotated[str, Field(min_length=1)] = (
        "https://sofafeed.macadmins.io/v2/macos_data_feed.json"
    )
    gdmf: Annotated[str, Field(min_length=1)] = "https://gdmf.apple.com/v2/pmv"
    kev: Annotated[str, Field(min_length=1)] = (
        "https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities.json"
    )
    interval_s: Annotated[float, Field(ge=0.1)] = 900.0
    gdmf_interval_s: Annotated[float, Field(ge=0.1)] = 24 * 3600.0
    timeout_s: Annotated[float, Field(ge=1, le=600)] = 60.0
    max_bytes: Annotated[int, Field(ge=1024)] = 32 * _MIB
    group: Annotated[str, Field(min_length=1, max_length=200)] = "drydock-feeds"
    session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 30.0


class WorkerSettings(BaseSettings):
    """What `drydock worker` is told besides its options: DRYDOCK_WORKER_*.

    Workers of one `group` share the partitions. `standbys` workers besides its owner keep a copy of
    each partition's state. A worker that is not heard of for `session_timeout_s` loses its
    partitions. A Mac of which only times and figures changed is written again after
    `refresh_minutes`: so much of 'when last heard' may a crash forget.
    """

    model_config = SettingsConfigDict(env_prefix="DRYDOCK_WORKER_", extra="ignore")

    group: Annotated[str, Field(min_length=1, max_length=200)] = "drydock-worker"
    standbys: Annotated[int, Field(ge=1, le=5)] = 1
    session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 30.0
    stalled_after_s: Annotated[float, Field(ge=10)] = 60.0
    refresh_minutes: Annotated[float, Field(ge=0)] = 60.0
    sweep_hours: Annotated[float, Field(gt=0)] = 6.0
