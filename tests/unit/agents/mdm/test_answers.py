"""The store of facts and answers: events in any order and more than once, and its own restart."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest

from agents.mdm.answers import AnswerStore, FindingKind
from agents.mdm.commands import RequestType, command_uuid
from agents.mdm.delivery import SentCommand, State
from agents.mdm.facts import Name
from schemas.envelope import Event
from tests.factories.sites import START, hours
from tests.fake_mdm import FakeMdm

MAC = "11111111-AAAA-4000-8000-000000000001"
ORDER = "job-1/1/declare"
UUID = command_uuid(ORDER)


def sent(at: int = 0, order: str = ORDER, closed: bool = False) -> SentCommand:
    return SentCommand(
        uuid=command_uuid(order),
        order=order,
        number=0,
        udid=MAC,
        server="mdm",
        request_type=RequestType.SCHEDULE_OS_UPDATE,
        sent_at=START + timedelta(seconds=at),
        closed=closed,
    )


class Story:
    """Messages of one Mac, a minute apart, and the events that follow from them."""

    def __init__(self) -> None:
        self.mdm = FakeMdm(START)

    def later(self, minutes: float = 1) -> FakeMdm:
        self.mdm.now += timedelta(minutes=minutes)
        return self.mdm

    @property
    def events(self) -> Sequence[Event]:
        return self.mdm.events


def applied(events: Sequence[Event], *commands: SentCommand) -> AnswerStore:
    store = AnswerStore(":memory:")
    for command in commands:
        store.record(command)
    for event in events:
        store.add_events([event], START + hours(9))
    return store


def life() -> Story:
    """Return an enrollment, a command's answers and a status report."""
    story = Story()
    story.later().enroll(MAC, OSVersion="26.1", BuildVersion="25B78")
    story.later().check_in(MAC, "SetBootstrapToken", BootstrapToken=b"t")
    story.later().report(MAC, "NotNow", UUID)
    story.later().report(MAC, "Acknowledged", UUID)
    update = {"softwareupdate": {"install-state": "downloading"}}
    story.later().send_status(MAC, {"StatusItems": update})
    return story


def test_facts_and_state_do_not_depend_on_the_order_of_events() -> None:
    events = life().events
    expected = applied(events, sent())
    for shuffled in [*permutations(events)][:: len(events) ** 2]:
        store = applied(shuffled, sent())
        assert store.facts(MAC).os_version == expected.facts(MAC).os_version
        assert store.facts(MAC).flag(Name.BOOTSTRAP_TOKEN) is True
        assert store.facts(MAC).is_enrolled is True
        assert store.deliveries(ORDER, START + hours(9)) == expected.deliveries(
            ORDER, START + hours(9)
        )


def test_event_that_arrives_twice_changes_nothing() -> None:
    events = life().events
    twice = applied([*events, *events], sent())
    assert twice.deliveries(ORDER, START + hours(9)) == applied(events, sent()).deliveries(
        ORDER, START + hours(9)
    )
    assert len(twice.answers(UUID)) == 2
    assert twice.add_events(events, START + hours(9)).findings == ()


def test_new_enrollment_makes_facts_of_the_one_before_unknown() -> None:
    story = life()
    story.later().enroll(MAC, OSVersion="26.2", BuildVersion="25C56")
    facts = applied(story.events).facts(MAC)
    assert facts.flag(Name.BOOTSTRAP_TOKEN) is None
    assert facts.text(Name.INSTALL_STATE) is None
    assert str(facts.os_version) == "26.2"


def test_first_report_of_a_version_is_kept_and_repeats_do_not_move_it() -> None:
    story = Story()
    story.later().enroll(MAC, OSVersion="26.1", BuildVersion="25B78")
    for version in ("26.2", "26.2", "26.2"):
        system = {"operating-system": {"version": version}}
        story.later(10).send_status(MAC, {"StatusItems": {"device": system}})
    since = applied(story.events).facts(MAC).version_since
    assert since is not None
    assert START + timedelta(minutes=11) <= since < START + timedelta(minutes=12)


def test_mac_that_checked_out_is_not_enrolled_until_it_enrols_again() -> None:
    story = life()
    story.later().check_in(MAC, "CheckOut")
    assert applied(story.events).facts(MAC).is_enrolled is False
    story.later().enroll(MAC)
    assert applied(story.events).facts(MAC).is_enrolled is True
    assert applied([]).facts(MAC).is_enrolled is None


@pytest.mark.parametrize(
    ("behind", "is_kept"),
    [
        pytest.param(timedelta(minutes=10), True, id="server's clock ahead by minutes"),
        pytest.param(timedelta(days=300), False, id="absurd"),
    ],
)
def test_time_in_the_future_counts_as_now_only_if_it_is_far_ahead(
    behind: timedelta, *, is_kept: bool
) -> None:
    events = life().events
    now = events[0].time - behind
    store = AnswerStore(":memory:")
    store.add_events(events, now)
    assert store.facts(MAC).authenticated_at == (events[0].time if is_kept else now)
    assert store.facts(MAC).flag(Name.BOOTSTRAP_TOKEN) is True


@pytest.mark.parametrize(
    ("idles", "state"), [(0, State.QUEUED), (1, State.QUEUED), (2, State.LOST)], ids=str
)
def test_command_is_lost_when_the_mac_asked_twice(idles: int, state: State) -> None:
    story = Story()
    for _ in range(idles):
        story.later().report(MAC, "Idle")
    store = applied(story.events, sent())
    ((_, found),) = store.deliveries(ORDER, START + timedelta(minutes=3))
    assert found.state is state


def test_idle_before_the_command_does_not_count() -> None:
    story = Story()
    for _ in range(2):
        story.later().report(MAC, "Idle")
    store = applied(story.events, sent(at=600))
    ((_, found),) = store.deliveries(ORDER, START + hours(1))
    assert found.state is State.QUEUED


def test_answer_to_another_command_begins_the_count_anew() -> None:
    story = Story()
    story.later().report(MAC, "Idle")
    story.later().report(MAC, "Acknowledged", "OTHER")
    story.later().report(MAC, "Idle")
    store = applied(story.events, sent())
    ((_, found),) = store.deliveries(ORDER, START + timedelta(minutes=4))
    assert found.state is State.QUEUED


def test_answers_of_other_programs_are_not_kept() -> None:
    story = Story()
    story.later().report(MAC, "Acknowledged", "8F0B0B1E-3C7C-4D6B-9A6E-2F6F1D2A3B4C")
    store = applied(story.events)
    assert store.answers("8F0B0B1E-3C7C-4D6B-9A6E-2F6F1D2A3B4C") == []


def test_answer_without_a_stored_command_is_found_by_the_order() -> None:
    story = Story()
    story.later().report(MAC, "Acknowledged", UUID.lower())
    store = applied(story.events)
    kind = RequestType.SCHEDULE_OS_UPDATE
    ((command, found),) = store.unrecorded_delivery(ORDER, kind, MAC, START + hours(1))
    assert (command.uuid, found.state) == (UUID, State.DONE)
    assert store.unrecorded_delivery("job-2/1/declare", kind, MAC, START + hours(1)) == []


def test_news_about_a_mac_with_an_open_command_are_returned() -> None:
    story = Story()
    story.later().report(MAC, "Idle")
    story.later().report("OTHER", "Idle")
    store = AnswerStore(":memory:")
    assert store.add_events(story.events, START + hours(1)).udids == frozenset()
    store.record(sent())
    assert store.add_events(story.events, START + hours(1)).udids == {MAC}
    store.close_job("job-1")
    assert store.add_events(story.events, START + hours(1)).udids == frozenset()


def test_job_whose_id_begins_with_that_of_another_is_not_closed() -> None:
    store = AnswerStore(":memory:")
    store.record(sent(order="job-1/1/declare"))
    store.record(sent(order="job-10/1/declare"))
    store.close_job("job-1")
    assert [one.closed for one, _ in store.deliveries("job-10/1/declare", START)] == [False]
    assert [one.closed for one, _ in store.deliveries("job-1/1/declare", START)] == [True]


def test_open_commands_are_those_without_a_final_answer() -> None:
    story = Story()
    store = AnswerStore(":memory:")
    for number in range(4):
        store.record(sent(order=f"job-{number}/1/declare"))
    story.later().report(MAC, "NotNow", command_uuid("job-0/1/declare"))
    story.later().report(MAC, "Error", command_uuid("job-1/1/declare"))
    store.add_events(story.events, START + hours(1))
    store.close_job("job-2")
    assert (store.open_commands("mdm"), store.open_commands("other")) == (2, 0)


def test_store_that_is_opened_again_has_positions_facts_and_commands(tmp_path: Path) -> None:
    events = life().events
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        store.record(sent())
        store.add_events(events, START + hours(9), {"checkins/3": 42})
        expected = store.deliveries(ORDER, START + hours(9))
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        assert store.position("checkins/3") == 42
        assert store.position("checkins/4") is None
        assert store.deliveries(ORDER, START + hours(9)) == expected
        assert store.facts(MAC).is_enrolled is True


def test_old_answers_and_ended_commands_are_deleted() -> None:
    store = applied(life().events, sent(), sent(order="job-2/1/declare"))
    store.close_job("job-2")
    store.prune(START + hours(1))
    assert store.answers(UUID)
    assert store.deliveries("job-2/1/declare", START) == []
    store.close_job("job-1")
    store.prune(START + hours(1))
    assert store.answers(UUID) == []


def test_finding_of_a_late_answer_is_made_once() -> None:
    story = Story()
    story.later().report(MAC, "Acknowledged", UUID)
    store = AnswerStore(":memory:")
    store.record(sent())
    store.close_job("job-1")
    kinds = [
        [one.kind for one in store.add_events(story.events, START + hours(1)).findings]
        for _ in range(2)
    ]
    assert kinds == [[FindingKind.LATE_ANSWER], []]
