"""The fingerprint of a decision, and the counts of exposed and overdue Macs and of findings."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.reconcile.last_decision import LastDecision, LastDecisions, fingerprint
from pipeline.state.device import to_us
from schemas.decisions import Decision, Gate, Reason, Severity, Verdict
from schemas.jobs import Action, Method, Target
from schemas.macos import parse_build, parse_os_version
from tests.factories import NOW, UDID

OTHER_UDID = UDID[:-1] + "2"

FIELDS: dict[str, Any] = {
    "udid": UDID,
    "serial": "C02TEST0001",
    "site": "london",
    "decision": Verdict.SEND,
    "action": Action.UPDATE,
    "method": Method.DDM,
    "target": Target(version=parse_os_version("26.2"), build=parse_build("25C56")),
    "reason": Reason.SECURITY_UPDATE,
    "advisory_ids": ("macOS-26.2",),
    "cves": ("CVE-2025-10001",),
    "exploited_cves": ("CVE-2025-10001",),
    "deadline_at": NOW,
    "next_eligible_at": NOW + timedelta(hours=1),
    "severity": Severity.HIGH,
    "erases": True,
    "job_id": "job-1",
    "intent": "26.2",
    "generation": 0,
    "supersedes": "job-0",
    "findings": ("no_site",),
}


def test_fingerprint_is_the_one_of_earlier_versions() -> None:
    """It is stored: another one lets every Mac be decided, and recorded, after an upgrade."""
    assert fingerprint(Decision(**FIELDS)).hex() == "22034274f0d6c34acee13172477b24b3"
    least = Decision(udid=UDID, decision=Verdict.NOTHING, reason=Reason.COMPLIANT)
    assert fingerprint(least).hex() == "36ce98f1824a26fd6044d2183bf5ab28"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("udid", OTHER_UDID),
        ("serial", None),
        ("site", "tokyo"),
        ("decision", Verdict.HOLD),
        ("action", None),
        ("method", Method.MDM_COMMAND),
        ("target", None),
        ("reason", Reason.JOB_OPEN),
        ("advisory_ids", ()),
        ("cves", ()),
        ("exploited_cves", ()),
        ("deadline_at", None),
        ("next_eligible_at", None),
        ("severity", None),
        ("erases", False),
        ("job_id", None),
        ("intent", None),
        ("generation", None),
        ("generation", 1),
        ("supersedes", None),
        ("findings", ()),
    ],
)
def test_fingerprint_shows_each_difference_of_a_decision(name: str, other: Any) -> None:
    assert fingerprint(Decision(**FIELDS)) != fingerprint(Decision(**FIELDS | {name: other}))


def test_fingerprint_leaves_out_gates_and_evidence() -> None:
    gate = Gate(gate="disk", passed=True, detail="free_disk_gb=50.0")
    seen = Decision(**FIELDS, gates=(gate,), evidence=("the volume is not sealed",))
    assert fingerprint(seen) == fingerprint(Decision(**FIELDS))


def last(site: str | None, severity: Severity | None, deadline_us: int = 0) -> LastDecision:
    return LastDecision(b"", Verdict.HOLD, Reason.JOB_OPEN, 0, site, severity, deadline_us)


def test_exposed_macs_are_counted_by_their_last_decision() -> None:
    decisions = LastDecisions()
    decisions.put(UDID, last("london", Severity.HIGH))
    decisions.put(OTHER_UDID, last(None, Severity.HIGH))
    assert decisions.exposed == {("london", "high"): 1, ("", "high"): 1}
    decisions.put(UDID, last("london", Severity.LOW))
    decisions.put(OTHER_UDID, last(None, None))
    assert +decisions.exposed == {("london", "low"): 1}
    decisions.remove(UDID)
    decisions.remove("unknown")
    assert not +decisions.exposed
    assert list(decisions.by_udid) == [OTHER_UDID]


def test_findings_are_counted_by_site_and_code() -> None:
    decisions = LastDecisions()
    decisions.put(UDID, last("london", None)._replace(findings=("mdm_unknown", "runs_beta")))
    decisions.put(OTHER_UDID, last(None, None)._replace(findings=("mdm_unknown",)))
    assert decisions.findings == {
        ("london", "mdm_unknown"): 1,
        ("london", "runs_beta"): 1,
        ("", "mdm_unknown"): 1,
    }
    decisions.put(UDID, last("london", None)._replace(findings=("mdm_unknown",)))
    decisions.remove(OTHER_UDID)
    assert +decisions.findings == {("london", "mdm_unknown"): 1}


@pytest.mark.parametrize(
    ("decision", "site"),
    [
        (last("london", Severity.HIGH, to_us(NOW)), "london"),
        (last(None, Severity.HIGH, 1), ""),
        (last("london", Severity.HIGH, to_us(NOW) + 1), None),
        (last("london", Severity.HIGH, 0), None),
        (last("london", None, 1), None),
    ],
    ids=["due now", "without a site", "due later", "without a deadline", "not exposed"],
)
def test_overdue_mac_is_exposed_and_past_its_deadline(
    decision: LastDecision, site: str | None
) -> None:
    decisions = LastDecisions()
    decisions.put(UDID, decision)
    assert decisions.count_overdue(NOW) == ({} if site is None else {site: 1})
