"""Process of `drydock agent`: Kafka, halts, partitions, probes and signals put together."""

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agents.clock import Clock, WallClock
from agents.config.model import AgentConfig
from agents.config.servers import ServerConfigError
from agents.configured_sites import ConfiguredSites, finding_reporter
from agents.consumer_group import GroupMember
from agents.halts import HaltReader
from agents.installers.metrics import InstallerMetrics
from agents.job_consumer import JobConsumer
from agents.leases import LeaseManager
from agents.live_site import LiveSite
from agents.mdm.metrics import MdmMetrics
from agents.metrics import AgentMetrics
from agents.partition_runner import PartitionRunner
from agents.result_producer import ResultProducer
from agents.site_access import SiteAccess
from agents.site_context import SiteContext
from runtime.clock_skew import ClockSkew
from runtime.folder_lock import locked_folder
from runtime.free_space import SpaceReserve
from runtime.kafka import KafkaConnection
from runtime.listening import Listen
from runtime.logs import Log, forward_kafka_clients
from runtime.probes import ProbeServer
from runtime.sqlite import InUseError, OpenError
from runtime.trusted_keys import KeysError, TrustedKeys
from schemas import logkeys as key
from schemas.events.control import HaltScope

ADDRESS_FILE: Final = "agent.json"
_NAME_FILE: Final = "name"
# No call of the job consumer takes longer. After this time it hangs, and the process exits so that
# its supervisor starts it again.
_WATCHDOG_S: Final = 60.0
_WATCH_INTERVAL_S: Final = 0.5
_HUNG_EXIT_CODE: Final = 70


class AgentError(Exception):
    """The agent cannot run; the message is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """Configuration of one agent.

    `access` is that of simulated Macs. `config` has the live sites. Without both, and if `config`
    does not have the site, the site is in dry run: jobs are withheld and no Mac is touched. `slots`
    is the number of Macs with an order at once in the whole site, over all its agents. Without
    `listen` there are no probes. Without `keys` the key directory is `data_dir`/keys; without
    `name` a name is made and kept in `data_dir`.
    """

    site: str
    data_dir: Path
    connection: KafkaConnection
    keys: Path | None = None
    name: str | None = None
    slots: int = 50
    drain_s: float = 30.0
    session_s: float = 30.0
    listen: Listen | None = None
    access: SiteAccess | None = None
    config: AgentConfig | None = None
    clock: Clock = field(default_factory=WallClock)


def serve(plan: AgentPlan, log: Log) -> None:
    """Run the site's jobs until SIGTERM or SIGINT, then give the partitions up within `drain_s`.

    Raises AgentError if the agent cannot start (data directory, keys, address or Kafka) or if its
    job consumer fails. If a poll of Kafka hangs for 60 s before the end was requested, the process
    exits with code 70.
    """
    forward_kafka_clients(log)
    with _data_dir(plan.data_dir):
        name = plan.name or _persistent_name(plan.data_dir)
        keys = _open_keys(plan.keys or plan.data_dir / "keys", log)
        agent = _Agent(replace(plan, name=name), keys, log)
        agent.run()


class _Agent:
    def __init__(self, plan: AgentPlan, keys: TrustedKeys, log: Any) -> None:
        assert plan.name is not None
        self._plan = plan
        self._log = log
        self._metrics = AgentMetrics()
        self._keys = keys.current
        self._halts = HaltReader(
            plan.connection,
            log,
            self._metrics.count_lost_records,
            keys.current,
            self._metrics.count_ignored_control,
        )
        self._space = SpaceReserve(plan.data_dir)
        self._skew = ClockSkew(log)
        self._result_producer = ResultProducer(plan.connection, self._skew)
        self._live: LiveSite | None = None
        self._mdm_metrics = MdmMetrics(self._metrics.registry)
        self._installer_metrics = InstallerMetrics(self._metrics.registry)
        self._sites = self._open_sites()
        access = plan.access if self._sites is None else self._sites.access(plan.site)
        self._site = SiteContext(
            name=plan.site,
            executor_name=plan.name,
            folder=plan.data_dir,
            leases=LeaseManager(plan.connection, plan.site),
            result_producer=self._result_producer,
            clock=plan.clock,
            keys=keys.current,
            access=access,
            halts=self._halts.scopes,
            metrics=self._metrics,
            log=log,
        )
        member = GroupMember(plan.site, plan.name, plan.session_s)
        self._job_consumer = JobConsumer(
            plan.connection,
            member,
            self._make_runner,
            self._metrics,
            log,
            is_kafka_up=lambda: self._halts.scopes(plan.clock.now()) is not None,
        )
        self._stop_requested = threading.Event()
        if self._sites is not None:
            self._live = LiveSite(
                *(self._sites, plan.connection, member),
                wake=self._job_consumer.wake,
                keys=keys.current,
                metrics=self._mdm_metrics,
                log=log,
            )

    def _open_sites(self) -> ConfiguredSites | None:
        """Return the access to this site's Macs; None if it is not configured.

        Raises AgentError if a server or the store of answers cannot be used.
        """
        config, site = self._plan.config, self._plan.site
        if config is None or site not in config.sites:
            return None
        if not self._keys().records:
            raise AgentError(
                "no key in trust/records of the key directory, so reports of Macs would be ignored:"
                " copy trust/records of the gateways there"
            )
        try:
            sites = ConfiguredSites(
                AgentConfig(sites={site: config.sites[site]}),
                self._plan.data_dir,
                now=self._plan.clock.now,
                on_finding=finding_reporter(self._log, self._mdm_metrics),
                on_query_answer=self._mdm_metrics.count_query_answer,
                is_current=self._are_answers_known,
            )
            sites.start_caches(self._installer_metrics, self._log)
            return sites
        except (ServerConfigError, OpenError) as error:
            raise AgentError(str(error)) from error

    def _are_answers_known(self) -> bool:
        return self._live is not None and self._live.are_answers_known()

    def run(self) -> None:
        """Run until stopped. Raises AgentError if the probe or the job consumer fails."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: self._stop_requested.set())
        probe = self._probe()
        self._log_startup(probe)
        self._halts.start()
        if self._live is not None:
            self._live.start()
        self._job_consumer.start()
        draining = False
        while self._job_consumer.is_alive():
            if self._stop_requested.is_set() and not draining:
                draining = True
                self._log.info("draining", **{key.DURATION_S: self._plan.drain_s})
                self._job_consumer.drain(self._plan.drain_s)
            self._watch(draining=draining)
            self._job_consumer.join(_WATCH_INTERVAL_S)
        self._halts.stop()
        if self._live is not None:
            self._live.stop()
        self._result_producer.close()
        if probe is not None:
            probe.stop()
        if self._job_consumer.failure is not None:
            raise AgentError(self._job_consumer.failure)
        self._log.info("stopped", **{key.SITE: self._plan.site})

    def _watch(self, *, draining: bool) -> None:
        """Set the metrics of the halts; exit with code 70 if a poll of Kafka hangs for 60 s.

        While the agent drains, it does not exit.
        """
        scopes = self._halts.scopes(self._plan.clock.now())
        whole = scopes or ()
        halted = any(
            scope.everything or (scope.site == self._plan.site and scope.action is None)
            for scope in whole
        )
        self._metrics.set_halts(known=scopes is not None, halted=halted)
        self._metrics.set_answers(known=self._are_answers_known())
        self._metrics.set_volume(full=self._space.shortage() is not None)
        self._metrics.set_clock_skew(self._skew.seconds)
        self._metrics.set_ready(ready=self._refusal() is None)
        if not draining and time.monotonic() - self._job_consumer.polled_at > _WATCHDOG_S:
            self._log.critical("poll of Kafka hangs; exiting", **{key.SITE: self._plan.site})
            # Nothing else ends a hanging thread, and everything that must survive is in Kafka.
            os._exit(_HUNG_EXIT_CODE)

    def _make_runner(
        self, partition: int, partitions: int, commit: Callable[[int, int], None]
    ) -> PartitionRunner:
        """Return the runner of a partition, with its share of the site's slots, at least one."""
        share, remainder = divmod(self._plan.slots, partitions)
        slots = max(1, share + (partition < remainder))
        return PartitionRunner(self._site, partition, slots, commit)

    def _probe(self) -> ProbeServer | None:
        """Return the started probe, None without `listen`.

        Raises AgentError if the address cannot be used.
        """
        if self._plan.listen is None:
            return None
        try:
            probe = ProbeServer(
                self._plan.listen, self._metrics.registry, self._health, self._readiness
            )
        except ValueError as error:
            raise AgentError(str(error)) from error
        probe.start()
        return probe

    def _health(self) -> dict[str, Any]:
        """Return the body of /healthz.

        `ok` is False if the job consumer ended or did not poll for 30 s. `halts` has the keys of
        the halts in force, None if unknown. `answers_known` is True while the answers of Macs at
        MDM servers are read to the ends of their topics. `shortage` is the reason for which the
        volume of the journals has no room; then no job starts. None if it has room. `troubles` has
        the reason for each partition without progress. `partitions` has the status of each
        partition with a runner, None until the first cycle of its lease is done.
        """
        scopes: tuple[HaltScope, ...] | None = self._halts.scopes(self._plan.clock.now())
        age_s = time.monotonic() - self._job_consumer.polled_at
        return {
            "ok": self._is_polling(),
            "site": self._plan.site,
            "name": self._plan.name,
            "last_poll_s": round(age_s, 3),
            "shortage": self._space.shortage(),
            "troubles": self._job_consumer.troubles(),
            "answers_known": self._are_answers_known(),
            "halts": None if scopes is None else [scope.key for scope in scopes],
            "partitions": {
                partition: None
                if status is None
                else status._asdict() | {"wake_at": status.wake_at and status.wake_at.isoformat()}
                for partition, status in self._job_consumer.partition_statuses().items()
            },
        }

    def _readiness(self) -> dict[str, Any]:
        """Return the body of /readyz: `ok`, and the `reason` if jobs cannot start or go on."""
        reason = self._refusal()
        return {"ok": reason is None, "reason": reason}

    def _refusal(self) -> str | None:
        """Return the reason for which jobs cannot start or go on here, None without one."""
        if not self._is_polling():
            return "the poll of Kafka hangs or has ended"
        if not self._job_consumer.partitions:
            return "not in the group yet"
        if self._halts.scopes(self._plan.clock.now()) is None:
            return "the halts are unknown: the control topic cannot be read"
        if self._sites is not None and not self._are_answers_known():
            return "the answers of Macs are unknown: their topics are not read to the end"
        troubles = sorted(self._job_consumer.troubles().items())
        if troubles:
            return "; ".join(f"partition {number}: {trouble}" for number, trouble in troubles)
        return self._space.shortage()

    def _is_polling(self) -> bool:
        """Return True if the job consumer runs and polled in the last 30 s."""
        age_s = time.monotonic() - self._job_consumer.polled_at
        return self._job_consumer.is_alive() and age_s < _WATCHDOG_S / 2

    def _log_startup(self, probe: ProbeServer | None) -> None:
        address = {"name": self._plan.name, "pid": os.getpid()}
        if probe is not None and self._plan.listen is not None:
            address["url"] = f"http://{self._plan.listen.host}:{probe.port}"
        (self._plan.data_dir / ADDRESS_FILE).write_text(json.dumps(address))
        self._log.info("started", **{key.SITE: self._plan.site, key.DETAIL: json.dumps(address)})
        if self._sites is not None:
            self._log.info("live site", **{key.SITE: self._plan.site})
        elif self._plan.access is None:
            self._log.warning("dry run: no Mac is touched, every job is withheld")


def _open_keys(folder: Path, log: Any) -> TrustedKeys:
    """Return the trusted keys of the agent.

    Raises AgentError if the folder cannot be used, or has no key for jobs or none for control.
    """

    def report(problem: str) -> None:
        log.error("trusted keys: correct the key directory", **{key.DETAIL: problem})

    try:
        keys = TrustedKeys(folder, report)
    except KeysError as error:
        raise AgentError(str(error)) from error
    if not keys.current().jobs:
        raise AgentError(f"no key in {folder / 'trust' / 'jobs'}: every job would be refused")
    if not keys.current().control:
        raise AgentError(f"no key in {folder / 'trust' / 'control'}: every halt would be ignored")
    return keys


@contextmanager
def _data_dir(folder: Path) -> Iterator[None]:
    """Create the data directory and lock it for this process during the `with` block.

    Raises AgentError if another process has the lock, and for each OSError, also one of the `with`
    block.
    """
    try:
        with locked_folder(folder):
            yield
    except InUseError as error:
        raise AgentError(f"another executor works in {folder}") from error
    except OSError as error:
        raise AgentError(f"cannot use {folder}: {error.strerror or error}") from error


def _persistent_name(folder: Path) -> str:
    """Return the agent's name from the data directory; the first call stores a random one."""
    path = folder / _NAME_FILE
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n")
    return path.read_text().strip()
