"""Attacks by senders of a senders file: a Mac's own token, a relay's list, a replaced secret."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.gateway.logins import device_token
from tests.drydock_process import DRYDOCK
from tests.security.target import Target, report, target

SENDERS = """\
senders:
  - {name: clients, kind: osquery, device_tokens: [file:%(folder)s/master]}
  - {name: relay, kind: osquery, secrets: [file:%(folder)s/relay], devices: [MAC-R1, C02MAC-R1]}
"""
MASTER, RELAY = "the-master-of-the-clients", "the-secret-of-the-relay"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("senders")
    (folder / "master").write_text(MASTER)
    (folder / "relay").write_text(RELAY)
    (folder / "senders.yaml").write_text(SENDERS % {"folder": folder})
    with target(folder, "--senders", str(folder / "senders.yaml")) as found:
        yield found


def post(at: Target, secret: str, event: dict[str, Any]) -> int:
    return at.post("/v1/events", event, None, **{"X-Drydock-Secret": secret}).status_code


def osquery_log(udid: str) -> dict[str, Any]:
    """Return osquery's result for the version of a Mac."""
    return {
        "name": "pack_drydock_os_version",
        "hostIdentifier": udid,
        "unixTime": round(time.time()),
        "decorations": {"host_uuid": udid},
        "columns": {"version": "26.2", "build": "25C56", "platform": "darwin"},
        "action": "added",
    }


def test_a12_mac_with_its_own_token_reports_for_no_other_mac(at: Target) -> None:
    mine = device_token(MASTER, "MAC-M1")
    assert post(at, mine, report("MAC-M1")) == 200
    assert post(at, mine, report("MAC-M2")) == 400
    assert post(at, mine, report("serial:C02MAC-M2", udid=None, serial="C02MAC-M2")) == 400
    udid = "5133D000-0000-4000-8000-00000000A12A"
    at.post("/webhooks/osquery", osquery_log(udid), None, **{"X-Drydock-Secret": mine})
    assert (at.mac("MAC-M1"), at.mac("MAC-M2"), at.mac(udid)) != (None, None, None)
    assert at.mac("MAC-M2") is None
    assert at.mac(udid) is None


def test_a12_serial_number_of_another_mac_is_not_taken_from_a_macs_own_token(at: Target) -> None:
    assert post(at, device_token(MASTER, "MAC-M3"), report("MAC-M3", serial="C02MAC-M4")) == 200
    assert at.mac("C02MAC-M4") is None


@pytest.mark.parametrize(
    "secret", [MASTER, "MAC-M5", device_token("guess", "MAC-M5"), device_token(MASTER, "MAC-M1")]
)
def test_a12_token_of_another_mac_is_refused(at: Target, secret: str) -> None:
    assert post(at, secret, report("MAC-M5")) in {400, 401}
    assert at.mac("MAC-M5") is None


def test_a12_relay_reports_for_the_macs_of_its_list(at: Target) -> None:
    assert post(at, RELAY, report("MAC-R1")) == 200
    assert post(at, RELAY, report("MAC-R2")) == 400
    assert at.mac("MAC-R2") is None
    assert at.mac("C02MAC-R1") is not None


def test_a36_replaced_secret_is_refused_without_a_restart(at: Target) -> None:
    assert post(at, RELAY, report("MAC-R1")) == 200
    (at.data_dir.parent / "relay").write_text("another-secret-of-the-relay")
    time.sleep(2)
    assert post(at, RELAY, report("MAC-R1")) == 401
    assert post(at, "another-secret-of-the-relay", report("MAC-R1")) == 200


def test_unknown_key_of_a_senders_file_is_refused_with_its_line(tmp_path: Path) -> None:
    wrong = tmp_path / "senders.yaml"
    wrong.write_text("senders:\n  - {name: a, kind: osquery, secret: [env:X]}\n")
    options = ("--data-dir", str(tmp_path / "data"), "--senders", str(wrong))
    done = subprocess.run(
        [*DRYDOCK, "run", *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert "unknown key" in done.stderr
