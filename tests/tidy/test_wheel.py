"""The wheel has every file of the packages, and their py.typed markers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tidy import checks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    tracked = {path.relative_to(ROOT).as_posix() for path in checks.tracked_files(ROOT)}
    wanted = {name for name in tracked if name.partition("/")[0] in checks.PACKAGES}
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert sorted(wanted - held) == []


@pytest.mark.parametrize("package", checks.PACKAGES)
def test_package_declares_its_types(wheel: Path, package: str) -> None:
    with zipfile.ZipFile(wheel) as opened:
        assert f"{package}/py.typed" in opened.namelist()
