"""The installers of a site by its configuration."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from agents.config.model import BucketAccess, InstallersConfig
from agents.config.secrets import SecretError, read_secret
from agents.config.servers import ServerConfigError
from agents.installers.bucket import BucketConfig, InstallerBucket
from agents.installers.cache import SiteCache
from agents.installers.metrics import InstallerMetrics
from agents.installers.site_installers import SiteInstallers
from runtime import sqlite
from runtime.free_space import SpaceReserve
from runtime.listening import Listen
from runtime.logs import Log
from runtime.secret_refs import SecretRef

_GB: Final = 1_000_000_000


def open_bucket(access: BucketAccess, environment: Mapping[str, str]) -> InstallerBucket:
    """Return the bucket; nothing is connected yet. Raises SecretError for an unusable login."""

    def secret(reference: SecretRef | None) -> str | None:
        if reference is None:
            return None
        return read_secret(reference, environment).get_secret_value()

    return InstallerBucket(
        BucketConfig(
            bucket=access.name,
            prefix=access.prefix,
            endpoint=access.endpoint,
            region=access.region,
            access_key=secret(access.access_key),
            secret_key=secret(access.secret_key),
            timeout_s=access.timeout_s,
        )
    )


def open_installers(
    config: InstallersConfig,
    environment: Mapping[str, str],
    *,
    now: Callable[[], datetime],
    metrics: InstallerMetrics,
    log: Log,
) -> SiteInstallers:
    """Return the installers of a site, not started.

    Raises ServerConfigError if login, folder or address cannot be used.
    """
    folder = Path(config.folder)
    try:
        bucket = open_bucket(config.bucket, environment)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache = SiteCache(
            bucket,
            SpaceReserve(folder, int(config.reserve_gb * _GB)),
            int(config.budget_gb * _GB),
            now=now,
            metrics=metrics,
            log=log,
        )
        return SiteInstallers(
            cache,
            folder,
            Listen.parse(config.listen),
            config.url,
            now=now,
            on_bytes=metrics.count_served,
            log=log,
            report_secret=partial(_report_secret, config.report_secret, environment),
        )
    except SecretError as error:
        raise ServerConfigError(f"the login of the bucket: {error}") from error
    except (OSError, ValueError, sqlite.InUseError, sqlite.OpenError) as error:
        raise ServerConfigError(f"the cache of installers: {error}") from error


def _report_secret(reference: SecretRef | None, environment: Mapping[str, str]) -> str | None:
    if reference is None:
        return None
    try:
        return read_secret(reference, environment).get_secret_value()
    except SecretError:
        return None
