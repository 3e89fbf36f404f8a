"""Forged reports of a sender under the default blast radius (A8, A11)."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.security.target import Target, release, report, target

Found = TypeVar("Found")

POLICY = "sites: {london: {time_zone: Europe/London}}\ndefault_site: london\n"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("radius"), policy_text=POLICY) as found:
        found.accept(release(), "sofa")
        yield found


def known_to_mdm(at: Target, name: str, **data: Any) -> None:
    at.accept(report(name, source="mdm", mdm_enrolled=True, supervised=True, **data), "nanomdm")


def test_a11_invented_macs_use_no_capacity(at: Target) -> None:
    for number in range(40):
        at.accept(report(f"MAC-FORGED-{number:02}"))
    assert not at.status()["open_jobs"]
    assert at.decision("MAC-FORGED-39")["reason"] == "not_confirmed"


def within_an_hour(folder: Path, policy_text: str, attack: Callable[[Target], Found]) -> Found:
    """Return the result of an attack during which no hour ends, because limits are by the hour."""
    for attempt in ("first", "second"):
        (folder / attempt).mkdir()
        hour = datetime.now(UTC).hour
        with target(folder / attempt, policy_text=policy_text) as at:
            found = attack(at)
        if datetime.now(UTC).hour == hour:
            return found
    raise AssertionError("two hours ended: the attack takes too long")


def test_a08_false_reports_order_no_more_than_the_jobs_of_an_hour(tmp_path: Path) -> None:
    """Reports of an older version order one job an hour of a small site."""

    def jobs_of_reports(at: Target) -> int:
        at.accept(release(), "sofa")
        for number in range(6):
            known_to_mdm(at, f"MAC-H{number}", os_version="26.2", build="25C56")
        for number in range(6):
            at.accept(report(f"MAC-H{number}"))
        return sum(sum(by_action.values()) for by_action in at.status()["open_jobs"].values())

    assert within_an_hour(tmp_path, POLICY, jobs_of_reports) == 1


def test_a08_claim_of_a_broken_seal_orders_no_reinstall(at: Target) -> None:
    known_to_mdm(at, "MAC-A8", os_version="26.2", build="25C56")
    claim = {"os_version": "26.2", "build": "25C56", "system_volume_sealed": False}
    at.accept(report("MAC-A8", **claim))
    assert at.decision("MAC-A8")["reason"] == "uncorroborated"
    known_to_mdm(at, "MAC-A8", **claim)
    assert at.decision("MAC-A8")["reason"] != "uncorroborated"


def test_a28_mac_exempts_itself_by_no_host_name(tmp_path: Path) -> None:
    exemption = "exemptions: [{who: {hostnames: ['*-kiosk-*']}, why: signage}]\n"
    with target(tmp_path, policy_text=POLICY + exemption) as at:
        at.accept(release(), "sofa")
        known_to_mdm(at, "MAC-A28", hostname="ldn-0028")
        at.accept(report("MAC-A28", hostname="ldn-kiosk-28"))
        assert at.decision("MAC-A28")["action"] == "update"
        assert at.decision("MAC-A28")["reason"] != "exempt"
        known_to_mdm(at, "MAC-A28", hostname="ldn-kiosk-28")
        assert at.decision("MAC-A28")["reason"] == "exempt"


def test_broken_seals_reinstall_the_canaries_of_the_policy_only(tmp_path: Path) -> None:
    """Two sources report broken seals: the policy permits to reinstall one of the Macs."""
    destructive = "{canaries: [C02MAC-CANARY], percent: 0}"
    site = f"london: {{time_zone: Europe/London, destructive: {destructive}}}"
    limits = "blast_radius: {jobs_per_hour: null}"
    with target(tmp_path, policy_text=f"sites: {{{site}}}\ndefault_site: london\n{limits}\n") as at:
        at.accept(release(), "sofa")
        seal = {"os_version": "26.2", "build": "25C56", "system_volume_sealed": False}
        for name in ("MAC-OTHER", "MAC-CANARY"):
            known_to_mdm(at, name, **seal)
            at.accept(report(name, **seal))
        assert at.decision("MAC-OTHER")["reason"] == "locked"
        assert at.decision("MAC-CANARY")["reason"] != "locked"
        assert at.status()["open_jobs"] == {"london": {"reinstall": 1}}


def test_invented_macs_above_the_limit_become_dead_letters(tmp_path: Path) -> None:
    """A flood of invented Macs of one sender leaves the MDM channel and known Macs alone."""

    def flood(at: Target) -> tuple[dict[str, Any], dict[str, Any]]:
        known_to_mdm(at, "MAC-REAL-1")
        for number in range(20):
            at.accept(report(f"MAC-INVENTED-{number:02}"))
        status = at.status()
        at.accept(report("MAC-REAL-1", os_version="26.0", build="25A354"))
        known_to_mdm(at, "MAC-REAL-2")
        return status, at.status()

    limited = f"{POLICY}blast_radius: {{new_macs_per_hour: 5}}\n"
    status, after = within_an_hour(tmp_path, limited, flood)
    assert status["devices"] == 6
    assert status["dead_letters"]["too_many_new"] == 15
    assert after["devices"] == 7
    assert after["dead_letters"] == status["dead_letters"]


def test_refused_report_of_a_real_mac_is_replayed(tmp_path: Path) -> None:
    def replay(at: Target) -> tuple[int, int, int]:
        for number in range(3):
            at.accept(report(f"MAC-REAL-{number}"))
        refused = at.status()["dead_letters"].get("too_many_new", 0)
        for number in range(3):
            known_to_mdm(at, f"MAC-REAL-{number}")
        token = (at.data_dir / "keys" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        replayed = at.http.post("/v1/dead-letters/1/replay", headers=headers)
        left = at.status()["dead_letters"].get("too_many_new", 0)
        return refused, replayed.status_code, left

    limited = f"{POLICY}blast_radius: {{new_macs_per_hour: 1}}\n"
    assert within_an_hour(tmp_path, limited, replay) == (2, 200, 1)
