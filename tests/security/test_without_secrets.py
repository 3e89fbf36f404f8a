"""A service without secrets (A4): closed, or open on loopback if its operator demands it."""

import subprocess
from pathlib import Path

import pytest

from tests.drydock_process import DRYDOCK
from tests.security.target import report, target


def test_a04_service_without_secrets_accepts_programs_of_this_machine_alone(tmp_path: Path) -> None:
    with target(tmp_path, secrets=False) as at:
        assert at.post("/v1/events", report("MAC-1"), None).status_code == 200
        for headers in (
            {"X-Forwarded-For": "203.0.113.9"},
            {"X-Forwarded-Proto": "https"},
            {"X-Real-IP": "203.0.113.9"},
            {"Forwarded": "for=203.0.113.9"},
            {"Via": "1.1 proxy"},
            {"Origin": "https://example.org"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            refused = at.post("/v1/events", report("MAC-2"), None, **headers)
            assert refused.status_code == 403, headers
        assert at.mac("MAC-2") is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - refused
def test_a04_insecure_loopback_is_refused_on_another_address(tmp_path: Path, host: str) -> None:
    where = f"[{host}]:0" if ":" in host else f"{host}:0"
    options = ("--data-dir", str(tmp_path / "data"), "--listen", where, "--insecure-loopback")
    done = subprocess.run(
        [*DRYDOCK, "run", *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "loopback" in done.stderr
