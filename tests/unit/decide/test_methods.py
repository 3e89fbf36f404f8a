"""Methods: the choice for each action, and the obstacle of each method."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.decide.decision import decide
from pipeline.decide.exposure import exposure
from pipeline.decide.methods import choose_method, method_rows
from pipeline.decide.needs.need import Need, target
from pipeline.decide.needs.update import needs_update
from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_ddm_status
from schemas.decisions import Reason, Verdict
from schemas.events.checkin import DdmStatusReported
from schemas.jobs import Action, Method
from schemas.macos import parse_os_version
from schemas.results import ErrorCode, Outcome
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
    with_report,
)

INTEL: dict[str, Any] = {"model": "iMac20,1", "device_id": "J185AP"}
T1: dict[str, Any] = {"model": "MacBookPro14,2", "device_id": "Mac-CAD6701F7CEA0921"}

# version, fields, policy -> method, reason of its obstacle
UPDATE_METHODS = [
    pytest.param("26.1", {}, {}, Method.DDM, None, id="ddm-on-a-supervised-modern-mac"),
    pytest.param("14.0", {}, {}, Method.DDM, None, id="ddm-from-14-on"),
    pytest.param("13.7.7", T1, {}, Method.MDM_COMMAND, None, id="command-below-14"),
    pytest.param("12.7.5", T1, {}, Method.MDM_COMMAND, None, id="command-from-12-on"),
    pytest.param("11.7.9", T1, {}, Method.SOFTWAREUPDATE, None, id="no-mdm-method-below-12"),
    pytest.param(
        "13.7.7",
        T1 | {"supervised": False},
        {},
        Method.SOFTWAREUPDATE,
        None,
        id="command-needs-supervision",
    ),
    pytest.param(
        "26.1", {"supervised": False}, {}, Method.SOFTWAREUPDATE, None, id="ssh-where-unsupervised"
    ),
    pytest.param(
        "26.1",
        {"supervised": None},
        {},
        Method.SOFTWAREUPDATE,
        None,
        id="ssh-where-supervision-is-unknown",
    ),
    pytest.param(
        "26.1", {"enrolled": False}, {}, Method.SOFTWAREUPDATE, None, id="ssh-where-not-enrolled"
    ),
    pytest.param(
        "26.1",
        {"bootstrap_token_escrowed": False},
        {},
        Method.SOFTWAREUPDATE,
        None,
        id="ssh-without-a-bootstrap-token",
    ),
    pytest.param(
        "26.1",
        INTEL | {"bootstrap_token_escrowed": False},
        {},
        Method.DDM,
        None,
        id="intel-needs-no-bootstrap-token",
    ),
    pytest.param(
        "26.1",
        {"supervised": False, "volume_owner_available": False},
        {},
        Method.DDM,
        Reason.NOT_SUPERVISED,
        id="all-blocked-names-the-first",
    ),
    pytest.param(
        "26.1",
        {"volume_owner_available": False},
        {"methods": {"update": ["softwareupdate"]}},
        Method.SOFTWAREUPDATE,
        Reason.NO_VOLUME_OWNER,
        id="no-volume-owner",
    ),
    pytest.param(
        "26.1",
        INTEL | {"volume_owner_available": False},
        {"methods": {"update": ["softwareupdate"]}},
        Method.SOFTWAREUPDATE,
        None,
        id="intel-needs-no-volume-owner",
    ),
    pytest.param(
        "26.1",
        {"bootstrap_token_escrowed": False},
        {"methods": {"update": ["ddm"]}},
        Method.DDM,
        Reason.NO_BOOTSTRAP_TOKEN,
        id="no-bootstrap-token",
    ),
    pytest.param(
        "26.1",
        {},
        {"methods": {"update": ["mdm_command"]}},
        None,
        Reason.NO_METHOD,
        id="no-command-on-26",
    ),
    pytest.param(
        "14.8.2",
        {},
        {"methods": {"update": ["mdm_command"]}},
        None,
        Reason.NO_METHOD,
        id="no-command-on-14",
    ),
    pytest.param(
        "13.7.7", T1, {"methods": {"update": ["ddm"]}}, None, Reason.NO_METHOD, id="no-ddm-on-13"
    ),
    pytest.param(
        "26.1", {}, {"methods": {"update": []}}, None, Reason.NO_METHOD, id="policy-allows-none"
    ),
    pytest.param(
        "26.1",
        {},
        {"methods": {"update": ["softwareupdate", "ddm"]}},
        Method.SOFTWAREUPDATE,
        None,
        id="the-policys-order-counts",
    ),
    pytest.param(
        "26.1",
        {"enrolled": False},
        {"sites": {"london": {"time_zone": "Europe/London", "ssh": False}}},
        Method.DDM,
        Reason.NOT_ENROLLED,
        id="no-ssh-at-the-site",
    ),
]


@pytest.mark.parametrize(("version", "facts", "settings", "method", "reason"), UPDATE_METHODS)
def test_update_method_is_the_first_without_an_obstacle(
    version: str,
    facts: dict[str, Any],
    settings: dict[str, Any],
    method: Method | None,
    reason: Reason | None,
) -> None:
    known = catalogue(
        *(release(v) for v in ("26.2", "15.7.3", "14.8.3", "13.7.8")),
        release("12.7.6", day="2024-07-29", build="21H1320"),
        release("11.7.10", day="2023-09-11", build="20G1427"),
    )
    # Without upgrades off dead lines, an update within the line is the only need.
    rules = policy(**({"upgrades": {"out_of_support": False}} | settings))
    decision = decide(situation(mac(version, **facts), advisories=known, rules=rules))
    if reason is None:
        assert (decision.decision, decision.method) == (Verdict.SEND, method)
    else:
        assert (decision.decision, decision.method) == (Verdict.HOLD, method)
        assert decision.reason is reason


UPGRADE_METHODS = [
    pytest.param("15.7.3", {}, Method.DDM, id="ddm-from-14-on"),
    pytest.param(
        "15.7.3", {"supervised": False}, Method.STARTOSINSTALL, id="ssh-where-unsupervised"
    ),
    pytest.param("13.7.8", {}, Method.STARTOSINSTALL, id="ssh-below-14"),
]


@pytest.mark.parametrize(("version", "facts", "method"), UPGRADE_METHODS)
def test_upgrade_method_depends_on_version_and_supervision(
    version: str, facts: dict[str, Any], method: Method
) -> None:
    rules = policy(upgrades={"to": "26"})
    assert decide(situation(mac(version, **facts), rules=rules)).method is method


def updating(state: str, hours: float = 1.0, **facts: Any) -> Any:
    status = DdmStatusReported(udid=UDID, install_state=state)
    return apply_ddm_status(mac(**facts), status, to_us(NOW - hours * HOUR))


RUNNING = [
    pytest.param("downloading", 1, True, id="downloading"),
    pytest.param("prepared", 23.9, True, id="prepared"),
    pytest.param("installing", 1, True, id="installing"),
    pytest.param("downloading", 24, False, id="state-older-than-a-day"),
    pytest.param("waiting", 1, False, id="waiting"),
    pytest.param("failed", 1, False, id="failed"),
    pytest.param("none", 1, False, id="none"),
    pytest.param("someday-new", 1, False, id="unknown-state"),
]


@pytest.mark.parametrize(("state", "hours", "held"), RUNNING)
def test_other_method_is_held_while_a_declared_update_runs(
    state: str, hours: float, held: bool
) -> None:
    ssh = policy(methods={"update": ["softwareupdate"]})
    decision = decide(situation(updating(state, hours), rules=ssh))
    assert (decision.reason is Reason.OTHER_UPDATE_RUNNING) is held
    if held:
        assert decision.next_eligible_at == NOW + DAY - hours * HOUR


def declared(reason: str | None, pending: str | None = "26.2", state: str = "failed") -> Any:
    status = DdmStatusReported(
        udid=UDID,
        install_state=state,
        failure_reason=reason,
        pending_version=None if pending is None else parse_os_version(pending),
    )
    return apply_ddm_status(mac(), status, to_us(NOW - HOUR / 2))


# the Mac's status, the policy -> method, reason of the decision
DECLARED_FAILURES = [
    pytest.param(declared("someday new"), {}, Method.SOFTWAREUPDATE, None, id="unknown-text"),
    pytest.param(
        declared("someday new", None), {}, Method.SOFTWAREUPDATE, None, id="of-no-named-release"
    ),
    pytest.param(
        declared("Failed to authenticate"), {}, Method.SOFTWAREUPDATE, None, id="no-authorization"
    ),
    pytest.param(declared("DownloadFailed"), {}, Method.DDM, None, id="download-is-tried-again"),
    pytest.param(declared("BatteryTooLow"), {}, Method.DDM, None, id="power-is-a-gate"),
    pytest.param(
        declared("InsufficientDiskSpace"), {}, Method.DDM, Reason.LOW_DISK, id="disk-holds"
    ),
    pytest.param(declared("someday new", "26.1"), {}, Method.DDM, None, id="of-another-release"),
    pytest.param(declared("someday new", state="none"), {}, Method.DDM, None, id="is-over"),
    pytest.param(declared(None), {}, Method.DDM, None, id="without-a-text"),
    pytest.param(
        declared("someday new"),
        {"methods": {"update": ["ddm"]}},
        Method.DDM,
        None,
        id="no-other-method-allowed",
    ),
]


@pytest.mark.parametrize(("device", "settings", "method", "reason"), DECLARED_FAILURES)
def test_failure_of_a_declaration_chooses_the_next_method(
    device: Any, settings: dict[str, Any], method: Method, reason: Reason | None
) -> None:
    decision = decide(situation(device, rules=policy(**settings)))
    assert decision.method is method
    assert decision.reason is (reason or Reason.SECURITY_UPDATE)


def test_method_that_the_macs_report_excludes_is_passed_over_with_the_text() -> None:
    s = situation(declared("someday new"))
    update = needs_update(s, exposure(s))
    assert update is not None
    assert [(row.method, row.state, row.detail) for row in method_rows(s, update)][::2] == [
        (Method.DDM, "passed over", "the Mac reported: someday new"),
        (Method.SOFTWAREUPDATE, "chosen", "softwareupdate on macOS 26.1"),
    ]


def test_full_disk_holds_until_the_mac_reports_its_space_or_for_a_week() -> None:
    held = decide(situation(declared("Not enough free disk space")))
    assert held.next_eligible_at == NOW - HOUR / 2 + 7 * DAY
    [disk] = [gate for gate in held.gates if gate.gate == "disk"]
    assert disk.detail == "the Mac reported: Not enough free disk space"
    later = with_report(declared("Not enough free disk space"), NOW, free_disk_gb=60.0)
    assert decide(situation(later)).decision is Verdict.SEND


TRIES = [
    pytest.param({}, 2, Method.DDM, id="as-many-as-before-a-reinstall"),
    pytest.param({}, 3, Method.SOFTWAREUPDATE, id="none-left"),
    pytest.param({"tries": {"ddm": 1}}, 1, Method.SOFTWAREUPDATE, id="one-for-this-method"),
    pytest.param({"tries": {"softwareupdate": 1}}, 2, Method.DDM, id="for-another-method"),
    pytest.param({"tries": {"ddm": 4}}, 3, Method.DDM, id="more-than-before-a-reinstall"),
]


@pytest.mark.parametrize(("settings", "count", "method"), TRIES)
def test_next_method_follows_when_the_tries_of_one_are_used(
    settings: dict[str, Any], count: int, method: Method
) -> None:
    history = tuple(
        entry(
            "26.2",
            generation=number,
            outcome=Outcome.FAILED,
            outcome_at=NOW - 9 * DAY,
            error_code=ErrorCode.INSTALL_FAILED,
        )
        for number in range(count)
    )
    s = situation(mac(), rules=policy(**settings), job_history=history)
    update = needs_update(s, exposure(s))
    assert update is not None
    assert choose_method(s, update).method is method


@pytest.mark.parametrize(
    ("pending", "version", "ago", "reason"),
    [
        ("26.1", "26.1", HOUR / 2, None),
        ("26.1", "26.1", 2 * HOUR, Reason.OTHER_UPDATE_RUNNING),
        ("26.2", "26.1", HOUR / 2, Reason.OTHER_UPDATE_RUNNING),
        (None, "26.1", HOUR / 2, Reason.OTHER_UPDATE_RUNNING),
    ],
)
def test_declared_update_is_over_when_the_mac_reports_its_version(
    pending: str | None, version: str, ago: timedelta, reason: Reason | None
) -> None:
    status = DdmStatusReported.model_validate(
        {"udid": UDID, "install_state": "installing", "pending_version": pending}
    )
    device = mac(version, supervised=False, seen_at=NOW - ago)
    device = apply_ddm_status(device, status, to_us(NOW - HOUR))
    s = situation(device)
    need = needs_update(s, exposure(s))
    assert need is not None
    assert choose_method(s, need).reason is reason


def test_running_declared_update_may_be_declared_again() -> None:
    decision = decide(situation(updating("downloading")))
    assert (decision.decision, decision.method) == (Verdict.SEND, Method.DDM)


RENEWALS = [
    pytest.param({"ade_enrolled": True}, {}, None, id="in-business-manager"),
    pytest.param({"ade_enrolled": None}, {}, None, id="unknown-is-tried"),
    pytest.param({"ade_enrolled": False}, {}, Reason.NEEDS_PERSON, id="by-hand"),
    pytest.param(
        {"ade_enrolled": None, "model": "VirtualMac2,1"}, {}, Reason.NEEDS_PERSON, id="vm-by-hand"
    ),
    pytest.param(
        {"ade_enrolled": True},
        {"sites": {"london": {"time_zone": "Europe/London", "ssh": False}}},
        Reason.NO_METHOD,
        id="no-ssh-at-the-site",
    ),
    pytest.param({}, {"methods": {"reenroll": []}}, Reason.NO_METHOD, id="policy-allows-none"),
]


@pytest.mark.parametrize(("facts", "settings", "reason"), RENEWALS)
def test_reenrollment_is_sent_or_held_by_ade_enrollment_ssh_and_policy(
    facts: dict[str, Any], settings: dict[str, Any], reason: Reason | None
) -> None:
    device = mac("26.2", user_approved=False, **facts)
    decision = decide(situation(device, rules=policy(**settings)))
    if reason is None:
        assert (decision.decision, decision.method) == (Verdict.SEND, Method.PROFILES_RENEW)
    else:
        assert (decision.decision, decision.reason) == (Verdict.HOLD, reason)


NO_SSH = policy(sites={"london": {"time_zone": "Europe/London", "ssh": False}})


def test_mdm_method_is_blocked_while_the_enrollment_is_at_fault() -> None:
    s = situation(mac(user_approved=False), rules=NO_SSH)
    update = needs_update(s, exposure(s))
    assert update is not None
    assert choose_method(s, update).reason is None
    held = choose_method(s, replace(update, mdm_usable=False))
    assert (held.method, held.reason) == (Method.DDM, Reason.NOT_ENROLLED)
    assert decide(s).decision is Verdict.HOLD


def test_mdm_method_is_blocked_while_mdm_is_silent() -> None:
    s = situation(mac(mdm_seen_at=NOW - 30 * DAY), rules=NO_SSH)
    update = needs_update(s, exposure(s))
    assert update is not None
    assert update.mdm_usable
    assert choose_method(s, update).reason is Reason.NOT_ENROLLED


TARGETS = [
    pytest.param("26.2", True, id="newer"),
    pytest.param("26.1", True, id="the-same"),
    pytest.param("26.0", False, id="older"),
    pytest.param(None, True, id="none-named"),
]


@pytest.mark.parametrize(("version", "possible"), TARGETS)
def test_startosinstall_is_impossible_for_an_older_target(
    version: str | None, possible: bool
) -> None:
    wanted = None if version is None else target(parse_os_version(version), None)
    need = Need(Action.REINSTALL, Reason.SEAL_BROKEN, "seal", wanted)
    rules = policy(methods={"reinstall": ["startosinstall"]})
    choice = choose_method(situation(mac("26.1"), rules=rules), need)
    assert choice.method is (Method.STARTOSINSTALL if possible else None)
    unknown = choose_method(situation(mac(None), rules=rules), need)
    reason = None if wanted else Reason.NO_RELEASE
    assert (unknown.method, unknown.reason) == (Method.STARTOSINSTALL, reason)


def test_hold_names_the_obstacle_that_time_alone_removes() -> None:
    both = policy(methods={"update": ["ddm", "softwareupdate"]})
    device = updating("downloading", supervised=False)
    decision = decide(situation(device, rules=both))
    assert decision.reason is Reason.OTHER_UPDATE_RUNNING
    assert decision.method is Method.SOFTWAREUPDATE
    assert decision.next_eligible_at == NOW + 23 * HOUR


ERASING = [
    pytest.param({}, Method.ERASE_DEVICE, id="apple-silicon"),
    pytest.param({"model": "MacBookPro16,1"}, Method.ERASE_DEVICE, id="t2"),
    pytest.param(INTEL | {"model": "iMac18,1"}, Method.STARTOSINSTALL, id="older-intel"),
]


@pytest.mark.parametrize(("facts", "method"), ERASING)
def test_erase_device_needs_hardware_that_keeps_a_system(
    facts: dict[str, Any], method: Method
) -> None:
    device = mac("26.2", loan_returned_at=NOW - HOUR, **facts)
    rules = policy(methods={"reinstall": ["erase_device", "startosinstall"]})
    assert decide(situation(device, rules=rules)).method is method


def test_gate_detail_differs_for_unsupervised_and_unknown() -> None:
    ddm = policy(methods={"update": ["ddm"]})
    for supervised, detail in ((False, "not supervised"), (None, "supervision unknown")):
        decision = decide(situation(mac(supervised=supervised), rules=ddm))
        [method] = [gate for gate in decision.gates if gate.gate == "method"]
        assert method.detail == detail
