"""`drydock installers` on a real S3 server."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.installers.bucket import InstallerBucket, _session
from pipeline.cli.installers import app
from schemas.macos import parse_build
from tests.installers.servers import ACCESS_KEY, SECRET_KEY, AppleOrigin, serving
from tests.installers.site import put

CONTENT = bytes(range(249)) * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def origin() -> Iterator[AppleOrigin]:
    with serving(AppleOrigin(CONTENT)) as running:
        yield running


class Command:
    """The command, in a folder with a catalog of two builds of one origin."""

    def __init__(self, bucket: InstallerBucket, origin: AppleOrigin, folder: Path) -> None:
        self._bucket = bucket
        builds = {"25G72": "26.6", "24G720": "15.7.8"}
        rows = [
            {"Version": version, "Build": build, "URL": origin.url, "Size": len(origin.content)}
            for build, version in builds.items()
        ]
        feed = {"InstallationApps": {"LatestUMA": rows[0], "AllPreviousUMA": rows[1:]}}
        (folder / "sofa.json").write_text(json.dumps(feed))

    def run(self, *arguments: str, secret: str = SECRET_KEY) -> tuple[int, list[Any], str]:
        """Return the exit code, the JSON objects, and the text on stderr."""
        bucket = self._bucket.config
        command = [*arguments, "--json", "--bucket", bucket.bucket]
        command += ["--endpoint", str(bucket.endpoint)]
        login = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}
        _session.cache_clear()  # boto3 keeps the login that it found first
        ran = CliRunner().invoke(app, command, env=login)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return ran.exit_code, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr

    def sync(self, *arguments: str, **options: str) -> tuple[int, list[Any], str]:
        catalog = ["--catalog", "sofa.json", "--origin-host", "127.0.0.1"]
        return self.run("sync", *catalog, *arguments, **options)


@pytest.fixture
def command(
    bucket: InstallerBucket,
    origin: AppleOrigin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(bucket, origin, tmp_path)


def test_installers_are_stored_listed_and_checked(
    command: Command, bucket: InstallerBucket
) -> None:
    code, rows, errors = command.sync()
    assert (code, errors) == (0, "")
    assert [(row["build"], row["outcome"]) for row in rows] == [
        ("25G72", "stored"),
        ("24G720", "stored"),
    ]
    code, rows, _ = command.run("list")
    assert code == 0
    assert {(row["build"], row["sha256"]) for row in rows} == {
        ("25G72", SHA256),
        ("24G720", SHA256),
    }
    put(bucket, "24G720", CONTENT[::-1], SHA256)
    code, rows, _ = command.run("check", "--catalog", "sofa.json")
    assert code == 1
    problems = {row["build"]: row["problem"] for row in rows}
    assert problems["25G72"] is None
    assert "its metadata states" in problems["24G720"]
    assert command.sync("--replace", "--build", "24G720")[0] == 0
    assert command.run("check", "--catalog", "sofa.json")[0] == 0
    stored = bucket.find(parse_build("24G720"))
    assert stored is not None
    assert stored.sha256 == SHA256


def test_wrong_login_unknown_build_and_unreadable_catalog_are_one_line_each(
    command: Command,
) -> None:
    code, rows, errors = command.sync(secret="another-secret")
    assert (code, rows) == (2, [])
    assert "SignatureDoesNotMatch" in errors
    assert "another-secret" not in errors
    code, _, errors = command.sync("--build", "25A354")
    assert code == 2
    assert "listed are: 25G72, 24G720" in errors
    code, _, errors = command.run("sync", "--catalog", "missing.json")
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert "missing.json" in errors


def test_origin_that_is_not_apple_is_refused(command: Command) -> None:
    code, rows, _ = command.run("sync", "--catalog", "sofa.json", "--majors", "1")
    assert code == 1
    assert rows[0]["outcome"] == "refused"
    assert "not at Apple" in rows[0]["detail"]
