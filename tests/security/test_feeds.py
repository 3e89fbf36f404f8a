"""Attacks by a feed's server, and by who is between it and Drydock (A32, A33)."""

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drydock_process import DRYDOCK, Running, running
from tests.feed_server import FeedServer, feed_server
from tests.waiting import wait_until

MIB = 1024 * 1024
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def refusal(service: Running) -> str | None:
    """Return the log line with which the service reports that the feed is not usable."""
    lines = [*service.log_lines]
    return next((line for line in lines if "feed unreachable" in line or "refused" in line), None)


def refused(data_dir: Path, prepare: Callable[[FeedServer], None]) -> tuple[str, int]:
    """Return the log line of a refused feed, and the service's peak of memory in bytes."""
    with feed_server() as web:
        prepare(web)
        where = ("--sofa", f"{web.url}/feed")
        with running(data_dir, *where, env=NO_PROXY) as service:
            wait_until(lambda: refusal(service) is not None, 60, "the feed was not refused")
            status = Path(f"/proc/{service.process.pid}/status").read_text()
            peak = next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)
            return refusal(service) or "", int(peak) * 1024


def test_a32_feed_that_is_packed_twice_takes_no_memory(tmp_path: Path) -> None:
    def pack(web: FeedServer) -> None:
        zeros = gzip.compress(b"\0" * (400 * MIB), 1)
        web.documents["/feed"] = gzip.compress(zeros, 9)
        web.codings["/feed"] = "gzip, gzip"

    line, peak = refused(tmp_path, pack)
    assert "content coding" in line
    # It was 452 MiB; a service without a feed needs less than 150.
    assert peak < 256 * MIB


def test_a32_feed_that_is_packed_once_is_unpacked_to_its_limit(tmp_path: Path) -> None:
    def pack(web: FeedServer) -> None:
        web.documents["/feed"] = gzip.compress(b"\0" * (400 * MIB), 9)
        web.codings["/feed"] = "gzip"

    line, peak = refused(tmp_path, pack)
    assert "is over" in line
    assert peak < 256 * MIB


@pytest.mark.parametrize("command", ["run", "feeds"])
def test_a33_feed_over_plain_http_is_refused_at_the_start(tmp_path: Path, command: str) -> None:
    where = ("--data-dir", str(tmp_path), "--sofa", "http://mirror.example/feed")
    more = ("--insecure-loopback",) if command == "run" else ("--bootstrap", "127.0.0.1:9")
    done = subprocess.run(
        [*DRYDOCK, command, *where, *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"DRYDOCK_STAMP_KEYS": "0" * 32},
    )
    assert done.returncode == 2
    assert "SOFA: " in done.stderr
    assert "is not HTTPS" in done.stderr


def test_a33_redirect_to_plain_http_is_not_followed(tmp_path: Path) -> None:
    def redirect(web: FeedServer) -> None:
        web.location["/feed"] = "http://203.0.113.9/feed"

    line, _ = refused(tmp_path, redirect)
    assert "redirected to http://203.0.113.9/feed, which is not HTTPS" in line
