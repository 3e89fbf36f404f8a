"""The WAL of a data directory after large transactions and long readers: it shrinks."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.embedded.log import FILE, Log
from pipeline.embedded.service import Service
from pipeline.embedded.store import MAX_WAL_BYTES, Store
from schemas.envelope import AdvisoryPublishedEvent
from schemas.macos import parse_os_version
from tests.embedded_world import Environment, at, open_service
from tests.factories.sites import START, critical_release, osquery_report

_BODY = b"x" * 2**20
_MACS = 5000


def large_release(version: str) -> AdvisoryPublishedEvent:
    """Return an advisory of the size of Apple's largest: 100 CVEs."""
    event = critical_release(version, "25D60")
    cves = tuple(f"CVE-2026-{version[-1]}{number}" for number in range(2000, 2100))
    return event.model_copy(update={"data": event.data.model_copy(update={"cves": cves})})


def wal_bytes(folder: Path) -> int:
    return (folder / f"{FILE}-wal").stat().st_size


def write(store: Store, megabytes: int, name: str) -> None:
    with store.transaction("test"):
        for number in range(megabytes):
            store.append_event(
                START, source=name, identity=str(number), kind="t", key="A", body=_BODY
            )


def test_wal_is_truncated_after_a_large_transaction(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        write(store, 1, "small")
        assert 0 < wal_bytes(tmp_path) <= MAX_WAL_BYTES
        write(store, 2 * MAX_WAL_BYTES // 2**20, "large")
        assert wal_bytes(tmp_path) == 0


def test_writer_does_not_wait_for_a_reader_of_the_wal(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        write(store, 1, "before")
        with Log.open(tmp_path) as reader:
            started = time.monotonic()
            write(store, 2 * MAX_WAL_BYTES // 2**20, "large")
            write(store, 1, "after")
            assert time.monotonic() - started < 4  # SQLite's own wait is 5 s
            assert wal_bytes(tmp_path) > MAX_WAL_BYTES
            assert reader.last_seq() == 1
        write(store, 1, "last")
        assert wal_bytes(tmp_path) == 0


def finish(service: Service, environment: Environment) -> None:
    wake = service.next_wake(environment.now)
    while wake is not None and wake <= environment.now:
        service.tick(environment.now)
        wake = service.next_wake(environment.now)


@pytest.mark.slow
def test_wal_is_small_after_an_advisory_for_five_thousand_macs(tmp_path: Path) -> None:
    environment = Environment.of()
    service = open_service(tmp_path, environment)
    try:
        for start in range(0, _MACS, 500):
            events = [
                osquery_report(f"MAC-{number}", START, os_version=parse_os_version("26.0"))
                for number in range(start, start + 500)
            ]
            service.accept(events, (), environment.now)
        finish(service, environment)
        environment.now = at(1)
        with Log.open(tmp_path):  # for example `replay --verify`
            for version in ("26.3", "26.4", "26.5"):
                service.accept([large_release(version)], (), environment.now)
                finish(service, environment)
            assert wal_bytes(tmp_path) > MAX_WAL_BYTES
        environment.now += timedelta(minutes=1)
        service.accept([osquery_report("MAC-1", environment.now)], (), environment.now)
        assert wal_bytes(tmp_path) <= MAX_WAL_BYTES
    finally:
        service.close()
