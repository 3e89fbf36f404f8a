"""Settings of the server programs, from environment variables DRYDOCK_*."""

from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, SecretStr, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.ingest.sources import HMAC_KEYS, SECRET_SETTINGS
from pipeline.trust.stamps import Stamps

_MIB: Final = 1024 * 1024
_SHORTEST_STAMP_KEY: Final = 16
Secret = Annotated[SecretStr, Field(min_length=8)]

if TYPE_CHECKING:
    _SecretSettings = BaseSettings
else:  # mypy accepts no class made at run time as a base
    _SecretSettings = create_model(
        "_SecretSettings",
        __base__=BaseSettings,
        **dict.fromkeys(SECRET_SETTINGS, (Secret | None, None)),
    )


class SenderSettings(_SecretSettings):
    """Secrets of the senders, and limits of their requests.

    The secrets are the fields of SECRET_SETTINGS, each None if it is not configured. A sender sends
    its `<source>_secret` as a bearer token, as the password of HTTP Basic, or in the header
    `X-Drydock-Secret`. `nanomdm_hmac_key` is the value of NanoMDM's option -webhook-hmac-key.
    A feed's secret is for /v1/feeds. `events_secret`, `advisories_secret` and `admin_secret` are
    for /v1/events, where every other secret is valid too. As soon as one secret is
    configured, requests of a source without one are refused.
    At most `max_waiting` requests wait to become durable, and the bodies of requests in progress
    have at most `max_waiting_bytes`; further requests get 429. `max_connections` connections are
    open, `max_connections_per_peer` of one address: behind a proxy, all senders have its address.
    """

    model_config = SettingsConfigDict(env_prefix="DRYDOCK_", extra="ignore")

    max_webhook_bytes: Annotated[int, Field(ge=1024)] = 8 * _MIB
    max_feed_bytes: Annotated[int, Field(ge=1024)] = 64 * _MIB
    max_waiting: Annotated[int, Field(ge=1)] = 1000
    max_waiting_bytes: Annotated[int, Field(ge=_MIB)] = 128 * _MIB
    max_connections: Annotated[int, Field(ge=16)] = 1000
    max_connections_per_peer: Annotated[int, Field(ge=4)] = 500

    def secret_of(self, source: str) -> str | None:
        """Return the secret of `source`; None if it is not configured.

        `source` is the name of a source, or `events`, `advisories` or `admin`.
        """
        return self._value(f"{source}_secret")

    def hmac_key_of(self, source: str) -> bytes | None:
        """Return the key with which `source` signs its requests.

        None if it is not configured, or if the source signs no requests.
        """
        key = self._value(HMAC_KEYS[source]) if source in HMAC_KEYS else None
        return None if key is None else key.encode()

    def _value(self, name: str) -> str | None:
        secret: SecretStr | None = getattr(self, name)
        return None if secret is None else secret.get_secret_value()


class ServerSettings(SenderSettings):
    """Settings of `drydock run` besides its options.

    At most `slots` jobs run at the Macs of one site. Each Mac is decided for again every
    `sweep_hours`. Entries of the log that are older than `keep_days` are deleted; without it none.
    """

    slots: Annotated[int, Field(ge=1)] = 50
    sweep_hours: Annotated[float, Field(gt=0)] = 6.0
    keep_days: Annotated[float | None, Field(ge=1, le=36500)] = None


class GatewaySettings(SenderSettings):
    """Settings of `drydock gateway` besides its options.

    `redaction_key` makes the fingerprints of redacted secrets; all replicas need the same key.
    Without it, the key is in a file in the data directory, made if it is missing.
    `spool_max_bytes` limits the records on disk. A record that Kafka does not acknowledge within
    `ack_wait_s` goes to the spool.
    """

    redaction_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    spool_max_bytes: Annotated[int, Field(ge=_MIB)] = 1024 * _MIB
    ack_wait_s: Annotated[float, Field(ge=0.1, le=60)] = 2.0


class FeedsSettings(BaseSettings):
    """Settings of `drydock feeds` besides its options: DRYDOCK_FEEDS_*.

    `sofa`, `gdmf` and `kev` are each a URL (HTTPS, or HTTP of this computer), a file, or `none`. A
    feed is polled every `interval_s`, Apple's lookup service (GDMF) after the longer of
    `interval_s` and `gdmf_interval_s`, because Apple asks for one request a day; each interval
    varies by up to 10 %. `timeout_s` limits one request, `max_bytes` one document. Of all replicas
    of one `group` one polls; if it sends no heartbeat for `session_timeout_s`, another one takes
    over.
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


class StampSettings(BaseSettings):
    """Keys of the stamps of events: gateways, feeds and workers share DRYDOCK_STAMP_KEYS.

    The keys are separated by commas; the first one stamps, all are accepted.
    """

    model_config = SettingsConfigDict(env_prefix="DRYDOCK_", extra="ignore")

    stamp_keys: SecretStr | None = None


def read_stamps() -> Stamps:
    """Return the keys of the stamps, from the environment.

    Raises ValueError if there is none, or one has less than 16 characters.
    """
    found = StampSettings().stamp_keys
    keys = [] if found is None else [one.strip() for one in found.get_secret_value().split(",")]
    if not keys or any(len(one) < _SHORTEST_STAMP_KEY for one in keys):
        raise ValueError(
            f"DRYDOCK_STAMP_KEYS needs a key of at least {_SHORTEST_STAMP_KEY} characters, the same"
            " for gateways, feeds and workers (`openssl rand -hex 32` makes one)"
        )
    return Stamps([one.encode() for one in keys])


class WorkerSettings(BaseSettings):
    """Settings of `drydock worker` besides its options: DRYDOCK_WORKER_*.

    Workers of one `group` share the partitions. `standbys` further workers keep a copy of the state
    of each partition. A worker that sends no heartbeat for `session_timeout_s` loses its
    partitions. `/healthz` fails after `stalled_after_s` without progress while work is left. A Mac
    of which only times and telemetry changed is written after at most `refresh_minutes`: a crash
    loses these changes for at most that time. Each Mac is decided for again every `sweep_hours`.
    """

    model_config = SettingsConfigDict(env_prefix="DRYDOCK_WORKER_", extra="ignore")

    group: Annotated[str, Field(min_length=1, max_length=200)] = "drydock-worker"
    standbys: Annotated[int, Field(ge=1, le=5)] = 1
    session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 30.0
    stalled_after_s: Annotated[float, Field(ge=10)] = 60.0
    refresh_minutes: Annotated[float, Field(ge=0)] = 60.0
    sweep_hours: Annotated[float, Field(gt=0)] = 6.0
