"""The wheel of a site runs in an empty environment, without `pipeline` and private keys.

Packages come from the index that pip is configured with. Without them the tests of the environment
are skipped; with CI=true they fail.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from tests.tidy import checks

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "agent.lock"
# The first test of the environment installs it: a minute on a busy machine.
pytestmark = pytest.mark.timeout(300)
# Import every module of the packages, as `python -c` in a folder with them or in an environment.
IMPORT_ALL = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("pipeline", "tests")))
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees no path of the project, and return its output."""
    environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        check=False,
        text=True,
        timeout=250,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT / "deploy" / "agent", capture_output=True, check=True)
    (built,) = folder.glob("drydock_agent-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the wheel and the packages of its lock only."""
    folder = tmp_path_factory.mktemp("site")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    install = [*pip, "install", "--no-input", "--only-binary", ":all:"]
    locked = run(*install, "--require-hashes", "-r", str(LOCK), cwd=folder)
    if locked.returncode and not os.environ.get("CI"):
        pytest.skip(f"pip cannot install {LOCK.name}: {locked.stderr.splitlines()[-1]}")
    assert locked.returncode == 0, locked.stderr
    own = run(*install, "--no-deps", str(wheel), cwd=folder)
    assert own.returncode == 0, own.stderr
    return folder


def installed(site: Path) -> Path:
    (found,) = site.glob("lib/python*/site-packages")
    return found


def packed(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder)
    return folder


def test_wheel_has_the_files_of_the_site_packages_and_no_others(wheel: Path) -> None:
    tracked = {path.relative_to(ROOT).as_posix() for path in checks.tracked_files(ROOT)}
    wanted = {name for name in tracked if name.partition("/")[0] in checks.SITE_PACKAGES}
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
        metadata = {name.partition("/")[2] for name in opened.namelist() if ".dist-info/" in name}
    assert sorted(wanted - held) == []
    assert {name.partition("/")[0] for name in held} == set(checks.SITE_PACKAGES)
    assert {"licenses/LICENSE", "entry_points.txt"} <= metadata


def test_agent_and_drydock_have_one_version_and_one_range_of_each_dependency() -> None:
    ours = tomllib.loads((ROOT / "deploy" / "agent" / "pyproject.toml").read_text())["project"]
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for same in ("version", "requires-python", "license"):
        assert ours[same] == whole[same], same
    assert sorted(set(ours["dependencies"]) - set(whole["dependencies"])) == []


def test_packages_of_a_site_import_only_libraries_of_its_lock() -> None:
    """The same without an environment: quick, so that it runs before each commit."""
    locked = {pin.partition("==")[0] for pin in checks.pins(LOCK)}
    imported = {
        library.partition(".")[0]: name
        for name, path in checks.modules(ROOT, checks.SITE_PACKAGES)
        for _, library in checks.imports_of(name, path)
    }
    others = imported.keys() - sys.stdlib_module_names - set(checks.SITE_PACKAGES)
    owners = importlib.metadata.packages_distributions()
    assert {
        library: imported[library]
        for library in others
        if locked.isdisjoint(
            re.sub(r"[-_.]+", "-", name).lower() for name in owners.get(library, ())
        )
    } == {}


def test_wheel_has_no_pipeline_and_no_private_key(wheel: Path, tmp_path: Path) -> None:
    assert violations(packed(wheel, tmp_path)) == []


def violations(folder: Path) -> list[str]:
    """Return the forbidden imports and private keys in a folder with a site's packages."""
    return [
        *(str(folder / name) for name in ("pipeline", "tests") if (folder / name).exists()),
        *checks.import_direction(folder),
        *checks.no_private_keys(folder),
    ]


PLANTED = {
    "import": ("import pipeline.config\n", "may not import pipeline.config"),
    "late import": ("def f():\n    from pipeline import cli\n", "may not import pipeline.cli"),
    "new key": ("key = Ed25519PrivateKey.generate()\n", "a site has no private keys"),
    "key file": ("key = load_pem_private_key(text, None)\n", "a site has no private keys"),
}


@pytest.mark.parametrize(("text", "complaint"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_fault_in_the_wheel_is_found(
    wheel: Path, tmp_path: Path, text: str, complaint: str
) -> None:
    (packed(wheel, tmp_path) / "agents" / "planted.py").write_text(text)
    (found,) = violations(tmp_path)
    assert complaint in found


@pytest.mark.slow
def test_every_module_is_imported_without_pipeline(site: Path, tmp_path: Path) -> None:
    python = site / "bin" / "python"
    imported = run(python, "-c", IMPORT_ALL, *checks.SITE_PACKAGES, cwd=tmp_path)
    assert (imported.returncode, imported.stdout.strip()) == (0, ""), imported.stderr
    assert violations(installed(site)) == []


@pytest.mark.slow
def test_planted_import_of_pipeline_fails_at_a_site(site: Path, tmp_path: Path) -> None:
    for package in checks.SITE_PACKAGES:
        shutil.copytree(installed(site) / package, tmp_path / package)
    (tmp_path / "agents" / "planted.py").write_text("import pipeline.signing_keys\n")
    python = site / "bin" / "python"
    imported = run(python, "-c", IMPORT_ALL, *checks.SITE_PACKAGES, cwd=tmp_path)
    assert imported.returncode == 1
    assert "No module named 'pipeline'" in imported.stderr


@pytest.mark.slow
def test_environment_of_a_site_is_complete(site: Path, tmp_path: Path) -> None:
    checked = run(
        sys.executable, "-m", "pip", "--python", site / "bin" / "python", "check", cwd=tmp_path
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_agent_shows_its_options_at_a_site(site: Path, tmp_path: Path) -> None:
    shown = run(site / "bin" / "drydock-agent", "--help", cwd=tmp_path, COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Usage: drydock-agent [OPTIONS]")
    assert "--simulate" in shown.stdout


@pytest.mark.slow
def test_agent_without_kafka_ends_with_one_line_at_a_site(site: Path, tmp_path: Path) -> None:
    KeyStore(tmp_path / "center").make(Purpose.JOBS)
    KeyStore(tmp_path / "center").make(Purpose.CONTROL)
    (tmp_path / "site").mkdir()
    (tmp_path / "center" / "trust").rename(tmp_path / "site" / "trust")
    started = run(
        site / "bin" / "drydock-agent",
        *("--site", "london", "--data-dir", "data", "--keys", "site", "--listen", ""),
        *("--bootstrap", "127.0.0.1:1"),
        cwd=tmp_path,
    )
    assert (started.returncode, started.stdout) == (2, "")
    (problem,) = [line for line in started.stderr.splitlines() if not line.startswith("{")]
    assert problem.startswith("drydock: no Kafka at 127.0.0.1:1")
