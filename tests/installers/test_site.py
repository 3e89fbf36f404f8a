"""The installers of a configured site: from the bucket to a Mac's HTTP request."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry

from agents.config.installers_access import open_installers
from agents.config.model import InstallersConfig
from agents.config.servers import ServerConfigError
from agents.installers.bucket import BucketFile, InstallerBucket
from agents.installers.metrics import InstallerMetrics
from agents.installers.site_installers import SiteInstallers
from agents.installers.source import Installer, InstallerSource, Staging, StoredFile
from agents.mac import Obstacle
from agents.ssh.mac import SshMacs
from schemas.jobs import Action, Job, Method, Target
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode
from tests.configured_world import CONFIG, ENVIRONMENT, open_sites
from tests.factories.jobs import job
from tests.factories.sites import START, a_job
from tests.fake_mdm import FakeMdm
from tests.installers.servers import ACCESS_KEY, SECRET_KEY
from tests.installers.site import NOON, put
from tests.kafka.brokers import free_ports

CONTENT = bytes(range(253)) * 4_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPORT = {"serverGUID": "A", "active": True, "activated": True, "registrationState": 1}
REPORT |= {"cacheLimit": 0, "reportPeriod": 60}


@contextmanager
def site(known: InstallerBucket, folder: Path, **changes: Any) -> Iterator[SiteInstallers]:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = InstallersConfig.model_validate(
        {
            "bucket": {
                "name": known.config.bucket,
                "endpoint": known.config.endpoint,
                "access_key": "env:ACCESS",
                "secret_key": "env:SECRET",
            },
            "folder": str(folder / "cache"),
            "budget_gb": 0.01,
            "reserve_gb": 0,
            "listen": address,
            "url": f"http://{address}",
            "report_secret": "env:REPORTS",
            **changes,
        }
    )
    environment = {"ACCESS": ACCESS_KEY, "SECRET": SECRET_KEY, "REPORTS": "the-secret"}
    opened = open_installers(
        config,
        environment,
        now=lambda: NOON,
        metrics=InstallerMetrics(CollectorRegistry()),
        log=structlog.get_logger(),
    )
    opened.start()
    try:
        yield opened
    finally:
        opened.stop()


def job_for(build: str | None) -> Job:
    target = Target(
        version=parse_os_version("26.6"), build=None if build is None else parse_build(build)
    )
    return job(issued_at=NOON).model_copy(update={"target": target})


def found(one: InstallerSource, wanted: Job) -> Installer | Obstacle | None:
    deadline = time.monotonic() + 20
    while isinstance(result := one.installer(wanted), Staging):
        assert time.monotonic() < deadline, result
        time.sleep(0.02)
    return result


def test_mac_fetches_the_installer_of_its_job_and_continues_after_a_cut(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one:
        assert one.installer(job_for("25G72")) == Staging("queued")
        installer = found(one, job_for("25G72"))
        assert isinstance(installer, Installer)
        assert (installer.size_bytes, installer.sha256) == (len(CONTENT), SHA256)
        first = httpx.get(installer.url, headers={"Range": "bytes=0-99"}).content
        rest = httpx.get(installer.url, headers={"Range": "bytes=100-"}).content
        assert first + rest == CONTENT
        assert httpx.get(installer.url.replace("25G72", "25G71")).status_code == 403


def test_missing_and_corrupt_installers_end_the_job_with_their_reason(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G71", CONTENT, "0" * 64)
    with site(bucket, tmp_path) as one:
        missing, corrupt = found(one, job_for("25G72")), found(one, job_for("25G71"))
        assert isinstance(missing, Obstacle)
        assert missing.error_code is ErrorCode.INSTALLER_UNAVAILABLE
        assert isinstance(corrupt, Obstacle)
        assert corrupt.error_code is ErrorCode.INSTALLER_CORRUPT


def test_nothing_is_staged_while_apples_content_cache_serves_the_site(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one:
        url = f"http://127.0.0.1:{one.server.port}/content-cache/"
        refused = httpx.post(url + "wrong", content=json.dumps(REPORT))
        assert refused.status_code == 403
        assert not one.is_served_by_apple()
        assert httpx.post(url + "the-secret", content=json.dumps(REPORT)).status_code == 202
        assert one.installer(job_for("25G72")) is None
        assert list((tmp_path / "cache").glob("*.pkg*")) == []
        stopped = json.dumps(REPORT | {"active": False})
        assert httpx.put(url + "the-secret", content=stopped).status_code == 202
        assert isinstance(found(one, job_for("25G72")), Installer)


def test_target_without_a_build_is_fetched_from_apple(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    with site(bucket, tmp_path) as one:
        assert one.installer(job_for(None)) is None


def test_second_agent_cannot_use_the_folder(bucket: InstallerBucket, tmp_path: Path) -> None:
    with (
        site(bucket, tmp_path),
        pytest.raises(ServerConfigError, match="another process has"),
        site(bucket, tmp_path),
    ):
        pass


def test_login_that_cannot_be_read_is_an_error_of_the_configuration(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    access = {"name": bucket.config.bucket, "access_key": "env:A", "secret_key": "env:B"}
    with (
        pytest.raises(ServerConfigError, match="env:A: this variable is not set"),
        site(bucket, tmp_path, bucket=access),
    ):
        pass


def test_macs_over_ssh_have_the_installers_of_their_site(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    access = {"name": bucket.config.bucket, "endpoint": bucket.config.endpoint}
    login = {"access_key": "env:ACCESS", "secret_key": "env:SECRET"}
    installers = {
        "bucket": access | login,
        "folder": str(tmp_path / "cache"),
        "budget_gb": 0.01,
        "reserve_gb": 0,
        "listen": address,
        "url": f"http://{address}",
    }
    # JSON is YAML.
    text = f"{CONFIG}    installers: {json.dumps(installers)}\n"
    environment = {**ENVIRONMENT, "ACCESS": ACCESS_KEY, "SECRET": SECRET_KEY}
    wanted = a_job(Action.UPGRADE, Method.STARTOSINSTALL, serial="C02MAC-1")
    wanted = wanted.model_copy(update={"target": job_for("25G72").target})
    with closing(open_sites(tmp_path, FakeMdm(START), text, environment=environment)) as sites:
        site_access = sites.access("london")
        assert site_access is not None
        macs = site_access.mac_for(wanted)
        assert isinstance(macs, SshMacs)
        source = macs._installers
        assert source is not None
        assert source.installer(wanted) is None
        sites.start_caches(InstallerMetrics(CollectorRegistry()), structlog.get_logger())
        installer = found(source, wanted)
        assert isinstance(installer, Installer)
        assert httpx.get(installer.url).content == CONTENT


def test_image_goes_through_the_cache_once_for_all_jobs(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", b"an installer of the same build", SHA256)
    bucket.client.put_object(Bucket=bucket.config.bucket, Key="loan/spring.dmg", Body=CONTENT)
    finds: list[str] = []

    def find() -> BucketFile | None:
        finds.append("asked")
        return bucket.find_file("the image loan", "loan/spring.dmg", SHA256)

    image = StoredFile(SHA256, find)
    with site(bucket, tmp_path) as one, ThreadPoolExecutor(4) as pool:
        jobs = [job_for("25G72").model_copy(update={"job_id": f"job-{n}"}) for n in range(4)]

        fetched = partial(fetched_by, one, image=image)
        assert set(pool.map(fetched, jobs)) == {CONTENT}
    assert finds == ["asked"]
    # The next process does not know where the image is before a job asks for it.
    with site(bucket, tmp_path) as again:
        assert fetched_by(again, jobs[0], image=image) == CONTENT
    assert finds == ["asked"]


@pytest.mark.parametrize("damaged", [False, True])
def test_image_at_the_site_is_verified_after_a_restart_before_its_job_asks(
    bucket: InstallerBucket, tmp_path: Path, damaged: bool
) -> None:
    bucket.client.put_object(Bucket=bucket.config.bucket, Key="loan.dmg", Body=CONTENT)
    image = StoredFile(SHA256, lambda: bucket.find_file("the image", "loan.dmg", SHA256))
    wanted = job_for(None)
    with site(bucket, tmp_path) as one:
        assert fetched_by(one, wanted, image=image) == CONTENT
    (path,) = (tmp_path / "cache").glob("*.pkg")
    if damaged:
        path.write_bytes(b"other bytes")
    with site(bucket, tmp_path) as again:
        deadline = time.monotonic() + 20
        while path.exists() if damaged else again._cache.held_jobs():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert damaged or isinstance(again.image(wanted, image), Installer)
        assert fetched_by(again, wanted, image=image) == CONTENT


def fetched_by(one: SiteInstallers, wanted: Job, image: StoredFile) -> bytes:
    deadline = time.monotonic() + 20
    while isinstance(result := one.image(wanted, image), Staging):
        assert time.monotonic() < deadline, result
        time.sleep(0.02)
    assert isinstance(result, Installer), result
    return httpx.get(result.url).content


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, ErrorCode.INSTALLER_UNAVAILABLE),
        (b"", ErrorCode.INSTALLER_UNAVAILABLE),
        (b"other bytes", ErrorCode.INSTALLER_CORRUPT),
        (CONTENT * 20, ErrorCode.NO_DISK_SPACE),
    ],
    ids=["missing", "empty", "corrupt", "larger than the budget"],
)
def test_image_that_cannot_be_cached_ends_the_job_with_its_reason(
    bucket: InstallerBucket, tmp_path: Path, content: bytes | None, code: ErrorCode
) -> None:
    if content is not None:
        bucket.client.put_object(Bucket=bucket.config.bucket, Key="loan.dmg", Body=content)
    image = StoredFile(SHA256, lambda: bucket.find_file("the image", "loan.dmg", SHA256))
    with site(bucket, tmp_path) as one:
        deadline = time.monotonic() + 20
        while isinstance(result := one.image(job_for(None), image), Staging):
            assert time.monotonic() < deadline, result
            time.sleep(0.02)
        assert isinstance(result, Obstacle)
        assert result.error_code is code
