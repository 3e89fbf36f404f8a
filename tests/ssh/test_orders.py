"""Orders to a Mac with a real OpenSSH server: updates, renewals, and each refusal of the tools."""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from agents.mac import AckKind, InstallState, Observation, UnreachableError
from agents.preflight import Busy, Limits, Ready, Unfit, fitness
from agents.ssh.mac import SshMacs
from schemas.jobs import Action, Method
from schemas.macos import parse_os_version
from schemas.results import ErrorCode
from tests.factories.sites import a_job
from tests.ssh.bench import LABEL, LISTING, NO_UPDATES, PASSWORD, SERIAL, UPDATE, MacBench, look
from tests.waiting import wait_until

ORDER = f"{UPDATE.job_id}/1/install"
RENEWAL = a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x", serial=SERIAL)
PAST_DEADLINE = UPDATE.model_copy(update={"deadline_at": datetime(2026, 1, 6, tzinfo=UTC)})


def watch(macs: SshMacs, until: Callable[[Observation], bool]) -> Observation:
    for _ in range(150):
        seen = look(macs)
        if until(seen):
            return seen
        time.sleep(0.1)
    raise AssertionError(seen)


def has_failed(seen: Observation) -> bool:
    return seen.progress.state is InstallState.FAILED


def test_mac_is_observed(bench: MacBench) -> None:
    seen = look(bench.macs())
    assert seen.os_version == parse_os_version("26.6")
    assert (str(seen.build), seen.apple_silicon, seen.serial) == ("25G72", True, SERIAL)
    assert seen.free_disk_gb == pytest.approx(64.0)
    assert (seen.on_ac_power, seen.volume_owner, seen.busy) == (True, True, False)
    assert seen.boot_at is not None
    assert fitness(UPDATE, seen, Limits(), datetime.now(UTC)) == Ready()


def test_update_runs_by_its_exact_label_and_restarts_the_mac(bench: MacBench) -> None:
    macs = bench.macs()
    before = look(macs)
    assert macs.act("install", UPDATE, 1).kind is AckKind.ACCEPTED
    assert ORDER in macs.look(UPDATE).marks
    after = watch(macs, lambda seen: seen.os_version == parse_os_version("26.7"))
    assert before.boot_at is not None
    assert after.boot_at is not None
    assert after.boot_at > before.boot_at
    assert bench.lines("installs") == [
        f"--install {LABEL} --restart --agree-to-license --verbose --user itadmin --stdinpass"
    ]
    assert bench.lines("passwords") == [PASSWORD]


def test_password_is_only_on_standard_input(bench: MacBench) -> None:
    record = "for one in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do cat $one; done 2>/dev/null"
    bench.set(**{"install.sh": f'{record} >"$mac/seen"; sleep 0.5; echo Done.'})
    look(bench.macs())
    bench.macs().act("install", UPDATE, 1)
    watch(bench.macs(), lambda seen: seen.progress.state is InstallState.PREPARED)
    wait_until(lambda: any(bench.folder.rglob("*.install/exit")), 30.0, "the task has not ended")
    assert bench.lines("passwords") == [PASSWORD]
    written = [path for path in bench.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    found = [path.name for path in written if PASSWORD.encode() in path.read_bytes()]
    assert found == ["passwords"]


def test_order_that_is_given_again_does_not_run_again(bench: MacBench) -> None:
    look(bench.macs())
    for _ in range(3):
        assert bench.macs().act("install", UPDATE, 1).kind is AckKind.ACCEPTED
    watch(bench.macs(), lambda seen: seen.os_version == parse_os_version("26.7"))
    assert bench.macs().act("install", UPDATE, 1).kind is AckKind.ACCEPTED
    time.sleep(0.5)
    assert len(bench.lines("installs")) == 1


def test_order_that_has_begun_needs_no_listing(bench: MacBench) -> None:
    bench.offer_updates()
    bench.macs().act("install", UPDATE, 1)
    shutil.rmtree(bench.tasks / f"{UPDATE.job_id}.list.1")
    assert bench.macs().act("install", UPDATE, 1).kind is AckKind.ACCEPTED
    assert bench.lines("listings") == []


def test_intel_mac_gets_no_password(bench: MacBench) -> None:
    bench.set(intel="")
    macs = bench.macs(password=None)
    assert look(macs).volume_owner is None
    assert macs.act("install", UPDATE, 1).kind is AckKind.ACCEPTED
    watch(macs, lambda seen: seen.os_version == parse_os_version("26.7"))
    assert "--user" not in bench.lines("installs")[0]
    assert bench.lines("passwords") == []


FAILURES = {
    "disk, with exit status 0": (
        "echo 'Not enough free disk space: a total of 17.13 GB is required.'",
        ErrorCode.NO_DISK_SPACE,
    ),
    "owner refused after the download": (
        "printf 'Downloaded: macOS\\nFailed to authenticate\\nPassword:\\n'\nexit 1",
        ErrorCode.NO_VOLUME_OWNER,
    ),
    "label is gone": ("echo 'macOS 26.7: No such update'", ErrorCode.UPDATE_NOT_OFFERED),
    "no server": (
        "echo 'Can\u2019t connect to the Apple Software Update server'\nexit 1",
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
    ),
    "download": ("echo 'Error downloading updates.'", ErrorCode.DOWNLOAD_FAILED),
    "another status": ("echo 'Downloading macOS'\nexit 3", ErrorCode.INSTALL_FAILED),
    "nothing at all, with exit status 0": ("exit 0", ErrorCode.NOTHING_HAPPENED),
    "restart into the old system": (
        "echo 'Downloaded: macOS'\nrestart_into 26.6 25G72",
        ErrorCode.INSTALL_FAILED,
    ),
    "killed without a restart": (
        "echo 'Downloaded: macOS'\nkill -9 $PPID $$",
        ErrorCode.NOTHING_HAPPENED,
    ),
}


@pytest.mark.parametrize(("install", "code"), FAILURES.values(), ids=FAILURES)
def test_failure_of_the_installation_is_named(
    bench: MacBench, install: str, code: ErrorCode
) -> None:
    bench.set(**{"install.sh": install})
    look(bench.macs())
    bench.macs().act("install", UPDATE, 1)
    assert watch(bench.macs(), has_failed).progress.error_code is code
    assert PASSWORD not in repr(bench.macs().look(UPDATE))


def test_silent_installation_is_ended_and_named(bench: MacBench) -> None:
    bench.set(**{"install.sh": "echo 'Downloading macOS'\nexec /bin/sleep 600"})
    look(bench.macs())
    bench.macs(silence_s=2).act("install", UPDATE, 1)
    seen = watch(bench.macs(), has_failed)
    assert seen.progress.error_code is ErrorCode.NOTHING_HAPPENED
    assert "no output" in seen.progress.detail


OBSTACLES = {
    "other updates only": (
        LISTING.replace("26.7-25G229", "26.8-25H10"),
        ErrorCode.UPDATE_NOT_OFFERED,
    ),
    "no update, three times": (NO_UPDATES, ErrorCode.UPDATE_NOT_OFFERED),
    "no server, three times": ("Couldn't communicate", ErrorCode.UPDATE_SERVER_UNREACHABLE),
}


@pytest.mark.parametrize(("listing", "code"), OBSTACLES.values(), ids=OBSTACLES)
def test_update_without_an_offer_is_named_and_not_begun(
    bench: MacBench, listing: str, code: ErrorCode
) -> None:
    bench.set(**{"list.txt": listing})
    seen = look(bench.macs())
    unfit = fitness(UPDATE, seen, Limits(), datetime.now(UTC))
    assert isinstance(unfit, Unfit)
    assert unfit.error_code is code
    assert bench.macs().act("install", UPDATE, 1).kind is AckKind.REFUSED
    assert bench.lines("installs") == []


def test_empty_listing_is_listed_again(bench: MacBench) -> None:
    bench.set(**{"list.txt": NO_UPDATES})
    for _ in range(2):
        with pytest.raises(UnreachableError, match="listed"):
            bench.macs().look(UPDATE)
        time.sleep(1.5)
    bench.set(**{"list.txt": LISTING})
    assert fitness(UPDATE, look(bench.macs()), Limits(), datetime.now(UTC)) == Ready()


def test_account_that_owns_no_volume_is_named(bench: MacBench) -> None:
    bench.set(account_uid="99999999-2222-3333-4444-555555555555")
    unfit = fitness(UPDATE, look(bench.macs()), Limits(), datetime.now(UTC))
    assert isinstance(unfit, Unfit)
    assert unfit.error_code is ErrorCode.NO_VOLUME_OWNER


def test_running_installer_makes_the_mac_busy(bench: MacBench) -> None:
    bench.set(processes="/Applications/Install macOS Tahoe.app/Contents/Resources/startosinstall")
    assert fitness(UPDATE, look(bench.macs()), Limits(), datetime.now(UTC)) == Busy()
    assert bench.lines("listings") == []


def test_user_at_the_screen_is_left_alone_until_the_deadline(bench: MacBench) -> None:
    bench.set(console="jappleseed")
    early = UPDATE.model_copy(update={"deadline_at": datetime.now(UTC) + timedelta(hours=1)})
    for job in (UPDATE, early):
        assert fitness(job, look(bench.macs(), job), Limits(), datetime.now(UTC)) == Busy()
    assert (
        fitness(PAST_DEADLINE, look(bench.macs(), PAST_DEADLINE), Limits(), datetime.now(UTC))
        == Ready()
    )


def test_user_gets_a_notice_before_the_installation(bench: MacBench) -> None:
    bench.set(console=bench.server.user.replace("root", "daemon"))
    look(bench.macs(), PAST_DEADLINE)
    job = PAST_DEADLINE.model_copy(update={"notice_minutes": 10})
    assert bench.macs().act("install", job, 1).kind is AckKind.ACCEPTED
    wait_until(lambda: bench.lines("installs") != [], 60, "no installation after the notice")
    assert len(bench.lines("notices")) == len(bench.lines("installs")) == 1
    assert bench.lines("long-sleeps") == ["600"]
    begun = [(bench.folder / name).stat().st_mtime for name in ("notices", "installs")]
    assert begun[1] - begun[0] > 1


def test_another_mac_at_the_address_gets_no_order(bench: MacBench) -> None:
    look(bench.macs())
    bench.set(serial="C02ANOTHER01")
    with pytest.raises(UnreachableError) as caught:
        bench.macs().look(UPDATE)
    assert caught.value.obstacle is not None
    assert caught.value.obstacle.error_code is ErrorCode.WRONG_DEVICE
    ack = bench.macs().act("install", UPDATE, 1)
    assert (ack.kind, ack.error_code) == (AckKind.REFUSED, ErrorCode.WRONG_DEVICE)
    assert bench.lines("installs") == []


def test_account_without_roots_rights_is_named(bench: MacBench) -> None:
    refuses = "echo 'sudo: a password is required' >&2; exit 1"
    bench.root_command = ("sh", "-c", refuses)
    with pytest.raises(UnreachableError, match="a password is required") as caught:
        bench.macs().look(UPDATE)
    assert caught.value.obstacle is not None
    assert caught.value.obstacle.error_code is ErrorCode.SSH_LOGIN_REFUSED


def test_job_without_a_serial_number_is_refused(bench: MacBench) -> None:
    job = UPDATE.model_copy(update={"serial": None})
    unfit = fitness(job, bench.macs().look(job), Limits(), datetime.now(UTC))
    assert isinstance(unfit, Unfit)
    assert unfit.error_code is ErrorCode.UNSUPPORTED
    assert bench.macs().act("install", job, 1).kind is AckKind.REFUSED


def test_launchd_that_takes_no_job_is_a_refusal(bench: MacBench) -> None:
    look(bench.macs())
    bench.set(**{"launchd-refuses": ""})
    ack = bench.macs().act("install", UPDATE, 1)
    assert (ack.kind, ack.error_code) == (AckKind.REFUSED, ErrorCode.COMMAND_REJECTED)
    assert "Input/output error" in ack.detail


def test_renewal_shows_its_prompt_once(bench: MacBench) -> None:
    macs = bench.macs()
    assert macs.look(RENEWAL).enrolled is False
    for _ in range(2):
        assert macs.act("renew", RENEWAL, 1).kind is AckKind.ACCEPTED
    assert bench.lines("renewals") == ["renewed"]
    assert macs.look(RENEWAL).marks == {f"{RENEWAL.job_id}/1/renew"}


def test_renewal_that_fails_is_a_refusal(bench: MacBench) -> None:
    bench.set(**{"renew-fails": ""})
    ack = bench.macs().act("renew", RENEWAL, 1)
    assert (ack.kind, ack.error_code) == (AckKind.REFUSED, ErrorCode.COMMAND_REJECTED)
    assert "administrator" in ack.detail


def test_other_method_is_refused(bench: MacBench) -> None:
    job = UPDATE.model_copy(update={"method": Method.DDM})
    ack = bench.macs().act("declare", job, 1)
    assert (ack.kind, ack.error_code) == (AckKind.REFUSED, ErrorCode.UNSUPPORTED)


def test_look_changes_nothing(bench: MacBench) -> None:
    first = look(bench.macs())
    assert bench.macs().look(UPDATE) == first
    assert len(bench.lines("listings")) == 1
