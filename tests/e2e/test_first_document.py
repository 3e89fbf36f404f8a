"""A first document of SOFA, in the service's thread while reports arrive.

The times are those of `python -m tests.bench.first_document`: here they depend on the machine.
"""

from pathlib import Path

from tests.bench.first_document import measure

FEED = "macos_data_feed.2026-08-06T1306Z.json"
MACS = 200
MOST_BYTES = 1500


def test_each_mac_is_decided_with_at_most_one_job(disk: Path, reference_data: Path) -> None:
    found = measure((reference_data / "sofa" / "v2" / FEED).read_bytes(), MACS, disk)
    assert found.decided == MACS
    assert found.most_jobs == 1
    assert found.bytes_per_decision < MOST_BYTES
