"""The live sites of a configuration: access to their Macs, and the answers of these Macs."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import httpx

from agents.config.model import AgentConfig, SiteConfig
from agents.config.secrets import SecretError, read_erase_pin
from agents.config.servers import open_server
from agents.config.ssh_access import open_ssh
from agents.destructive_lock import DestructiveLock
from agents.mac import Mac
from agents.mdm.answers import AnswerStore, Finding, QueryAnswer
from agents.mdm.mac import MdmMacs
from agents.mdm.metrics import MdmMetrics
from agents.mdm.queries import MacQueries
from agents.preflight import Limits
from agents.site_access import SiteAccess
from agents.ssh.methods import SSH_METHODS
from agents.verification import Refusal
from runtime import sqlite
from runtime.logs import Log
from runtime.secret_refs import SecretRef
from schemas import logkeys as key
from schemas.envelope import Event
from schemas.jobs import MDM_METHODS, Job
from schemas.results import ErrorCode, Outcome

ANSWERS_FILE: Final = "answers.sqlite"
_PRUNE_EVERY: Final = timedelta(hours=6)
# Longer than the lifetime of any job, so that a late answer is still known to be late.
_KEEP: Final = timedelta(days=90)


class SitePermissions:
    """The jobs that a site's configuration permits."""

    def __init__(self, site: SiteConfig) -> None:
        self._methods = frozenset(site.methods)
        self._lock = DestructiveLock(site.allow_destructive)

    def refuse(self, job: Job) -> Refusal | None:
        """Return the reason not to give the job's order, None if it is permitted.

        In this order: the method is not listed (`method_not_allowed`), the Mac is not listed for
        destructive work (`locked`), the method is not built (`unsupported`).
        """
        if job.method not in self._methods:
            detail = f"the site's configuration does not list the method {job.method}"
            return Refusal(Outcome.REFUSED, ErrorCode.METHOD_NOT_ALLOWED, detail)
        if locked := self._lock.refuse(job):
            return locked
        if job.method not in MDM_METHODS | SSH_METHODS:
            detail = f"no executor for {job.method} is built yet"
            return Refusal(Outcome.REFUSED, ErrorCode.UNSUPPORTED, detail)
        return None


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
        self._accesses = {
            name: _access(site, macs[name], environment, now) for name, site in config.sites.items()
        }
        self.queries: Mapping[str, MacQueries] = {
            name: MacQueries(macs[name], self.answers, now) for name in config.sites
        }

    def access(self, site: str) -> SiteAccess | None:
        """Return the access to the Macs of a site; None if the site is in dry run."""
        return self._accesses.get(site)

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
        """Close the store and the connections."""
        self.answers.close()
        for servers in self._servers.values():
            for server in servers.values():
                server.close()


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


def _access(
    site: SiteConfig, mdm: MdmMacs, environment: Mapping[str, str], now: Callable[[], datetime]
) -> SiteAccess:
    ssh = None if site.ssh is None else open_ssh(site.ssh, environment, now)

    def mac_for(job: Job) -> Mac:
        return mdm if ssh is None or job.method in MDM_METHODS else ssh

    def withdraw_order(job: Job, order: str) -> str | None:
        # A Mac itself keeps nothing: a command that has begun runs to its end.
        return mdm.withdraw_order(job, order) if job.method in MDM_METHODS else ""

    limits = Limits(**site.limits.model_dump())
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
