"""Contract of every form of `Mac`. Add a new form as a row of FORMS."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agents.journal_entry import JournalEntry
from agents.mac import Ack, AckKind, Mac, Observation, UnreachableError
from agents.simulated import Faults, Period, SimulatedFleet
from schemas.jobs import Action, Job, Method
from tests.factories.sites import START, UDID, a_fleet, a_job, a_spec, an_erasing_job, hours

JOBS = [
    a_job(),
    a_job(method=Method.DDM),
    a_job(method=Method.MDM_COMMAND),
    a_job(Action.UPGRADE, Method.STARTOSINSTALL),
    a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x"),
    a_job(Action.REENROLL, Method.INSTALL_PROFILE, target=None, intent="x"),
    a_job(Action.RESTART, Method.RESTART_DEVICE, target=None, intent="failing:26.2"),
    a_job(Action.RESTART, Method.RESTART_UPDATE_SERVICE, target=None, intent="failing:26.2"),
    a_job(Action.ACTIVATE, Method.ACTIVATION_COMMAND, target=None, intent="activation:office@1"),
    an_erasing_job(),
]
IDS = [job.method.value for job in JOBS]


@dataclass
class Form:
    """One form: a reachable Mac and an unreachable one; `passes` lets an update take effect."""

    mac: Mac
    away: Mac
    passes: Callable[[], object] = field(default=lambda: None)


def simulated() -> Form:
    away = Faults(offline=(Period(START, START + hours(99)),))
    fleet: SimulatedFleet = a_fleet(a_spec(), a_spec("AWAY", faults=away))
    later = START + hours(1)
    return Form(fleet.macs[UDID], fleet.macs["AWAY"], passes=lambda: fleet.advance(later))


FORMS = {"simulated": simulated}


@pytest.fixture(params=list(FORMS.values()), ids=list(FORMS))
def form(request: pytest.FixtureRequest) -> Form:
    made: Form = request.param()
    return made


def give(mac: Mac, job: Job) -> tuple[str, Ack]:
    order = JournalEntry(job=job, accepted_at=START, wake_at=START)
    return order.order_marker, mac.act(order.step, job, order.attempt)


def test_each_method_has_a_job() -> None:
    # The Mac of each form is Apple silicon, which `asr` cannot restore.
    assert {job.method for job in JOBS} == set(Method) - {Method.ASR}


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_look_changes_nothing(form: Form, job: Job) -> None:
    first = form.mac.look(job)
    assert isinstance(first, Observation)
    assert form.mac.look(job) == first


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_look_at_an_unreachable_mac_raises(form: Form, job: Job) -> None:
    with pytest.raises(UnreachableError):
        form.away.look(job)


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_accepted_order_leaves_its_mark(form: Form, job: Job) -> None:
    before = form.mac.look(job)
    name, ack = give(form.mac, job)
    assert ack.kind is AckKind.ACCEPTED
    assert form.mac.look(job).marks == before.marks | {name}


@pytest.mark.parametrize("job", JOBS, ids=IDS)
def test_accepted_order_is_not_done_at_once(form: Form, job: Job) -> None:
    before = form.mac.look(job)
    give(form.mac, job)
    after = form.mac.look(job)
    assert (after.os_version, after.build, after.boot_at) == (
        before.os_version,
        before.build,
        before.boot_at,
    )


def test_mark_survives_the_boot_of_an_update(form: Form) -> None:
    name, ack = give(form.mac, a_job())
    form.passes()
    marks = form.mac.look(a_job()).marks
    assert (name in marks) is (ack.kind is AckKind.ACCEPTED)
