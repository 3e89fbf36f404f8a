"""`drydock devices` while no service runs, and the decisions afterwards."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.embedded.service import Service
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, Purpose
from tests.embedded_world import POLICY
from tests.factories import reported
from tests.factories.sites import critical_release

START = datetime.now(UTC) - timedelta(days=1)
SERIAL = "C02TWINS"
OLD: dict[str, Any] = {
    "os_version": "26.1",
    "build": "25B78",
    "model": "Mac14,2",
    "free_disk_gb": 99.0,
}


def opened(folder: Path, now: datetime) -> Service:
    keys = folder / "keys"
    return Service.open(
        folder,
        now=now,
        signer=KeyStore(keys).signer(Purpose.JOBS),
        trust=KeyRing.load(keys),
        policy_text=POLICY,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data directory with two returned loan units that report one serial number."""
    for purpose in Purpose:
        KeyStore(tmp_path / "keys").make(purpose)
    (tmp_path / "keys" / "redaction.key").write_bytes(b"k" * 32)
    service = opened(tmp_path, START)
    service.accept([critical_release("26.2", "25C56", START)], (), START)
    for udid in ("MAC-1", "MAC-2"):
        fields = OLD | {"serial": SERIAL, "loan_returned_at": START}
        returned = reported(udid, START, **fields)
        service.accept([returned], (), START)
    service.accept([reported(None, START, "munki", serial=SERIAL)], (), START)
    service.close()
    return tmp_path


def reasons(data_dir: Path, now: datetime | None = None) -> dict[str, str]:
    """Return the reason of the last decision of each Mac, after a restart and a sweep."""
    service = opened(data_dir, now or datetime.now(UTC))
    found = {udid: last.reason.value for udid, last in service.reconciler.last_decisions.items()}
    service.close()
    return found


def drydock(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def settle(data_dir: Path, *arguments: str) -> Result:
    options = ("--data-dir", data_dir, "--by", "ada", "--why", "looked at the Mac")
    return drydock("devices", *arguments, *options)


BY_SERIAL = {f"serial:{SERIAL}": "udid_unknown"}
HELD = {"MAC-1": "identity_conflict", "MAC-2": "identity_conflict"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("separate", "MAC-1", "MAC-2"),
            {"MAC-1": "awaiting_approval", "MAC-2": "awaiting_approval"} | BY_SERIAL,
        ),
        (("merge", "MAC-1", "MAC-2"), {"MAC-1": "retired", "MAC-2": "awaiting_approval"}),
        (("forget", "MAC-1"), {"MAC-2": "awaiting_approval"}),
    ],
    ids=["separate", "merge", "forget"],
)
def test_settled_conflict_no_longer_holds_the_macs(
    data_dir: Path, arguments: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert reasons(data_dir) == HELD | BY_SERIAL
    done = settle(data_dir, *arguments)
    assert (done.exit_code, done.output.split(":")[0]) == (0, "settled"), done.output
    assert reasons(data_dir) == expected
    verified = drydock("replay", "--data-dir", data_dir, "--verify")
    assert verified.exit_code == 0, verified.output


def test_forgotten_mac_comes_back_with_its_next_report(data_dir: Path) -> None:
    settle(data_dir, "forget", "MAC-1")
    now = datetime.now(UTC) + timedelta(minutes=1)
    service = opened(data_dir, now)
    service.accept([reported("MAC-1", now, **OLD, serial="C02OTHER")], (), now)
    device = service.reconciler.fleet.merged_device("MAC-1")
    assert (device.serial, device.loan_returned_at) == ("C02OTHER", None)
    service.close()
    assert reasons(data_dir, now)["MAC-1"] != "os_unknown"


def test_serial_number_of_two_macs_approves_nothing(data_dir: Path) -> None:
    refused = drydock("approve", SERIAL, "--data-dir", data_dir, "--yes")
    assert refused.exit_code == 2
    assert "2 Macs have the serial number C02TWINS: give a UDID, MAC-1 or MAC-2" in refused.output
    held = drydock("approve", "MAC-1", "--data-dir", data_dir, "--yes")
    assert held.exit_code == 2
    assert "awaits no approval" in held.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--ownership", "personal"), "personal"),
        (("--ownership", "company"), "not_a_loan"),
        (("--never-erase",), "never_erase"),
        (("--retired",), "retired"),
    ],
)
def test_described_mac_is_protected(data_dir: Path, options: tuple[str, ...], reason: str) -> None:
    settle(data_dir, "separate", "MAC-1", "MAC-2")
    done = drydock("devices", "describe", "MAC-1", *options, "--data-dir", data_dir, "--by", "ada")
    assert (done.exit_code, done.output) == (0, "described: MAC-1\n")
    assert reasons(data_dir)["MAC-1"] == reason
    assert reasons(data_dir)["MAC-2"] == "awaiting_approval"


def test_description_without_a_statement_is_refused(data_dir: Path) -> None:
    done = drydock("devices", "describe", "MAC-1", "--data-dir", data_dir)
    assert done.exit_code == 2
    assert "state something" in done.output
    assert drydock("devices", "describe", "X", "--retired", "--data-dir", data_dir).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("merge", "MAC-1", "MAC-9"), "no Mac has the name 'MAC-9'"),
        (("merge", "C02NOBODY", "MAC-1"), "no Mac has the name 'C02NOBODY'"),
        (("separate", SERIAL, "MAC-1"), "2 Macs have the serial number C02TWINS"),
        (("separate", "MAC-1", "MAC-1"), "the two identifiers are the same"),
        (("forget", ""), "String should have at least 1 character"),
        (("forget", "MAC-1", "--bootstrap", "127.0.0.1:1"), "choose one"),
    ],
)
def test_settlement_of_something_unknown_changes_nothing(
    data_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = settle(data_dir, *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert reasons(data_dir) == HELD | BY_SERIAL
