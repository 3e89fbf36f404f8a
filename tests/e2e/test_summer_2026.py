"""Fourteen days of summer 2026: 3,000 Macs in dry run, and SOFA's feed as it was published."""

import json
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.simulated import MacSpec, SimulatedFleet
from pipeline.embedded.log import FILE
from pipeline.embedded.service import Options, Service
from pipeline.embedded.write_requests import feed
from pipeline.policy.file import read_policy
from pipeline.policy.model import Site
from pipeline.trust.senders import default_sender
from schemas.decisions import Reason
from schemas.envelope import JobIssuedEvent, decode
from schemas.jobs import Job
from schemas.macos import parse_build, parse_os_version
from tests.factories.sites import JOBS_KEY, KEYS, a_spec

START = datetime(2026, 7, 24, tzinfo=UTC)
END = START + timedelta(days=14)
STEP = timedelta(hours=1)
MACS = 3000
MAX_JOBS = 60
SITES = ("london", "new-york", "tokyo")
OPENS, CLOSES = 19, 6
# The releases of 27 July 2026.
NEWEST = ("26.6", "15.7.8", "14.8.8")
# Of a decision in the log, with the catalogues, policies and lists of CVEs that it names.
MOST_BYTES = 1500
POLICY = f"""\
version: 1
blast_radius: {{jobs_per_hour: null, confirmed_only: false}}
sites:
  london: {{time_zone: Europe/London, max_jobs: {MAX_JOBS}}}
  new-york: {{time_zone: America/New_York, max_jobs: {MAX_JOBS}}}
  tokyo: {{time_zone: Asia/Tokyo, max_jobs: {MAX_JOBS}}}
windows: [{{from: "{OPENS:02}:00", to: "{CLOSES:02}:00"}}]
deferrals: {{exploited: 0d, critical: 0d, high: 2d, medium: 5d, low: 7d, routine: 7d}}
follow_up: {{compliant: false}}
"""
MODELS = {"26": "Mac16,1", "15": "Mac14,2", "14": "MacBookPro16,1"}


def documents(archive_path: Path) -> Iterator[tuple[datetime, bytes]]:
    """Yield the last document before the fourteen days, then those within, with their times."""
    before: tuple[datetime, bytes] | None = None
    with tarfile.open(archive_path, "r|xz") as archive:
        for member in archive:
            at = datetime.fromisoformat(member.name.split(".")[0]).astimezone(UTC)
            file = archive.extractfile(member)
            if at >= END or file is None:
                return
            if at < START:
                before = START, file.read()
                continue
            if before is not None:
                yield before
                before = None
            yield at, file.read()


def macs(document: Any) -> list[MacSpec]:
    """Return Macs that run the three newest releases of each supported line, in turn."""
    running = [
        (release["ProductVersion"], release["Build"])
        for line in document["OSVersions"][:3]
        for release in line["SecurityReleases"][:3]
        if release["Build"]
    ]
    return [
        a_spec(
            f"MAC-{number:04}",
            site=SITES[number % 3],
            os_version=parse_os_version(version),
            build=parse_build(build),
            model=MODELS[version.split(".")[0]],
            supervised=number % 2 == 0,
            report_every=timedelta(days=1),
        )
        for number in range(MACS)
        for version, build in [running[number // 3 % len(running)]]
    ]


def run(folder: Path, archive: Path) -> Service:
    """Return the service after the fourteen days."""
    news = list(documents(archive))
    fleet = SimulatedFleet(macs(json.loads(news[0][1])), START, releases=())
    service = Service.open(
        folder,
        now=START,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        options=Options(sweep_every=timedelta(days=7)),
    )
    now = START
    while now <= END:
        while news and news[0][0] <= now:
            request = feed("sofa", news.pop(0)[1], default_sender("sofa"))
            document = request(service, now)
            service.accept(document.events, document.dead_letters, now, settings=document.settings)
        service.accept(fleet.advance(now), (), now)
        while (wake := service.next_wake(now)) is not None and wake <= now:
            service.tick(now)
        now += STEP
    return service


def issued(service: Service) -> list[Job]:
    """Return the jobs in the log, oldest first."""
    events = (decode(row.body) for row in service.store.entries(kind="event") if "job" in row.type)
    return [event.data.job for event in events if isinstance(event, JobIssuedEvent)]


def table(jobs: list[Job], sites: Mapping[str, Site]) -> str:
    """Return what would have been done: jobs by local day, site and release."""
    counts = Counter(
        (f"{job.issued_at.astimezone(sites[job.site].zone):%m-%d}", job.site, job.intent)
        for job in jobs
    )
    return "\n".join(f"{' '.join(row):<28}{count:>6}" for row, count in sorted(counts.items()))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 42,000 reports, and two jobs for each Mac: minutes on a busy machine
def test_fourteen_days_of_real_releases_wear_no_mac_out(disk: Path, reference_data: Path) -> None:
    service = run(disk, reference_data / "sofa" / "history" / "v2.tar.xz")
    found, sites = issued(service), read_policy(POLICY).sites
    print(f"\nwhat would have been done\n{table(found, sites)}")  # noqa: T201 - for pytest -s
    for job in found:
        hour = job.issued_at.astimezone(sites[job.site].zone).hour
        is_late = job.deadline_at is not None and job.issued_at >= job.deadline_at
        assert is_late or hour >= OPENS or hour < CLOSES
    once = Counter((job.udid, job.intent) for job in found)
    assert max(once.values()) == 1, "a release is tried once: a rehearsal is no failure"
    newest = Counter(job.intent for job in found if job.intent in NEWEST)
    assert newest.total() == MACS, "each Mac would have been given the newest release of its line"
    histories = service.reconciler.fleet.job_histories.values()
    assert not any(entry.failed for history in histories for entry in history)
    last = service.reconciler.last_decisions.values()
    assert Reason.RETRIES_EXHAUSTED not in {one.reason for one in last}
    service.close()
    with closing(sqlite3.connect(disk / FILE)) as db:
        ((count, size),) = db.execute(
            "SELECT count(*), total(length(body)) FROM log WHERE kind = 'decision'"
        )
        ((blobs,),) = db.execute("SELECT total(length(body)) FROM blobs")
    assert (size + blobs) / count < MOST_BYTES
