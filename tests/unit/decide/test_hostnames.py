"""Host names in globs of the policy: those of the MDM channel, unless the policy wants all."""

from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.situation import site_of
from pipeline.policy.model import Policy
from pipeline.state.device import Device, from_us
from schemas.decisions import Reason
from tests.factories import HOUR, mac, policy, situation, with_report

KIOSKS = [{"who": {"hostnames": ["*-kiosk-*"]}, "why": "signage"}]
SITES = {
    "london": {"time_zone": "Europe/London"},
    "tokyo": {"time_zone": "Asia/Tokyo", "match": {"hostnames": ["tyo-*"]}},
}


def under(blast_radius: dict[str, Any]) -> Policy:
    limits = {"jobs_per_hour": None} | blast_radius
    return policy(sites=SITES, default_site="london", exemptions=KIOSKS, blast_radius=limits)


def named(source: str, hostname: str, device: Device | None = None) -> Device:
    known = mac(site=None) if device is None else device
    return with_report(known, from_us(known.newest_us) + HOUR / 60, source, hostname=hostname)


@pytest.mark.parametrize("source", ["osquery", "munki", "other"])
def test_name_of_another_sender_exempts_no_mac_and_moves_none(source: str) -> None:
    rules = under({})
    for hostname in ("ldn-kiosk-1", "tyo-1"):
        renamed = named(source, hostname, named("mdm", "ldn-1"))
        decision = decide(situation(renamed, rules=rules))
        assert renamed.hostname == hostname
        assert (decision.reason, decision.site) == (Reason.SECURITY_UPDATE, "london")


@pytest.mark.parametrize("source", ["mdm", "jamf", "executor", "admin"])
def test_name_of_the_mdm_channel_counts(source: str) -> None:
    rules = under({})
    assert decide(situation(named(source, "ldn-kiosk-1"), rules=rules)).reason is Reason.EXEMPT
    assert site_of(named(source, "tyo-1"), rules) == "tokyo"


WANTED = [
    pytest.param({}, False, id="default"),
    pytest.param({"hostnames_of": "mdm", "confirmed_only": False}, False, id="mdm"),
    pytest.param({"hostnames_of": "any"}, True, id="any"),
    pytest.param({"confirmed_only": False}, True, id="trusts inventory alone"),
]


@pytest.mark.parametrize(("blast_radius", "counts"), WANTED)
def test_policy_states_whose_names_count(blast_radius: dict[str, Any], counts: bool) -> None:
    renamed = named("osquery", "ldn-kiosk-1", named("mdm", "ldn-1"))
    reason = decide(situation(renamed, rules=under(blast_radius))).reason
    assert (reason is Reason.EXEMPT) is counts


def test_name_of_another_sender_does_not_replace_the_earlier_names_of_the_mdm_channel() -> None:
    """A user renames a Mac: a name that matches no site does not move it."""
    renamed = named("mdm", "anna", named("mdm", "tyo-1"))
    for number in range(9):
        renamed = named("osquery", f"other-{number}", renamed)
    assert site_of(renamed, under({})) == "tokyo"
