"""A loan unit that is restored from an image at a real OpenSSH server, and refusals on the Mac."""

import hashlib
import time
from pathlib import Path

import pytest

from agents.installers.source import Installer, InstallerSource, Staging, StoredFile
from agents.mac import AckKind, InstallState, Observation, Obstacle
from agents.preflight import Limits, Ready, fitness
from agents.ssh.images import Image
from agents.ssh.mac import SshMacs
from schemas.jobs import Target
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode
from tests.factories.sites import START, an_erasing_reimage
from tests.ssh.bench import SERIAL, MacBench
from tests.ssh.test_installs import serving

DATA = b"an image " * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
STORED = StoredFile(SHA256, lambda: None)
TARGET = Target(version=parse_os_version("12.7.6"), build=parse_build("21H1320"))
REIMAGE = an_erasing_reimage().model_copy(update={"target": TARGET, "serial": SERIAL})
LOAN_UNIT = {
    "intel": "",
    "version": "12.7.6",
    "build": "21H1320",
    "model": "MacBookPro13,1",
    "firmware": "529.140.2.0.0",
    "running": "DeviceNode /dev/disk1s5s1\nAPFSVolumeGroupID AA\nInternal true",
    "target": "DeviceNode /dev/disk1s8\nAPFSVolumeGroupID BB\nInternal true",
    "restored-build": "21H1320",
}


def restoring(
    bench: MacBench, folder: Path, url: str, installers: InstallerSource | None = None
) -> SshMacs:
    (folder / "loan.dmg").write_bytes(DATA)
    image = Image(
        name="loan",
        models=("MacBookPro13,*",),
        version=parse_os_version("12.7.6"),
        build=parse_build("21H1320"),
        firmware="529.140.2.0.0",
        volume="Loan",
        url=f"{url}/loan.dmg",
        size_bytes=len(DATA),
        sha256=SHA256,
        stored=None if installers is None else STORED,
    )
    return bench.macs(password=None, images=[image], installers=installers)


def given(macs: SshMacs) -> Observation:
    """Give the order and return the first observation after it in which something ended."""
    for _ in range(200):
        seen = macs.look(REIMAGE)
        if not seen.busy:
            break
        time.sleep(0.1)
    assert fitness(REIMAGE, seen, Limits(), START) == Ready()
    assert macs.act("restore", REIMAGE, 1).kind is AckKind.ACCEPTED
    for _ in range(200):
        after = macs.look(REIMAGE)
        restarted = after.boot_at != seen.boot_at
        if restarted or after.progress.state is InstallState.FAILED:
            return after
        time.sleep(0.1)
    raise AssertionError(after)


def test_loan_unit_is_restored_once_and_starts_from_the_volume(
    bench: MacBench, tmp_path: Path
) -> None:
    bench.set(**LOAN_UNIT)
    with serving(tmp_path / "cache") as site:
        macs = restoring(bench, tmp_path / "cache", site.url)
        given(macs)
        assert macs.act("restore", REIMAGE, 1).kind is AckKind.ACCEPTED
    image = bench.paths.installers + f"/{REIMAGE.job_id}.dmg"
    assert bench.lines("restores") == [
        f"restore --source {image} --target /dev/disk1s8 --erase --noprompt"
    ]
    assert bench.lines("blesses") == [f"--mount {bench.folder}/bin/../Volumes --setBoot"]
    assert not Path(image).exists()


REFUSED = {
    "volume is the running system": (
        {"target": "DeviceNode /dev/disk1s8\nAPFSVolumeGroupID AA\nInternal true"},
        ErrorCode.IMAGE_UNFIT,
    ),
    "volume is on another disk": (
        {"target": "DeviceNode /dev/disk4s1\nInternal false"},
        ErrorCode.IMAGE_UNFIT,
    ),
    "no volume": ({"no-target": ""}, ErrorCode.IMAGE_UNFIT),
}


@pytest.mark.parametrize(("state", "code"), REFUSED.values(), ids=REFUSED)
def test_nothing_is_erased_on_a_mac_without_a_volume_for_the_image(
    bench: MacBench, tmp_path: Path, state: dict[str, str], code: ErrorCode
) -> None:
    bench.set(**(LOAN_UNIT | state))
    with serving(tmp_path / "cache") as site:
        seen = given(restoring(bench, tmp_path / "cache", site.url))
    assert seen.progress.error_code is code
    assert bench.lines("restores") == []


def test_mac_does_not_start_from_a_volume_with_another_build(
    bench: MacBench, tmp_path: Path
) -> None:
    bench.set(**(LOAN_UNIT | {"restored-build": "21H1"}))
    with serving(tmp_path / "cache") as site:
        seen = given(restoring(bench, tmp_path / "cache", site.url))
    assert seen.progress.error_code is ErrorCode.INSTALL_FAILED
    assert bench.lines("blesses") == []


def test_mac_with_other_firmware_gets_no_order(bench: MacBench, tmp_path: Path) -> None:
    bench.set(**(LOAN_UNIT | {"firmware": "428.0.0.0.0"}))
    with serving(tmp_path / "cache") as site:
        macs = restoring(bench, tmp_path / "cache", site.url)
        seen = macs.look(REIMAGE)
        assert seen.obstacle is not None
        assert seen.obstacle.error_code is ErrorCode.IMAGE_UNFIT
        assert macs.act("restore", REIMAGE, 1).kind is not AckKind.ACCEPTED
    assert bench.lines("restores") == []
    assert list(bench.tasks.glob("*")) == []


def test_image_of_a_bucket_comes_from_the_cache_of_the_site(
    bench: MacBench, tmp_path: Path
) -> None:
    bench.set(**LOAN_UNIT)
    with serving(tmp_path / "cache") as site:
        (tmp_path / "cache" / "cached.dmg").write_bytes(DATA)
        site.answer = Staging("arriving")
        macs = restoring(bench, tmp_path, "http://127.0.0.1:9", installers=site)
        assert macs.look(REIMAGE).busy
        assert list(bench.tasks.glob("*")) == []
        site.answer = Installer(f"{site.url}/cached.dmg", len(DATA), SHA256)
        assert given(macs).boot_at is not None
        assert len(bench.lines("restores")) == 1
        assert set(site.images) == {STORED}
        site.answer = Obstacle(ErrorCode.INSTALLER_CORRUPT, "damaged")
        again = REIMAGE.model_copy(update={"job_id": "job-2"})
        assert macs.look(again).obstacle == site.answer
