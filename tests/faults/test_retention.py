"""A shortened log of the embedded form: its remaining entries, and their verification."""

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from agents.site_access import SiteAccess
from pipeline.embedded.log import Log
from pipeline.embedded.log_retention import Retention
from pipeline.embedded.service import Options, Service
from pipeline.embedded.store import Store
from pipeline.replay.counterfactual import counterfactual
from pipeline.replay.explain import explain
from pipeline.replay.log import UnreadableLog
from pipeline.replay.verify import Check, verify
from pipeline.state.fleet import Fleet
from pipeline.state.fleet_snapshot import decode_fleet, encode_fleet
from tests.embedded_world import POLICY, Environment, at, live, needy_macs
from tests.factories.sites import JOBS_KEY, KEYS, START

KEEP = timedelta(days=2)
END = START + timedelta(days=6)


def open_service(
    folder: Path,
    environment: Environment,
    keep: timedelta | None = KEEP,
    hook: Callable[[str], None] | None = None,
) -> Service:
    return Service.open(
        folder,
        now=environment.now,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        access=lambda _: SiteAccess.simulated(environment.fleet.mac_for),
        options=Options(keep=keep, on_durable_write=hook),
    )


def run(folder: Path, keep: timedelta | None = KEEP, until: datetime = END) -> Environment:
    environment = Environment.of(*needy_macs())
    service = open_service(folder, environment, keep)
    live(service, environment, until)
    service.close()
    return environment


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shortened")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def unshortened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, keep=None)
    return folder


@pytest.fixture
def copy(shortened: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shortened, tmp_path / "copy"))


def assert_verified(folder: Path) -> None:
    with Log.open(folder) as log:
        for fast_paths in (True, False):
            report = verify(log, state=log, fast_paths=fast_paths)
            assert report.difference is None
            assert report.events > 0


def test_shortened_log_verifies_from_its_snapshot(shortened: Path) -> None:
    assert_verified(shortened)
    with Log.open(shortened) as log:
        start = log.start_seq()
        assert start > 0
        assert log.snapshots()[0].seq == start
        assert log.snapshots()[0].at <= END - KEEP


def test_entries_of_the_kept_time_are_complete(shortened: Path, unshortened: Path) -> None:
    with Log.open(shortened) as log, Log.open(unshortened) as whole:
        start = log.start_seq()
        assert list(log.entries(after=start)) == list(whole.entries(after=start))
        assert whole.start_seq() == 0
        old = list(log.entries(since=START))[:-1]
        old = [entry for entry in old if entry.seq <= start]
        assert len(old) < 20
        assert {entry.type for entry in old} <= {"decision", "drydock.job.issued.v1"}
        assert verify(whole, state=whole).difference is None


def test_each_mac_is_explained_as_before(shortened: Path, unshortened: Path) -> None:
    with Log.open(shortened) as log, Log.open(unshortened) as whole:
        for spec in needy_macs():
            found, wanted = explain(log, spec.udid), explain(whole, spec.udid)
            assert found is not None
            assert wanted is not None
            assert (found.seq, found.record) == (wanted.seq, wanted.record)


def test_other_policy_is_compared_from_the_snapshot_on(shortened: Path) -> None:
    with Log.open(shortened) as log:
        assert counterfactual(log, POLICY).changes == ()


def test_service_continues_on_a_shortened_log(tmp_path: Path) -> None:
    environment = run(tmp_path)
    service = open_service(tmp_path, environment)
    live(service, environment, END + timedelta(days=3))
    service.close()
    assert_verified(tmp_path)
    with Log.open(tmp_path) as log:
        assert log.snapshots()[0].at >= END - KEEP


@pytest.mark.parametrize(
    "moment", ["snapshot:before", "snapshot:after", "delete:before", "delete:after"]
)
def test_crash_while_the_log_is_shortened_loses_nothing(tmp_path: Path, moment: str) -> None:
    class Crash(BaseException):
        """The process ends here."""

    environment = Environment.of(*needy_macs())
    seen = 0

    def crash(at_moment: str) -> None:
        nonlocal seen
        seen += at_moment == moment
        # At the beginning only snapshots are stored.
        if at_moment == moment and environment.now > START + timedelta(days=3) and seen < 1000:
            seen = 1000
            raise Crash

    service = open_service(tmp_path, environment, hook=crash)
    with pytest.raises(Crash):
        live(service, environment, END)
    service.close()
    assert_verified(tmp_path)
    service = open_service(tmp_path, environment)
    live(service, environment, END)
    service.close()
    assert_verified(tmp_path)


def test_altered_snapshot_is_found(copy: Path) -> None:
    with Store.open(copy) as store, store.transaction("test"):
        seq = store.snapshots()[-1].seq
        store._db.execute("UPDATE snapshots SET digest = 'x' WHERE seq = ?", (seq,))
    with Log.open(copy) as log:
        found = verify(log, state=log).difference
        assert found is not None
        assert (found.check, found.seq, found.recorded) == (Check.SNAPSHOT, seq, "x")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE snapshots SET digest = 'x' WHERE seq = ?", "was altered"),
        ("UPDATE snapshots SET body = x'00' WHERE seq = ?", "cannot be read"),
        ("DELETE FROM snapshots WHERE seq = ?", "is missing"),
    ],
)
def test_log_with_an_unusable_start_is_not_verified(
    copy: Path, statement: str, reason: str
) -> None:
    with Store.open(copy) as store, store.transaction("test"):
        assert store._db.execute(statement, (store.start_seq(),)).rowcount == 1
    with Log.open(copy) as log, pytest.raises(UnreadableLog, match=reason):
        verify(log, state=log)


def test_entries_are_deleted_in_small_transactions(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        with store.transaction("test"):
            for number in range(100):
                store.append_event(
                    at(number), source="s", identity=str(number), kind="t", key="A", body=b"{}"
                )
        retention = Retention(store, timedelta(days=1), batch_size=10)
        counts = [100]
        for hour in range(100, 160):
            while retention.next_due_at(at(hour)) <= at(hour):
                retention.work(Fleet(), at(hour))
                counts.append(sum(1 for _ in store.entries()))
        assert store.start_seq() == store.last_seq() == 100
    assert counts[-1] == 1
    assert max(before - after for before, after in pairwise(counts)) == 10


def test_last_decision_and_open_job_stay(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, store.transaction("test"):
        for identity in ("open", "ended"):
            store.append_event(
                START, source="drydock", identity=identity, kind="t", key="A", body=b"{}"
            )
        for body in (b"{1}", b"{2}"):
            store.append_decision(START, "A", body)
        store.put_snapshot(START, "d", b"{}")
        store.move_start(store.last_seq())
        assert store.delete_before_start(0, 100, "drydock", ["open"]) is None
        assert [entry.seq for entry in store.entries()] == [1, 4]
        assert store.last_decision("A") == b"{2}"
        assert store.event_body("drydock", "open") == b"{}"


def test_snapshot_of_a_fleet_is_read_back(tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    service = open_service(tmp_path, environment)
    live(service, environment, START + timedelta(days=1))
    raw = encode_fleet(service.reconciler.fleet)
    service.close()
    assert encode_fleet(decode_fleet(raw)) == raw
