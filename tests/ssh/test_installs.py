"""Installations with `startosinstall` at a real OpenSSH server, and the fetch of the installer."""

import hashlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agents.installers.source import Installer, Staging, StoredFile
from agents.mac import AckKind, InstallState, Observation, Obstacle
from agents.preflight import Limits, Ready, Unfit, fitness
from agents.ssh.mac import SshMacs
from agents.ssh.shell import script_command
from schemas.jobs import Action, Backup, Job, Method, RequiredBackup
from schemas.macos import parse_os_version
from schemas.results import ErrorCode
from tests.factories.sites import a_job, an_erasing_job
from tests.ssh.bench import PASSWORD, SERIAL, TARGET, MacBench, processes_of

UPGRADE = a_job(Action.UPGRADE, Method.STARTOSINSTALL, serial=SERIAL, target=TARGET)
REINSTALL = a_job(
    Action.REINSTALL, Method.STARTOSINSTALL, serial=SERIAL, target=TARGET, intent="seal"
)
ERASE = an_erasing_job(Method.STARTOSINSTALL, serial=SERIAL, target=TARGET, intent="loan@1")
RESTART = a_job(
    Action.RESTART, Method.RESTART_UPDATE_SERVICE, serial=SERIAL, target=None, intent="failing:26.7"
)
PACKAGE = b"25G229 26.7\n" + bytes(range(256)) * 2000
SECRET = "signature-of-one-job"
INSTALLS = """\
printf 'Preparing to run macOS Installer...\\n\\rPreparing: 12.3%%'
sleep 0.5
printf '\\rPreparing: 100.0%%\\nRestarting...\\n'
restart_into 26.7 25G229
"""
FETCHES = """\
printf 'Scanning for 26.7 installer\\nInstalling: 1.0%%\\rInstalling: 99.0%%\\n'
printf '25G229 26.7\\n' >"$mac/apple.pkg"
"$mac/bin/installer" -pkg "$mac/apple.pkg" -target / >/dev/null
echo 'Install finished successfully'
"""


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder, and byte ranges to the end of a file."""

    def do_GET(self) -> None:
        path = Path(self.directory) / self.path.split("?")[0].lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        wanted = self.headers.get("Range", "")
        if wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.server.starts.append(start)  # type: ignore[attr-defined]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, *args: object) -> None:
        """Log nothing."""


class Site:
    """A source of installers that serves one package over HTTP."""

    def __init__(self, url: str, starts: list[int]) -> None:
        digest = hashlib.sha256(PACKAGE).hexdigest()
        self.answer: Installer | Staging | Obstacle = Installer(
            f"{url}/InstallAssistant.pkg?{SECRET}", len(PACKAGE), digest
        )
        self.url = url
        self.starts = starts
        self.images: list[StoredFile] = []

    def installer(self, _: Job) -> Installer | Staging | Obstacle:
        return self.answer

    def image(self, _: Job, stored: StoredFile) -> Installer | Staging | Obstacle:
        self.images.append(stored)
        return self.answer


@contextmanager
def serving(folder: Path) -> Iterator[Site]:
    folder.mkdir(exist_ok=True)
    (folder / "InstallAssistant.pkg").write_bytes(PACKAGE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    starts: list[int] = []
    server.starts = starts  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_address[1]}", starts)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "cache") as site:
        yield site


@pytest.fixture
def installing(bench: MacBench) -> MacBench:
    bench.set(**{"install.sh": INSTALLS, "fetch.sh": FETCHES})
    return bench


def is_ready(seen: Observation, job: Job) -> bool:
    return fitness(job, seen, Limits(), datetime.now(UTC)) == Ready()


def prepared(macs: SshMacs, job: Job = UPGRADE) -> Observation:
    """Return an observation; look again while the installer is being fetched."""
    for _ in range(200):
        seen = macs.look(job)
        if not seen.busy:
            return seen
        time.sleep(0.1)
    raise AssertionError("the fetch does not end")


def watch(macs: SshMacs, job: Job = UPGRADE) -> Observation:
    """Return the first observation in which the order has failed or the Mac has restarted."""
    for _ in range(200):
        seen = macs.look(job)
        if seen.progress.state is InstallState.FAILED or seen.os_version == TARGET.version:
            return seen
        time.sleep(0.1)
    raise AssertionError(seen)


def test_mac_is_upgraded_with_the_installer_of_the_site(installing: MacBench, site: Site) -> None:
    macs = installing.macs(installers=site)
    assert macs.look(UPGRADE).busy
    assert is_ready(prepared(macs), UPGRADE)
    assert macs.act("install", UPGRADE, 1).kind is AckKind.ACCEPTED
    assert watch(macs).os_version == parse_os_version("26.7")
    options = "--agreetolicense --nointeraction --forcequitapps --rebootdelay 60"
    assert installing.lines("installs") == [f"{options} --user itadmin --stdinpass"]
    assert installing.lines("passwords") == [PASSWORD]
    assert installing.lines("fetches") == []


def test_installer_comes_from_apple_without_a_source(installing: MacBench) -> None:
    macs = installing.macs()
    assert is_ready(prepared(macs), UPGRADE)
    assert installing.lines("fetches") == ["fetched 26.7"]
    assert macs.act("install", UPGRADE, 1).kind is AckKind.ACCEPTED
    assert watch(macs).os_version == parse_os_version("26.7")


def test_installer_that_is_on_the_mac_is_not_fetched(installing: MacBench, site: Site) -> None:
    prepared(installing.macs(installers=site))
    again = a_job(Action.UPGRADE, Method.STARTOSINSTALL, serial=SERIAL, target=TARGET, generation=1)
    assert is_ready(prepared(installing.macs(installers=site), again), again)
    assert site.starts == [0]


def test_only_a_job_that_erases_erases(installing: MacBench) -> None:
    for job, erases in ((REINSTALL, False), (ERASE, True)):
        installing.set(version="26.6", build="25G72")
        macs = installing.macs()
        prepared(macs, job)
        macs.act("install", job, 1)
        watch(macs, job)
        assert ("--eraseinstall" in installing.lines("installs")[-1]) is erases


def test_intel_mac_gets_no_password(installing: MacBench) -> None:
    installing.set(intel="")
    macs = installing.macs(password=None)
    prepared(macs)
    macs.act("install", UPGRADE, 1)
    watch(macs)
    assert "--user" not in installing.lines("installs")[0]
    assert installing.lines("passwords") == []


def test_order_that_is_given_again_does_not_run_again(installing: MacBench, site: Site) -> None:
    macs = installing.macs(installers=site)
    prepared(macs)
    for _ in range(3):
        assert macs.act("install", UPGRADE, 1).kind is AckKind.ACCEPTED
    watch(macs)
    assert macs.act("install", UPGRADE, 1).kind is AckKind.ACCEPTED
    time.sleep(0.5)
    assert len(installing.lines("installs")) == 1


def test_fetch_that_was_cut_is_completed(installing: MacBench, site: Site) -> None:
    folder = installing.folder / "Drydock installers"
    folder.mkdir()
    (folder / "InstallAssistant-26.7-25G229.pkg").write_bytes(PACKAGE[:1000])
    assert is_ready(prepared(installing.macs(installers=site)), UPGRADE)
    assert site.starts == [1000]
    assert list(folder.iterdir()) == []


def test_url_and_password_are_in_no_list_of_processes_and_no_file(
    installing: MacBench, site: Site
) -> None:
    record = 'for one in /proc/[0-9]*/cmdline; do cat $one; done 2>/dev/null >>"$mac/seen"'
    installing.set(**{"install.sh": f"{record}\n{INSTALLS}"})
    macs = installing.macs(installers=site)
    macs.look(UPGRADE)
    seen: list[str] = []
    while macs.look(UPGRADE).busy:
        seen += processes_of(installing.folder)
    macs.act("install", UPGRADE, 1)
    watch(macs)
    assert not any(SECRET in command for command in seen)
    files = [path for path in installing.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
    found = [path.name for path in files if PASSWORD.encode() in path.read_bytes()]
    assert found == ["passwords"]
    assert SECRET not in repr(site.answer)


# what happens on the Mac -> the error code of a job that is not begun
OBSTACLES = {
    "package is not signed by Apple": ({"unsigned-pkg": ""}, ErrorCode.INSTALLER_CORRUPT),
    "app is not signed by Apple": ({"unsigned-app": ""}, ErrorCode.INSTALLER_CORRUPT),
    "package cannot be unpacked": ({"installer-fails": ""}, ErrorCode.INSTALL_FAILED),
}


@pytest.mark.parametrize(("state", "code"), OBSTACLES.values(), ids=OBSTACLES)
def test_installer_that_cannot_be_used_is_named_and_not_begun(
    installing: MacBench, site: Site, state: dict[str, str], code: ErrorCode
) -> None:
    installing.set(**state)
    unfit = fitness(
        UPGRADE, prepared(installing.macs(installers=site)), Limits(), UPGRADE.issued_at
    )
    assert isinstance(unfit, Unfit)
    assert unfit.error_code is code
    assert installing.macs().act("install", UPGRADE, 1).kind is not AckKind.ACCEPTED
    assert installing.lines("installs") == []


def test_damaged_package_is_named_and_not_begun(installing: MacBench, site: Site) -> None:
    good = site.answer
    assert isinstance(good, Installer)
    for size, digest in ((good.size_bytes, "0" * 64), (good.size_bytes - 1, good.sha256)):
        job = a_job(
            Action.UPGRADE, Method.STARTOSINSTALL, serial=SERIAL, target=TARGET, generation=size
        )
        site.answer = Installer(good.url, size, digest)
        seen = prepared(installing.macs(installers=site), job)
        assert seen.obstacle is not None
        assert seen.obstacle.error_code is ErrorCode.INSTALLER_CORRUPT
        assert SECRET not in seen.obstacle.detail
    assert list((installing.folder / "Drydock installers").iterdir()) == []


def test_download_that_fails_is_tried_again_and_then_named(
    installing: MacBench, site: Site
) -> None:
    assert isinstance(site.answer, Installer)
    site.answer = Installer(f"http://127.0.0.1:9/gone?{SECRET}", 10, "0" * 64)
    seen = prepared(installing.macs(installers=site))
    assert seen.obstacle is not None
    assert seen.obstacle.error_code is ErrorCode.DOWNLOAD_FAILED
    assert SECRET not in seen.obstacle.detail
    assert len(list(installing.tasks.glob("*.fetch.*"))) == 5


def test_release_that_apple_does_not_have_is_named(installing: MacBench) -> None:
    installing.set(**{"fetch.sh": "echo 'Install failed with error: Update not found'"})
    seen = prepared(installing.macs())
    assert seen.obstacle is not None
    assert seen.obstacle.error_code is ErrorCode.INSTALLER_UNAVAILABLE


@pytest.mark.parametrize(
    ("is_deferred", "last"), [("YES", "failed update_deferred"), ("NO", "installer ")]
)
def test_upgrade_that_the_mac_itself_defers_is_refused(
    installing: MacBench, is_deferred: str, last: str
) -> None:
    rows = ["Version: 26.6, Size: 1KiB, Build: 25G72, Deferred: NO"]
    rows.append(f"Version: 26.7, Size: 1KiB, Build: 25G229, Deferred: {is_deferred}")
    installing.set(
        **{"full-installers.txt": "\n".join(f"* Title: macOS Tahoe, {row}" for row in rows)}
    )
    folders = [str(installing.applications), installing.paths.installers]
    argv = script_command("fetch.sh", *folders, "26.7", "25G229", "-", "-", "deferral")
    environment = {"PATH": installing.paths.commands}
    ended = subprocess.run(
        argv, env=environment, input="\n", capture_output=True, text=True, check=False
    )
    assert ended.stdout.splitlines()[-1].startswith(last)


def test_installer_that_the_site_does_not_have_yet_makes_the_mac_wait(
    installing: MacBench, site: Site
) -> None:
    site.answer = Staging("3 of 17 GB")
    assert installing.macs(installers=site).look(UPGRADE).busy
    assert list(installing.tasks.glob("*")) == []
    site.answer = Obstacle(ErrorCode.NO_DISK_SPACE, "no room at the site")
    assert installing.macs(installers=site).look(UPGRADE).obstacle == site.answer


def test_nothing_is_fetched_to_a_mac_that_is_unfit(installing: MacBench, site: Site) -> None:
    installing.set(free_kb="20000000")
    seen = installing.macs(installers=site).look(UPGRADE)
    unfit = fitness(UPGRADE, seen, Limits(), datetime.now(UTC))
    assert isinstance(unfit, Unfit)
    assert unfit.error_code is ErrorCode.NO_DISK_SPACE
    assert site.starts == []


FAILURES = {
    "owner refused": (
        "echo 'Error: could not get authorization...'\nexit 20",
        ErrorCode.NO_VOLUME_OWNER,
    ),
    "an error of the tool": ("echo 'Error: the disk is damaged'\nexit 1", ErrorCode.INSTALL_FAILED),
    "ended at once": ("exit 0", ErrorCode.NOTHING_HAPPENED),
    "killed without a restart": (
        "echo 'Preparing: 12.3%'\nkill -9 $PPID $$",
        ErrorCode.NOTHING_HAPPENED,
    ),
    "restart into the old system": (
        "echo 'Restarting...'\nrestart_into 26.6 25G72",
        ErrorCode.INSTALL_FAILED,
    ),
    "silence": ("echo 'Preparing: 3.0%'\nexec /bin/sleep 600", ErrorCode.NOTHING_HAPPENED),
}


@pytest.mark.parametrize(("install", "code"), FAILURES.values(), ids=FAILURES)
def test_failure_of_the_installation_is_named(
    installing: MacBench, install: str, code: ErrorCode
) -> None:
    installing.set(**{"install.sh": install})
    macs = installing.macs(silence_s=4)
    prepared(macs)
    macs.act("install", UPGRADE, 1)
    seen = watch(macs)
    assert seen.progress.error_code is code
    assert PASSWORD not in repr(seen)


def test_installer_that_was_changed_after_its_fetch_is_not_started(installing: MacBench) -> None:
    macs = installing.macs()
    prepared(macs)
    installing.set(**{"unsigned-app": ""})
    macs.act("install", UPGRADE, 1)
    assert watch(macs).progress.error_code is ErrorCode.INSTALLER_CORRUPT
    assert installing.lines("installs") == []


@pytest.mark.parametrize("kind", [Backup.SNAPSHOT, Backup.TIME_MACHINE])
def test_mac_without_the_copy_that_the_job_needs_is_not_touched(
    installing: MacBench, kind: Backup
) -> None:
    needs = {"backup": RequiredBackup(kind=kind, max_age_minutes=24 * 60)}
    job = REINSTALL.model_copy(update=needs)

    def code_with(**state: str) -> ErrorCode | None:
        installing.set(**state)
        found = fitness(job, prepared(installing.macs(), job), Limits(), datetime.now(UTC))
        return found.error_code if isinstance(found, Unfit) else None

    def name(age: timedelta) -> str:
        return f"{datetime.now().astimezone() - age:%Y-%m-%d-%H%M%S}"

    old, new = name(timedelta(days=3)), name(timedelta(hours=2))
    assert code_with() is ErrorCode.NO_BACKUP
    assert code_with(snapshots=f"com.apple.TimeMachine.{old}.local") is ErrorCode.NO_BACKUP
    snapshot_is_enough = kind is Backup.SNAPSHOT
    found = code_with(snapshots=f"com.apple.TimeMachine.{new}.local")
    assert found is (None if snapshot_is_enough else ErrorCode.NO_BACKUP)
    disk = f"/Volumes/.timemachine/1234/{new}.backup/{new}.backup"
    assert code_with(**{"time-machine": disk}) is None


def test_update_service_is_restarted_once(bench: MacBench) -> None:
    macs = bench.macs()
    assert is_ready(macs.look(RESTART), RESTART)
    for _ in range(2):
        assert macs.act("restart", RESTART, 1).kind is AckKind.ACCEPTED
    assert bench.lines("kickstarts") == ["-k system/com.apple.softwareupdated"]


def test_update_service_that_does_not_restart_is_a_refusal(bench: MacBench) -> None:
    bench.set(**{"kickstart-fails": ""})
    ack = bench.macs().act("restart", RESTART, 1)
    assert (ack.kind, ack.error_code) == (AckKind.REFUSED, ErrorCode.COMMAND_REJECTED)
    assert "Could not find service" in ack.detail
