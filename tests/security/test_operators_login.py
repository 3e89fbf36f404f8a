"""Attacks on what only an operator states: owner, retirement, never_erase; and equal secrets."""

import subprocess
from pathlib import Path

import pytest

from tests.drydock_process import DRYDOCK
from tests.security.target import SECRETS, Target, report

OPERATORS = [{"ownership": "loan"}, {"never_erase": False}, {"retired": True}, {}]


@pytest.mark.parametrize("sender", sorted(SECRETS.keys() - {"admin"}))
@pytest.mark.parametrize("stated", OPERATORS, ids=["owner", "erase", "retired", "none"])
def test_a08_no_program_speaks_as_an_operator(
    at: Target, sender: str, stated: dict[str, object]
) -> None:
    at.accept(report("MAC-O1"))
    at.accept(report("MAC-O1", source="admin", never_erase=True), "admin")
    assert at.refusal(report("MAC-O1", source="admin", **stated), sender) == "forbidden"


def test_a08_owner_that_an_mdm_server_states_under_its_own_source_does_not_count(
    at: Target,
) -> None:
    at.accept(report("MAC-O2"))
    at.accept(report("MAC-O2", source="admin", retired=True), "admin")
    at.accept(report("MAC-O2", source="mdm", retired=False, ownership="company"), "nanomdm")
    assert at.decision("MAC-O2")["reason"] == "retired"


def test_operators_login_delivers_no_reports_of_macs(at: Target) -> None:
    for source in ("osquery", "mdm", "other"):
        assert at.refusal(report("MAC-O3", source=source), "admin") == "forbidden"
    response = at.post("/webhooks/nanomdm", {}, None, **{"X-Drydock-Secret": SECRETS["admin"]})
    assert response.status_code == 401


@pytest.mark.parametrize("command", ["run", "gateway"])
@pytest.mark.parametrize("kind", ["NANOMDM_SECRET", "ADMIN_SECRET", "SOFA_SECRET"])
def test_a12_one_secret_of_two_senders_is_refused_at_the_start(
    tmp_path: Path, command: str, kind: str
) -> None:
    env = {"PATH": "/usr/bin:/bin", "DRYDOCK_STAMP_KEYS": "0" * 32}
    env |= {f"DRYDOCK_{name}": "one-secret-of-two" for name in ("OSQUERY_SECRET", kind)}
    done = subprocess.run(
        [*DRYDOCK, command, "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=env,
    )
    assert done.returncode == 2
    assert "have one secret" in done.stderr
    assert "one-secret-of-two" not in done.stderr
