"""CPU time of the reading commands at a service with 100,000 Macs and 5 million decisions.

`python -m tests.bench.query [--macs N] [--decisions N]` makes a data directory, then asks it
through the routes of `/v1`, as `drydock run` and as `drydock query`. It exits 1 if a response takes
more than LIMIT_MS of CPU.

- **Data.** _TEMPLATES Macs report for some days and get jobs. Each other Mac is a copy of one of
  them with names of its own: its state, last decision and jobs. The log has the same number of
  decisions of each Mac. Those of the templates, which are explained, are whole; the others have
  their keys and times, and _FILLER in place of the packed record.
- **Server time** is the CPU time of the process from the request to the last byte of the response,
  without a network: the ASGI application is called in this process. The time of opening the
  directory is printed beside it.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from pipeline.embedded.log import FILE, OFFSETS_SETTING, Log
from pipeline.embedded.read_api import ReadApi
from pipeline.embedded.reads import Read, ReadableState
from pipeline.embedded.service import Service
from pipeline.embedded.store import Store
from pipeline.embedded.transaction import load_state
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.endpoint import Endpoint
from pipeline.gateway.logins import Logins
from pipeline.query.metrics import QueryMetrics
from pipeline.query.view import Trust, View
from pipeline.reconcile.reconciler import Reconciler
from runtime.logs import make_log
from tests import factories as make
from tests.factories.sites import JOBS_KEY, KEYS, START, osquery_report

LIMIT_MS: Final = 300.0
REPEATS: Final = 5
_TOKEN: Final = "a-token-of-the-benchmark"
_FILLER: Final = b"{" + b" " * 400 + b"}"
_TEMPLATES: Final = 20
POLICY: Final = """\
version: 1
default_site: london
blast_radius: {jobs_per_hour: null, new_macs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 3, match: {hostnames: ["ldn-*"]}}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 3, match: {hostnames: ["tyo-*"]}}
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
"""
COMMANDS: Final = (
    ("status", "/v1/status"),
    ("devices list --limit 100", "/v1/lists/devices?limit=100"),
    ("devices list --site tokyo --limit 100", "/v1/lists/devices?site=tokyo&limit=100"),
    ("devices list --reason job_open --limit 100", "/v1/lists/devices?reason=job_open&limit=100"),
    ("devices list --decision nothing --limit 100", "/v1/lists/devices?decision=nothing&limit=100"),
    ("devices list MAC", "/v1/lists/devices?mac=C02{mac}"),
    ("jobs list --limit 100", "/v1/lists/jobs?limit=100"),
    ("jobs list --outcome open --limit 100", "/v1/lists/jobs?outcome=open&limit=100"),
    ("approvals list", "/v1/lists/approvals"),
    ("findings list --limit 100", "/v1/lists/findings?limit=100"),
    ("explain UDID", "/v1/explanations/{mac}"),
    ("explain SERIAL", "/v1/explanations/C02{mac}"),
    ("explain HOSTNAME", "/v1/explanations/{host}"),
    ("explain a wrong name", "/v1/explanations/x{host}"),
)


def say(text: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def udid_of(number: int) -> str:
    """Return the UDID of a Mac; the first ones are the templates."""
    return f"MAC-{number:06}"


def hostname_of(number: int) -> str:
    """Return the host name of a Mac, which has its site: one in four Macs is in Tokyo."""
    return f"{'tyo' if number % 4 == 3 else 'ldn'}-{udid_of(number)}"


def make_templates(folder: Path) -> None:
    """Let _TEMPLATES Macs report, get jobs and report again, as the service records it."""
    service = Service.open(folder, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([make.release("26.2")], (), START)
    for day in range(12):
        now = START + timedelta(days=day)
        versions = ("26.1", "26.2" if day % 3 == 2 else "26.1")
        reports = [
            osquery_report(
                udid_of(number),
                now,
                os_version=versions[number % 2],
                hostname=hostname_of(number),
                model="Mac15,12",
                supervised=True,
                user_approved=True,
                on_ac_power=bool(number % 3),
                free_disk_gb=100 if number % 5 else 3,
            )
            for number in range(_TEMPLATES)
        ]
        service.accept(reports, (), now)
        service.tick(now)
    service.close()


def copy_macs(folder: Path, macs: int, decisions: int) -> None:
    """Add copies of the templates until there are so many Macs and so many decisions."""
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN")
        columns = {
            table: [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
            for table in ("devices", "job_histories", "last_decisions")
        }
        for table, names in columns.items():
            query = f"SELECT * FROM {table} WHERE udid = ?"  # noqa: S608 - constants
            templates = [db.execute(query, (udid_of(one),)).fetchone() for one in range(_TEMPLATES)]
            marks = ", ".join("?" * len(names))
            db.executemany(
                f"INSERT INTO {table} VALUES ({marks})",  # noqa: S608 - constants
                (
                    _renamed(templates[number % _TEMPLATES], number)
                    for number in range(_TEMPLATES, macs)
                    if templates[number % _TEMPLATES] is not None
                ),
            )
        db.execute("COMMIT")
    with Log.open(folder) as log:
        records = [
            [one.body for one in log.entries(key=udid_of(number), kind="decision")]
            for number in range(_TEMPLATES)
        ]
        last_at = log.last_at()
    assert last_at is not None
    store = Store.open(folder)
    with store.transaction("bench"):
        for number, known in enumerate(records):
            for place in range(len(known), decisions // macs):
                store.append_decision(last_at, udid_of(number), known[place % len(known)])
    store.close()
    _copy_log(folder, macs, decisions, last_at)


def _renamed(row: Sequence[Any], number: int) -> tuple[Any, ...]:
    old, new = udid_of(number % _TEMPLATES), udid_of(number)
    return tuple(_with_name(value, old, new) for value in row)


def _with_name(value: Any, old: str, new: str) -> Any:
    if isinstance(value, bytes):
        return value.replace(old.encode(), new.encode())
    return value.replace(old, new) if isinstance(value, str) else value


def _copy_log(folder: Path, macs: int, decisions: int, last_at: datetime) -> None:
    """Log the same number of decisions of each copy, in turn."""
    at_us = int(last_at.timestamp() * 1_000_000)
    others = [udid_of(number) for number in range(_TEMPLATES, macs)]
    insert = "INSERT INTO log (kind, at_us, source, id, type, key, body) VALUES (?,?,?,?,?,?,?)"
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN")
        db.executemany(
            "INSERT INTO names VALUES (?,?,?,?,?)",
            (("serial", f"C02{udid}", "decision", udid, 1) for udid in others),
        )
        for round_ in range(decisions // macs):
            at = at_us + round_
            db.executemany(
                insert,
                (("decision", at, "", "", "decision", udid, _FILLER) for udid in others),
            )
        db.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class Opened:
    """The state of `drydock run` after its start."""

    store: Log
    reconciler: Reconciler


def application(state: ReadableState) -> Starlette:
    """Return the routes that read this state, at the time of its last entry."""
    now = state.store.last_at() or datetime.now(UTC)

    def run(read: Read) -> Awaitable[Any]:
        async def result() -> Any:
            return read(state, now)

        return result()

    endpoint = Endpoint(QueryMetrics(CollectorRegistry()), make_log())
    api = ReadApi(endpoint, Authenticator(Logins, admin_token=_TOKEN), run)
    return endpoint.application(api.routes())


async def ask(app: Starlette, path: str) -> tuple[float, int, int]:
    """Return the median of the CPU time of a request in ms, its status and its bytes."""
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {_TOKEN}"}
    took = []
    async with httpx.AsyncClient(transport=transport, base_url="http://bench") as client:
        for _ in range(REPEATS):
            began = time.process_time()
            response = await client.get(path, headers=headers)
            took.append((time.process_time() - began) * 1e3)
    return statistics.median(took), response.status_code, len(response.content)


def measure(form: str, state: ReadableState) -> bool:
    """Print the server time of each command; return True if all are within LIMIT_MS."""
    app = application(state)
    say(f"{form}: CPU of one request, median of {REPEATS}")
    slow = 0
    for place, (command, path) in enumerate(COMMANDS):
        number = place % _TEMPLATES
        asked = path.replace("{mac}", udid_of(number)).replace("{host}", hostname_of(number))
        took, status, size = asyncio.run(ask(app, asked))
        slow += took > LIMIT_MS
        say(f"  {command:<45} {took:>8.1f} ms  {status}  {size:>9,} bytes")
    return not slow


def states(folder: Path) -> Iterator[tuple[str, ReadableState]]:
    """Yield the state of each form, read from the same directory."""
    with Log.open(folder) as log:
        yield "drydock run", Opened(log, load_state(log))
    view = View.open(folder, Trust(KEYS))
    try:
        yield "drydock query", view
    finally:
        view.close()


def main() -> int:
    """Make the data, measure both forms; return 1 if a response took too long."""
    parser = argparse.ArgumentParser(prog="bench.query")
    parser.add_argument("--macs", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=5_000_000)
    parser.add_argument("--data-dir", type=Path, help="keep the data here, and use it again")
    options = parser.parse_args()
    macs, decisions = options.macs, options.decisions
    with tempfile.TemporaryDirectory(prefix="drydock-bench-") as temporary:
        folder = options.data_dir or Path(temporary)
        if not (folder / FILE).exists():
            began = time.perf_counter()
            make_templates(folder)
            copy_macs(folder, macs, decisions)
            say(f"data made in {time.perf_counter() - began:,.0f} s")
        size = (folder / FILE).stat().st_size
        say(f"{macs:,} Macs, {decisions:,} decisions, {size / 1e6:,.0f} MB")
        store = Store.open(folder)
        with store.transaction("bench"):
            store.put_setting(OFFSETS_SETTING, json.dumps({}).encode())
        store.close()
        is_fast = True
        began = time.process_time()
        for form, state in states(folder):
            say(f"{form}: opened with {time.process_time() - began:,.1f} s of CPU")
            is_fast &= measure(form, state)
            began = time.process_time()
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
