"""A declared update that the Mac has not begun is taken back when another one is wanted."""

from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.situation import Situation
from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_ddm_status
from pipeline.state.jobs import JobEntry
from schemas.decisions import Decision, Reason, Verdict
from schemas.envelope import AdvisoryRetractedEvent
from schemas.events.checkin import DdmStatusReported
from schemas.jobs import Method
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    catalogue,
    entry,
    mac,
    policy,
    release,
    situation,
)

OLD, NEW = release("26.2"), release("26.3", build="25D125", day="2026-01-10", severity="critical")
BOTH = catalogue(OLD, NEW)
GONE = release("26.2", kind=AdvisoryRetractedEvent, first_seen_at=NOW - HOUR)


def declared(outcome: Outcome = Outcome.STARTED, **values: Any) -> JobEntry:
    """Return the open job that declared 26.2 an hour ago."""
    return entry("26.2", outcome=outcome, outcome_at=NOW - HOUR, **values)


def found(job: JobEntry, **values: Any) -> tuple[Decision, bool]:
    """Return the decision, and True if it withdraws the job."""
    given: dict[str, Any] = {"advisories": BOTH, "job_history": (job,)} | values
    s: Situation = situation(**given)
    decision = decide(s)
    return decision, decision.supersedes == job.job_id


@pytest.mark.parametrize("outcome", [Outcome.STARTED, Outcome.PROGRESSED])
def test_declared_update_is_withdrawn_for_a_newer_release_at_once(outcome: Outcome) -> None:
    decision, is_withdrawn = found(declared(outcome))
    assert is_withdrawn
    assert (decision.decision, decision.reason) == (Verdict.HOLD, Reason.JOB_OPEN)
    assert decision.target is not None
    assert str(decision.target.version) == "26.3"


def test_the_newer_release_follows_when_the_executor_has_taken_the_older_one_back() -> None:
    done = declared(Outcome.SUPERSEDED)
    decision, _ = found(done)
    assert (decision.decision, str(decision.target and decision.target.version)) == ("send", "26.3")


KEPT = [
    pytest.param(declared(method=Method.SOFTWAREUPDATE), {}, id="over-ssh"),
    pytest.param(declared(method=Method.MDM_COMMAND), {}, id="a-command"),
    pytest.param(declared(Outcome.ACTED, acted_at=NOW - HOUR), {}, id="its-executor-is-done"),
    pytest.param(declared(), {"advisories": catalogue(OLD)}, id="nothing-newer"),
    pytest.param(
        declared(),
        {"advisories": catalogue(release("26.2", expires_at=NOW - HOUR))},
        id="its-offer-has-expired-and-nothing-is-newer",
    ),
    pytest.param(
        declared(), {"rules": policy(deferrals={"critical": "90d"})}, id="the-newer-is-deferred"
    ),
    pytest.param(
        declared(), {"device": mac(on_ac_power=False, battery_percent=2.0)}, id="held-for-more"
    ),
]


@pytest.mark.parametrize(("job", "values"), KEPT)
def test_other_begun_job_is_kept(job: JobEntry, values: dict[str, Any]) -> None:
    decision, is_withdrawn = found(job, **values)
    assert not is_withdrawn
    assert decision.decision is Verdict.HOLD


@pytest.mark.parametrize(
    ("state", "age", "withdrawn"),
    [
        ("downloading", HOUR, False),
        ("prepared", HOUR, False),
        ("installing", HOUR, False),
        ("installing", 2 * DAY, True),
        ("waiting", HOUR, True),
        ("none", HOUR, True),
    ],
)
def test_update_that_the_mac_has_begun_is_kept(state: str, age: Any, withdrawn: bool) -> None:
    status = DdmStatusReported(udid=UDID, install_state=state)
    device = apply_ddm_status(mac(), status, to_us(NOW - age))
    assert found(declared(), device=device)[1] is withdrawn


def test_declaration_of_a_retracted_release_is_withdrawn() -> None:
    decision, is_withdrawn = found(declared(), advisories=catalogue(release("26.1"), OLD, GONE))
    assert is_withdrawn
    assert decision.decision is Verdict.NOTHING


def test_declaration_of_a_release_that_apple_offers_no_more_is_withdrawn() -> None:
    ended = release("26.2", expires_at=NOW - HOUR)
    rules = policy(deferrals={"critical": "90d"})
    decision, is_withdrawn = found(declared(), advisories=catalogue(ended, NEW), rules=rules)
    assert is_withdrawn
    assert decision.decision is Verdict.HOLD
    assert decision.next_eligible_at is not None


def test_declaration_on_a_mac_that_became_exempt_is_withdrawn() -> None:
    exempt = policy(exemptions=[{"who": {"serials": ["C02*"]}, "why": "frozen"}])
    assert found(declared(), advisories=catalogue(OLD), rules=exempt)[1]


STAYS: dict[str, Any] = {
    "rules": policy(
        upgrades={"to": "26"},
        exemptions=[{"who": {"serials": ["C02*"]}, "why": "stays", "actions": ["upgrade"]}],
    ),
    "device": mac("15.7.2"),
}


def test_update_of_a_mac_whose_upgrade_alone_is_exempt_is_kept() -> None:
    values = STAYS | {"advisories": catalogue(release("15.7.3"), release("26.2"))}
    sent = decide(situation(**values))
    assert (sent.decision, sent.method, sent.intent) == (Verdict.SEND, Method.DDM, "15.7.3")
    begun = entry("15.7.3", outcome=Outcome.STARTED, outcome_at=NOW - HOUR)
    assert not found(begun, **values)[1]
    newer = catalogue(release("15.7.3"), release("15.7.4"), release("26.2"))
    assert found(begun, **values | {"advisories": newer})[1]
