"""The lock: no Mac is erased or reinstalled unless its site's configuration names it."""

from pathlib import Path

import pytest

from agents.destructive_lock import DestructiveLock
from agents.executor import Executor
from agents.journal import Journal
from agents.mac import Ack, Mac, Observation, UnreachableError
from agents.site_access import SiteAccess
from schemas.jobs import Action, Job, Method, Permit
from tests.factories.sites import (
    KEYS,
    SITE,
    START,
    a_fleet,
    a_job,
    a_spec,
    an_erasing_job,
    collect,
    drive,
    hours,
    outcomes,
    signed_job,
)

SERIAL = "C02XK1ZYJHD3"
DESTRUCTIVE = {
    "erase_device": an_erasing_job(Method.ERASE_DEVICE, serial=SERIAL),
    "asr": an_erasing_job(Method.ASR, serial=SERIAL),
    "startosinstall, erasing": an_erasing_job(Method.STARTOSINSTALL, serial=SERIAL),
    "startosinstall, reinstall": a_job(Action.REINSTALL, Method.STARTOSINSTALL, serial=SERIAL),
    "startosinstall, upgrade": a_job(Action.UPGRADE, Method.STARTOSINSTALL, serial=SERIAL),
    "reinstall by another method": a_job(Action.REINSTALL, Method.MDM_COMMAND, serial=SERIAL),
    "another method that erases": an_erasing_job(Method.MDM_COMMAND, serial=SERIAL),
}
HARMLESS = {
    "update over SSH": a_job(serial=SERIAL),
    "update over MDM": a_job(method=Method.DDM),
    "re-enrollment": a_job(Action.REENROLL, Method.PROFILES_RENEW, intent="x", target=None),
}
OTHERS = {
    "none": frozenset[str](),
    "another Mac": frozenset({"C02ZZZZZZZZZ"}),
    "a prefix": frozenset({SERIAL[:-1]}),
    "a pattern": frozenset({"*", "C02*"}),
    "the UDID": frozenset({"MAC-1"}),
}


class UntouchableMac:
    """A Mac that fails the test if it is looked at or gets an order."""

    def look(self, job: Job) -> Observation:
        raise AssertionError(f"looked at for {job.job_id}")

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        raise AssertionError((step, job, attempt))


def run_one(job: Job, mac: Mac, lock: DestructiveLock | None) -> list[tuple[str, str | None]]:
    """Return the outcomes of a job after one tick; without a lock, the access has its default."""
    access = SiteAccess(lambda _: mac)
    if lock is not None:
        access = SiteAccess(lambda _: mac, lock.refuse)
    executor = Executor(SITE, Journal(":memory:"), KEYS, access)
    executor.set_halts(())
    executor.submit(signed_job(job), START)
    executor.tick(START)
    return outcomes(collect(executor))


@pytest.mark.parametrize("allowed", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("job", DESTRUCTIVE.values(), ids=DESTRUCTIVE.keys())
def test_destructive_job_is_refused_before_its_mac_is_looked_at(
    job: Job, allowed: frozenset[str]
) -> None:
    assert run_one(job, UntouchableMac(), DestructiveLock(allowed)) == [("refused", "locked")]


@pytest.mark.parametrize("job", DESTRUCTIVE.values(), ids=DESTRUCTIVE.keys())
def test_access_without_a_configuration_permits_nothing_destructive(job: Job) -> None:
    assert run_one(job, UntouchableMac(), None) == [("refused", "locked")]


@pytest.mark.parametrize("method", [Method.ERASE_DEVICE, Method.STARTOSINSTALL, Method.ASR])
@pytest.mark.parametrize("serial", [None, "0", "NONE"])
def test_job_without_a_serial_number_is_refused(method: Method, serial: str | None) -> None:
    lock = DestructiveLock(frozenset({SERIAL}))
    job = an_erasing_job(method, serial=serial)
    assert run_one(job, UntouchableMac(), lock) == [("refused", "locked")]


@pytest.mark.parametrize("serial", [SERIAL, SERIAL.lower()], ids=["capitals", "small letters"])
def test_job_of_a_listed_mac_is_permitted(serial: str) -> None:
    fleet = a_fleet(a_spec(serial=SERIAL))
    lock = DestructiveLock(frozenset({SERIAL}))
    executor = Executor(SITE, Journal(":memory:"), KEYS, SiteAccess(fleet.mac_for, lock.refuse))
    executor.set_halts(())
    executor.submit(signed_job(an_erasing_job(serial=serial)), START)
    drive(executor, fleet, START + hours(3))
    assert len(fleet.acted) == 1


@pytest.mark.parametrize("permit", Permit)
@pytest.mark.parametrize("job", DESTRUCTIVE.values(), ids=DESTRUCTIVE.keys())
def test_permit_of_the_policy_counts_where_the_site_accepts_it(job: Job, permit: Permit) -> None:
    permitted = job.model_copy(update={"permit": permit})
    assert DestructiveLock(accepts_permits=True).refuse(permitted) is None
    assert DestructiveLock().refuse(permitted) is not None
    assert DestructiveLock(frozenset({"C02ZZZZZZZZZ"})).refuse(permitted) is not None


@pytest.mark.parametrize("job", DESTRUCTIVE.values(), ids=DESTRUCTIVE.keys())
def test_job_without_a_permit_is_refused_where_permits_are_accepted(job: Job) -> None:
    lock = DestructiveLock(accepts_permits=True)
    assert run_one(job, UntouchableMac(), lock) == [("refused", "locked")]


def test_permit_does_not_replace_the_serial_number() -> None:
    job = DESTRUCTIVE["erase_device"].model_copy(update={"permit": Permit.CANARY, "serial": None})
    refusal = DestructiveLock(accepts_permits=True).refuse(job)
    assert refusal is not None
    assert refusal.detail.endswith("does not list a Mac without a serial number")


@pytest.mark.parametrize("job", HARMLESS.values(), ids=HARMLESS.keys())
def test_other_jobs_need_no_permission(job: Job) -> None:
    assert DestructiveLock().refuse(job) is None


def test_refusal_names_the_mac_and_the_setting() -> None:
    refusal = DestructiveLock().refuse(DESTRUCTIVE["erase_device"])
    assert refusal is not None
    assert refusal.detail == f"erase_device is locked: allow_destructive does not list {SERIAL}"


@pytest.mark.parametrize(
    ("serial", "permitted"), [(SERIAL, True), ("C02ZZZZZZZZZ", False), (None, False)]
)
def test_migration_is_permitted_for_a_listed_mac_only(serial: str | None, permitted: bool) -> None:
    assert DestructiveLock(frozenset({SERIAL})).permits(serial) is permitted


class SilentMac(UntouchableMac):
    """A Mac that gets an order and then does not respond."""

    def __init__(self) -> None:
        self.orders = 0

    def look(self, job: Job) -> Observation:
        if self.orders:
            raise UnreachableError(job.udid)
        return Observation(boot_at=START - hours(1), installed_at=START - hours(99))

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        self.orders += 1
        raise UnreachableError(f"{step} {job.udid} {attempt}")


class AwakeMac(UntouchableMac):
    """A Mac that shows no trace of an order and must not get one."""

    def look(self, job: Job) -> Observation:  # noqa: ARG002 - Mac's signature
        return Observation(boot_at=START - hours(1), installed_at=START - hours(99))


def a_life(journal: Journal, mac: Mac, *allowed: str) -> Executor:
    """Return an executor that may erase these Macs, on a journal of earlier ones."""
    lock = DestructiveLock(frozenset(allowed))
    executor = Executor(SITE, journal, KEYS, SiteAccess(lambda _: mac, lock.refuse))
    executor.set_halts(())
    return executor


def test_order_is_not_repeated_after_the_permission_ended(tmp_path: Path) -> None:
    mac = SilentMac()
    with Journal(tmp_path / "journal") as journal:
        executor = a_life(journal, mac, SERIAL)
        executor.submit(signed_job(an_erasing_job(serial=SERIAL)), START)
        executor.tick(START)
    assert mac.orders == 1
    with Journal(tmp_path / "journal") as journal:
        executor = a_life(journal, AwakeMac())
        for hour in range(24):
            executor.tick(START + hours(hour))
        assert executor.touched_jobs == 1


def test_job_that_waits_is_refused_after_the_permission_ended(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        executor = a_life(journal, UntouchableMac(), SERIAL)
        executor.submit(signed_job(an_erasing_job(serial=SERIAL)), START)
    with Journal(tmp_path / "journal") as journal:
        executor = a_life(journal, UntouchableMac())
        executor.tick(START)
        assert outcomes(collect(executor)) == [("refused", "locked")]


def test_simulated_macs_have_no_lock() -> None:
    fleet = a_fleet(a_spec("MAC-1"))
    assert SiteAccess.simulated(fleet.mac_for).refusal(DESTRUCTIVE["asr"]) is None
