"""The live sites of a configuration: access to their Macs, and the answers of these Macs."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import httpx

from agents.config.model import AgentConfig, InstallersConfig, SiteConfig
from agents.config.secrets import SecretError, read_erase_pin
from agents.config.servers import ServerConfigError, open_server
from agents.config.ssh_access import open_ssh
from agents.destructive_lock import DestructiveLock
from agents.installers.metrics import InstallerMetrics
from agents.installers.source import Installer, InstallerSource, Staging, StoredFile
from agents.mac import Mac, Obstacle
from agents.mdm.answers import AnswerStore, Finding, QueryAnswer
from agents.mdm.mac import MdmMacs
from agents.mdm.metrics import MdmMetrics
from agents.mdm.queries import MacQueries
from agents.preflight import Limits
from agents.site_access import SiteAccess
from agents.verification import Refusal
from runtime import sqlite
from runtime.logs import Log
from runtime.secret_refs import SecretRef
from schemas import logkeys as key
from schemas.envelope import Event
from schemas.jobs import MDM_METHODS, Job
from schemas.results import ErrorCode, Outcome

if TYPE_CHECKING:
    from agents.installers.site_installers import SiteInstallers

ANSWERS_FILE: Final = "answers.sqlite"
_PRUNE_EVERY: Final = timedelta(hours=6)
# Longer than the lifetime of any job, so that a late answer is still known to be late.
_KEEP: Final = timedelta(days=90)


class SitePermissions:
    """The jobs that a site's configuration permits."""

    def __init__(self, site: SiteConfig) -> None:
        self._methods = frozenset(site.methods)
        self._lock = DestructiveLock(site.allow_destructive, accepts_permits=site.accept_permits)

    def refuse(self, job: Job) -> Refusal | None:
        """Return the reason not to give the job's order, None if it is permitted.

        The method is not listed (`method_not_allowed`), else the Mac is not listed for destructive
        work (`locked`).
        """
        if job.method not in self._methods:
            detail = f"the site's configuration does not list the method {job.method}"
            return Refusal(Outcome.REFUSED, ErrorCode.METHOD_NOT_ALLOWED, detail)
        return self._lock.refuse(job)


class ConfiguredSites:
    """The live sites of one process, with one store in `folder` for the answers of their Macs.

    `now` is the clock, `environment` has the secrets of variables. `on_finding` is called with each
    answer that needs attention, `on_query_answer` with the first answer to each query that this
    process sent. `is_current` is False while events of the past are being read; no
    Mac is looked at before. `transport` replaces the network. Opening raises ServerConfigError for
    a server that cannot be used as configured, and OpenError if the store cannot be opened; a
    damaged store is replaced, since it is filled again from the events.
    """

    def __init__(
        self,
        config: AgentConfig,
        folder: Path,
        *,
        now: Callable[[], datetime],
        on_finding: Callable[[Finding], None],
        on_query_answer: Callable[[QueryAnswer], None] = lambda _: None,
        is_current: Callable[[], bool] = lambda: True,
        environment: Mapping[str, str] = os.environ,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.now = now
        self._environment = environment
        self._on_finding = on_finding
        self._on_query_answer = on_query_answer
        self._prune_at: datetime | None = None
        self._servers = {
            name: {
                server.name: open_server(server, environment, transport)
                for server in site.mdm_servers
            }
            for name, site in config.sites.items()
        }
        self.answers = _open_store(folder / ANSWERS_FILE)
        self._config = config
        macs = {
            name: MdmMacs(
                self._servers[name],
                self.answers,
                zone=ZoneInfo(site.time_zone),
                now=now,
                erase_pin=partial(_erase_pin, site.erase_pin, environment),
                is_current=is_current,
                enrollment_profile=partial(_enrollment_profile, site),
            )
            for name, site in config.sites.items()
        }
        self._installers: dict[str, SiteInstallers] = {}
        self._accesses = {
            name: _access(
                site,
                macs[name],
                environment,
                now,
                None if site.installers is None else _StartedInstallers(self._installers, name),
            )
            for name, site in config.sites.items()
        }
        self.queries: Mapping[str, MacQueries] = {
            name: MacQueries(macs[name], self.answers, now) for name in config.sites
        }

    def access(self, site: str) -> SiteAccess | None:
        """Return the access to the Macs of a site; None if the site is in dry run."""
        return self._accesses.get(site)

    def start_caches(self, metrics: InstallerMetrics, log: Log) -> None:
        """Open and start the caches of installers; before, Macs fetch theirs from Apple.

        Raises ServerConfigError for a cache that cannot be used as configured.
        """
        for name, site in self._config.sites.items():
            if site.installers is not None:
                opened = _open_installers(
                    site.installers, self._environment, self.now, metrics, log
                )
                self._installers[name] = opened
                opened.start()

    def query_budgets(self, site: str) -> Mapping[str, int]:
        """Return the budget of queries of each MDM server of a site; none if it is in dry run."""
        config = self._config.sites.get(site)
        servers = () if config is None else config.mdm_servers
        return {server.name: server.max_queries_per_minute for server in servers}

    def position(self, feed: str) -> int | None:
        """Return the position in a feed of events up to which they are applied; None before."""
        return self.answers.position(feed)

    def add_events(
        self, events: Iterable[Event], now: datetime, positions: Mapping[str, int]
    ) -> Collection[str]:
        """Store the answers in these events, and the new positions of their feeds.

        Returns the UDIDs of the Macs with news about an open command: their jobs are due.
        """
        if self._prune_at is None or now >= self._prune_at:
            self._prune_at = now + _PRUNE_EVERY
            self.answers.prune(now - _KEEP)
        applied = self.answers.add_events(events, now, positions)
        for finding in applied.findings:
            self._on_finding(finding)
        for answer in applied.query_answers:
            self._on_query_answer(answer)
        return applied.udids

    def close(self) -> None:
        """Close the store and the connections, and stop the caches of installers."""
        for installers in self._installers.values():
            installers.stop()
        self.answers.close()
        for servers in self._servers.values():
            for server in servers.values():
                server.close()


class _StartedInstallers:
    """The installers of a site (InstallerSource), None for each job until its cache starts."""

    def __init__(self, started: Mapping[str, InstallerSource], site: str) -> None:
        self._started = started
        self._site = site

    def installer(self, job: Job) -> Installer | Staging | Obstacle | None:
        """Return the installer of the job's target; see InstallerSource."""
        source = self._started.get(self._site)
        return None if source is None else source.installer(job)

    def image(self, job: Job, stored: StoredFile) -> Installer | Staging | Obstacle | None:
        """Return the image of the job; see InstallerSource."""
        source = self._started.get(self._site)
        return None if source is None else source.image(job, stored)


def finding_reporter(log: Log, metrics: MdmMetrics) -> Callable[[Finding], None]:
    """Return a function that logs and counts an answer that needs attention."""

    def report(finding: Finding) -> None:
        metrics.count_finding(finding.kind)
        command = finding.command
        log.warning(
            "unexpected answer of a Mac to a command: compare it with the journal",
            **{
                key.UDID: finding.udid,
                key.JOB_ID: "" if command is None else command.job_id,
                key.REASON: finding.kind,
                key.OUTCOME: finding.answer.status,
                key.DETAIL: f"CommandUUID {finding.uuid}",
            },
        )

    return report


def _open_installers(
    config: InstallersConfig,
    environment: Mapping[str, str],
    now: Callable[[], datetime],
    metrics: InstallerMetrics,
    log: Log,
) -> "SiteInstallers":
    try:
        # An agent without a cache has no boto3.
        from agents.config.installers_access import open_installers  # noqa: PLC0415
    except ImportError as error:
        raise ServerConfigError("`installers` needs boto3: drydock-agent[s3]") from error
    return open_installers(config, environment, now=now, metrics=metrics, log=log)


def _access(
    site: SiteConfig,
    mdm: MdmMacs,
    environment: Mapping[str, str],
    now: Callable[[], datetime],
    installers: InstallerSource | None,
) -> SiteAccess:
    limits = Limits(**site.limits.model_dump())
    ssh = (
        None
        if site.ssh is None
        else open_ssh(site.ssh, environment, now, installers=installers, limits=limits)
    )

    def mac_for(job: Job) -> Mac:
        return mdm if ssh is None or job.method in MDM_METHODS else ssh

    def withdraw_order(job: Job, order: str) -> str | None:
        # A Mac itself keeps nothing: a command that has begun runs to its end.
        return mdm.withdraw_order(job, order) if job.method in MDM_METHODS else ""

    return SiteAccess(mac_for, SitePermissions(site).refuse, limits, withdraw_order)


def _open_store(path: Path) -> AnswerStore:
    try:
        return AnswerStore(path)
    except (sqlite.DamagedError, sqlite.VersionError):
        sqlite.quarantine(path)
        return AnswerStore(path)


def _enrollment_profile(site: SiteConfig, server: str) -> bytes | None:
    """Return the enrollment profile of a server; None without one, or if it cannot be read.

    It is read for each order: a new one needs no restart.
    """
    paths = [one.enrollment_profile for one in site.mdm_servers if one.name == server]
    try:
        return Path(paths[0]).read_bytes() if paths and paths[0] is not None else None
    except OSError:
        return None


def _erase_pin(reference: SecretRef | None, environment: Mapping[str, str]) -> str | None:
    """Return the PIN for an erase; None without one, and if it cannot be used."""
    if reference is None:
        return None
    try:
        return read_erase_pin(reference, environment).get_secret_value()
    except SecretError:
        return None
