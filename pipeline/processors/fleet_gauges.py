"""The gauges of a worker that describe its Macs, halts, policy and feeds."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Final

from pipeline.metrics import Metrics
from pipeline.processors.device_shard import DeviceShard
from pipeline.reconcile.counting import (
    count_automatic_halts,
    count_fleet,
    count_halts,
    digest_in_force,
)
from pipeline.state.feed_comparison import compare_feeds
from pipeline.state.fleet import Fleet

# Some counts visit all Macs.
_COUNT_INTERVAL_S: Final = 60.0
_COUNT_INTERVAL_OF_NEW_S: Final = 5.0


class FleetGauges:
    """Sets the gauges. `broadcast` is the fleet with the state that concerns all Macs."""

    def __init__(self, metrics: Metrics, broadcast: Fleet) -> None:
        self._metrics = metrics
        self._broadcast = broadcast
        self._counted: list[DeviceShard] = []
        self._known = 0
        self._counted_at = -_COUNT_INTERVAL_S

    async def update(self, shards: Sequence[DeviceShard], now: datetime) -> None:
        """Set the gauges of the Macs of these shards, and of their open jobs.

        Those that visit every Mac are set when the shards change, once a minute, and within seconds
        after new Macs.
        """
        reconcilers = [shard.reconciler for shard in shards]
        self._metrics.set_fleet(count_fleet(reconcilers, now))
        fleet = self._broadcast
        self._metrics.set_control(
            count_halts(fleet, now), count_automatic_halts(fleet, now), digest_in_force(fleet)
        )
        known = sum(len(one.fleet.devices) for one in reconcilers)
        is_old = monotonic() >= self._counted_at + (
            _COUNT_INTERVAL_S if known == self._known else _COUNT_INTERVAL_OF_NEW_S
        )
        if list(shards) == self._counted and not is_old:
            return
        self._counted, self._known, self._counted_at = list(shards), known, monotonic()
        devices, overdue = 0, Counter[str]()
        for reconciler in reconcilers:
            devices += sum(1 for _ in reconciler.fleet.macs())
            overdue.update(reconciler.count_overdue(now))
            await asyncio.sleep(0)
        self._metrics.set_devices(devices)
        self._metrics.set_overdue(overdue)
        found = compare_feeds(self._broadcast.advisories, now)
        self._metrics.set_feed_findings(one.code for one in found)
