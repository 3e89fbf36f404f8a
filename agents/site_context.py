"""The configuration and connections that all partitions of one agent share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agents.clock import Clock
from agents.leases import LeaseManager
from agents.metrics import AgentMetrics
from agents.proven_time import ProvenTime
from agents.result_producer import ResultProducer
from agents.site_access import SiteAccess
from runtime.trusted_keys import KeyRing
from schemas.events.control import HaltScope

Halts = Callable[[datetime], tuple[HaltScope, ...] | None]


@dataclass(frozen=True, slots=True)
class SiteContext:
    """Configuration and connections shared by all partitions of one agent.

    `keys` returns the trusted keys, the same object until they change. `halts` returns the scopes
    of the halts in force at a time, None if they are unknown. `proven_time` is the least time that
    it can be. Without `access` the site is in dry run.
    """

    name: str
    executor_name: str
    folder: Path
    leases: LeaseManager
    result_producer: ResultProducer
    clock: Clock
    keys: Callable[[], KeyRing]
    access: SiteAccess | None
    halts: Halts
    metrics: AgentMetrics
    log: Any
    proven_time: ProvenTime = field(default_factory=ProvenTime)
