"""Explanations of a decision: methods passed over, settings of the policy, sources of fields."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.replay.explain import Explanation, explain
from schemas.jobs import Method
from tests.unit.replay.driver import POLICY, START, Driver

LISTED = POLICY + "methods:\n  update: [ddm, softwareupdate, mdm_command]\n"


def explained(policy: str = LISTED, hours: float = 0, **facts: Any) -> Explanation:
    """Return the explanation of a Mac that lacks 15.7.3, some hours after its report."""
    driver = Driver(policy=policy)
    driver.publish("15.7.3", severity="critical", cves=["CVE-2025-2000"])
    driver.enroll("LON-1")
    driver.report("LON-1", **facts)
    driver.wait(hours=hours)
    found = explain(driver.finish(), "LON-1")
    assert found is not None
    return found


def methods(found: Explanation) -> dict[str, tuple[str, str]]:
    return {row.method.value: (row.state, row.detail) for row in found.methods}


def test_each_method_has_the_reason_for_which_it_was_passed_over() -> None:
    found = methods(explained(supervised=False))
    assert list(found) == ["ddm", "softwareupdate", "mdm_command"]
    assert found["ddm"] == ("blocked", "not_supervised: not supervised")
    assert found["softwareupdate"][0] == "chosen"
    assert found["mdm_command"][0] == "impossible"


def test_a_free_method_after_the_chosen_one_is_passed_over() -> None:
    found = explained()
    assert found.record is not None
    assert found.record.decision.method is Method.DDM
    assert methods(found)["softwareupdate"] == ("passed over", "an earlier method is free")


def test_a_mac_without_a_need_has_no_methods() -> None:
    assert explained(os_version="15.7.3", build="24G419").methods == ()


@pytest.mark.parametrize(
    ("gate", "rule"),
    [
        ("site", "sites.london (line 3)"),
        ("fresh", "thresholds.stale_after: 14 days (default)"),
        ("disk", "thresholds.disk_update_gb: 300 (line 18)"),
        ("method", "methods.update: ddm, mdm_command, softwareupdate (default)"),
        ("window", "windows (line 10)"),
        ("site_slots", "sites.london.max_jobs: 2 (line 5)"),
    ],
)
def test_gate_names_the_setting_that_it_compared_with(gate: str, rule: str) -> None:
    found = explained(POLICY + "thresholds:\n\n  disk_update_gb: 300\n")
    assert str(found.rules[gate]) == rule


def test_a_deferred_release_names_its_deferral() -> None:
    found = explained(POLICY + "deferrals: {critical: 3d}\n")
    assert str(found.rules["deferral"]) == "deferrals.critical: 3d (line 16)"


def test_an_exempt_mac_names_its_exemption() -> None:
    exempt = "exemptions:\n  - {who: {serials: [X]}, why: a}\n  - {who: {serials: [SN*]}, why: b}\n"
    assert str(explained(POLICY + exempt).rules["exemption"]) == "exemptions[1] (line 18)"


def test_each_field_has_the_source_of_its_newest_report() -> None:
    driver = Driver()
    driver.enroll("LON-1")
    driver.report("LON-1", free_disk_gb=50.0)
    driver.wait(hours=1)
    driver.publish("15.7.3", severity="critical", cves=["CVE-2025-2000"])
    driver.report("LON-1", source="jamf", hostname="ldn-1", free_disk_gb=4.0)
    found = explain(driver.finish(), "LON-1", at=START + timedelta(hours=2))
    assert found is not None
    assert found.sources["free_disk_gb"] == found.sources["hostname"] == "jamf"
    assert found.sources["enrollment_type"].startswith("mdm.")


def test_a_log_that_lost_the_policy_is_explained_without_methods_and_settings() -> None:
    driver = Driver(policy=LISTED)
    driver.publish("15.7.3", severity="critical", cves=["CVE-2025-2000"])
    driver.enroll("LON-1")
    driver.report("LON-1")
    log = driver.finish()
    log.blobs.clear()
    found = explain(log, "LON-1")
    assert found is not None
    assert found.record is not None
    assert (found.methods, dict(found.rules)) == ((), {})
