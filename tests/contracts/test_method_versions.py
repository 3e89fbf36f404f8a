"""The decision and the executor agree on the systems on which a method can be used."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest

from pipeline.decide.methods import choose_method
from pipeline.decide.needs.need import Need
from schemas.decisions import Reason
from schemas.jobs import MDM_METHODS, Action, Job, Method, Target
from schemas.macos import OSVersion, parse_os_version
from schemas.results import Outcome
from tests.factories import mac, policy, situation
from tests.factories.sites import START, a_job, an_erasing_job
from tests.mdm_site import MAC, PROFILE, SERIAL, MdmSite, a_site

# The last release of each line before macOS 26, and 26 and 27.
SYSTEMS: Final = (
    ("10.15.7", "19H2026"),
    ("11.7.10", "20G1427"),
    ("12.7.6", "21H1320"),
    ("13.7.8", "22H730"),
    ("14.8.3", "23J220"),
    ("15.7.3", "24G419"),
    ("26.1", "25B78"),
    ("27.0", "26A428"),
)
# A Mac with a T2 chip: the only hardware of all these lines up to 26 that can be erased.
T2: Final[dict[str, Any]] = {"model": "Macmini8,1", "device_id": "J174AP"}


@dataclass(frozen=True)
class Case:
    """An action that has the method, its command, and the lines on which it can be used."""

    action: Action
    command: str
    lines: frozenset[str]
    reason: Reason = Reason.SECURITY_UPDATE
    erases: bool = False


EVERY: Final = frozenset({"10.15", "11", "12", "13", "14", "15", "26", "27"})
CASES: Final = {
    Method.DDM: Case(Action.UPDATE, "DeclarativeManagement", frozenset({"14", "15", "26", "27"})),
    Method.MDM_COMMAND: Case(Action.UPDATE, "ScheduleOSUpdate", frozenset({"12", "13"})),
    Method.ERASE_DEVICE: Case(
        Action.REINSTALL,
        "EraseDevice",
        EVERY - {"10.15", "11"},
        Reason.LOAN_RETURNED,
        erases=True,
    ),
    Method.INSTALL_PROFILE: Case(
        Action.REENROLL, "InstallProfile", EVERY, Reason.IDENTITY_EXPIRING
    ),
    Method.RESTART_DEVICE: Case(Action.RESTART, "RestartDevice", EVERY),
}


def next_release(version: str) -> Target:
    """Return a release of the line that is newer than this version."""
    found = parse_os_version(version)
    return Target(version=OSVersion(found.major, found.minor, found.patch + 1))


def is_offered(method: Method, version: str) -> bool:
    """Return True if the decision can choose the method for a Mac with this version."""
    case = CASES[method]
    release = next_release(version)
    need = Need(case.action, case.reason, "test", release, erases=case.erases)
    rules = policy(methods={case.action.value: [method.value]})
    found = choose_method(situation(mac(version, **T2), rules=rules), need)
    assert found.method in {method, None}
    return found.method is method and found.reason is None


def the_job(method: Method, version: str) -> Job:
    action = CASES[method].action
    if method is Method.ERASE_DEVICE:
        kept = Target(version=parse_os_version(version))
        return an_erasing_job(udid=MAC, serial=SERIAL, target=kept)
    installs = action is Action.UPDATE
    release = next_release(version) if installs else None
    until = START + timedelta(days=3)
    return a_job(action, method, udid=MAC, target=release, intent="test", report_by=until)


def is_accepted(method: Method, system: tuple[str, str]) -> bool:
    """Return True if the executor of a Mac with this system queues the command of the method."""
    site: MdmSite = a_site(system=system, profile=PROFILE)
    # Before macOS 13.3 a Mac has no answer to the query of its own check.
    check = "success" if parse_os_version(system[0]) >= OSVersion(13, 3) else None
    site.start(the_job(method, system[0]))
    for _ in range(3):
        site.poll(DeviceInformation=site.information(EACSPreflight=check, IsAppleSilicon=None))
        site.run(timedelta(minutes=20))
    given = site.queued(CASES[method].command) > 0
    assert given is (Outcome.STARTED in {one.outcome for one in site.results}), site.outcomes
    return given


def test_every_method_over_mdm_has_a_case() -> None:
    assert set(CASES) == MDM_METHODS


@pytest.mark.parametrize("method", CASES)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system[0])
def test_decision_and_executor_agree(method: Method, system: tuple[str, str]) -> None:
    wanted = parse_os_version(system[0]).line in CASES[method].lines
    assert (is_offered(method, system[0]), is_accepted(method, system)) == (wanted, wanted)
