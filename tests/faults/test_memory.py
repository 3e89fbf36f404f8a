"""The memory of a service does not grow with the number of reports that it has folded."""

import gc
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from pipeline.embedded.service import Service
from tests import factories
from tests.factories import NOW
from tests.factories.sites import JOBS_KEY, KEYS

_MACS: Final = 250
_WARM_ROUNDS: Final = 4
_ROUNDS: Final = 14
# The later 10 rounds are 2,500 reports: 600 bytes kept of each are 1.5 MB.
_GROWTH_BYTES: Final = 1_500_000
_PAGE_BYTES: Final = 4096

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def test_reports_do_not_add_up(tmp_path: Path) -> None:
    service = Service.open(
        tmp_path, now=NOW, signer=JOBS_KEY, trust=KEYS, policy_text=factories.POLICY_TEXT
    )
    service.accept([factories.release("26.1")], (), NOW)
    sizes = []
    for number in range(_ROUNDS):
        at = NOW + number * timedelta(minutes=20)
        reports = [
            factories.full_report("26.1", f"MAC-{mac}", at, free_disk_gb=50.0 + number)
            for mac in range(_MACS)
        ]
        service.accept(reports, (), at)
        service.tick(at)
        sizes.append(resident_bytes())
    assert len(service.reconciler.fleet.devices) == _MACS
    service.close()
    assert sizes[-1] - sizes[_WARM_ROUNDS - 1] < _GROWTH_BYTES, sizes
