"""`agent try`: facts for a person, and outputs without what identifies the Mac."""

import plistlib

import pytest

from agents.ssh.facts_table import facts_table, redacted
from agents.ssh.report import Report
from tests.unit.agents.ssh.macs import a_report

OWNER = "11111111-2222-3333-4444-555555555555"
WHOLE = {
    "serial": '"IOPlatformSerialNumber" = "C02SECRET123"\n"IOPlatformUUID" = "'
    + OWNER.replace("1", "9")
    + '"',
    "system": "ProductVersion: 26.7\nBuildVersion: 25G229\n",
    "apple_silicon": "1\n",
    "power": "Now drawing from 'AC Power'\n",
    "console": "jappleseed\n",
    "processes": "/Users/jappleseed/Secret Project.app\n",
    "owners": f"+-- {OWNER}\n    Type: Local Open Directory User\n    Volume Owner: Yes\n",
    "owner_uid": f"GeneratedUID: {OWNER}\n",
    "restrictions": plistlib.dumps(
        {"forceDelayedSoftwareUpdates": True, "organization": "customer"}
    ).decode(),
    "enrollment": "MDM enrollment: Yes (User Approved)\nMDM server: https://mdm.customer.com/x\n",
}
SECRETS = ("C02SECRET123", "c02secret123", "jappleseed", OWNER, "customer", "itadmin")


def values(report: Report) -> dict[str, str]:
    return {fact.name: fact.value for fact in facts_table(report)}


def test_facts_are_shown_in_words() -> None:
    shown = values(a_report(**WHOLE))
    assert shown["macOS"] == "26.7"
    assert shown["serial number"] == "C02SECRET123"
    assert shown["the account owns the volume"] == "yes"
    assert shown["user at the screen"] == "yes"
    assert shown["installer running"] == "no"
    assert shown["free disk"] == "unknown"
    assert shown["days of deferral, updates"] == "30"


def test_mac_without_any_output_has_unknown_facts() -> None:
    shown = values(Report())
    assert shown["macOS"] == shown["enrolled"] == shown["the account owns the volume"] == "unknown"


@pytest.mark.parametrize("secret", SECRETS)
def test_outputs_are_kept_without_what_identifies_the_mac(secret: str) -> None:
    given = {**WHOLE, "disk": "jappleseed C02SECRET123 c02secret123 itadmin\n"}
    kept = redacted(a_report(**given), frozenset({"itadmin"}))
    assert secret not in "".join(kept.values())
    assert "processes" not in kept


def test_redacted_outputs_still_give_the_facts() -> None:
    report = a_report(**WHOLE)
    kept = Report(redacted(report, frozenset()))
    same = {"macOS", "build", "days of deferral, updates", "volume owners", "enrolled"}
    same.add("the account owns the volume")
    assert values(kept).items() >= {(name, values(report)[name]) for name in same}
