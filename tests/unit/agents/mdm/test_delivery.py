"""State of a queued command by the Mac's later messages."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.mdm.commands import RequestType, command_uuid
from agents.mdm.delivery import LOST_AFTER, Answer, SentCommand, State, delivery
from schemas.events.checkin import CommandError
from schemas.results import ErrorCode
from tests.factories.sites import START, hours

SENT = SentCommand(
    uuid=command_uuid("job-1/1/erase"),
    order="job-1/1/erase",
    number=0,
    udid="MAC-1",
    server="mdm",
    request_type=RequestType.ERASE_DEVICE,
    sent_at=START,
)
LATER = START + hours(1)


def answered(status: str, minutes: float = 1, event: str = "e1", **more: Any) -> Answer:
    return Answer(event, START + timedelta(minutes=minutes), status, **more)


ROWS = {
    "nothing since": (SENT, [], None, State.QUEUED, ErrorCode.NOT_DELIVERED),
    "push failed": (replace(SENT, push_error="410"), [], None, State.QUEUED, ErrorCode.PUSH_FAILED),
    "acknowledged": (SENT, [answered("Acknowledged")], None, State.DONE, None),
    "error": (SENT, [answered("Error")], None, State.FAILED, ErrorCode.COMMAND_REJECTED),
    "NotNow": (SENT, [answered("NotNow")], None, State.NOT_NOW, ErrorCode.COMMAND_REJECTED),
    "NotNow, then acknowledged": (
        SENT,
        [answered("NotNow"), answered("Acknowledged", 2, "e2")],
        None,
        State.DONE,
        None,
    ),
    "acknowledged, then an error": (
        SENT,
        [answered("Error", 2, "e2"), answered("Acknowledged")],
        None,
        State.DONE,
        None,
    ),
    "enrolled before": (SENT, [], START - hours(1), State.QUEUED, ErrorCode.NOT_DELIVERED),
    "enrolled since": (SENT, [], LATER, State.CLEARED, ErrorCode.QUEUE_CLEARED),
    "enrolled since a NotNow": (
        SENT,
        [answered("NotNow")],
        LATER,
        State.CLEARED,
        ErrorCode.QUEUE_CLEARED,
    ),
    "enrolled since its answer": (SENT, [answered("Acknowledged")], LATER, State.DONE, None),
    "asked once just now": (
        replace(SENT, idle_seen_at=LATER - timedelta(minutes=1)),
        [],
        None,
        State.QUEUED,
        ErrorCode.NOT_DELIVERED,
    ),
    "asked once, and no answer": (
        replace(SENT, idle_seen_at=LATER - LOST_AFTER),
        [],
        None,
        State.LOST,
        ErrorCode.COMMAND_LOST,
    ),
    "asked twice": (
        replace(SENT, idle_at=LATER - timedelta(seconds=9), second_idle_at=LATER),
        [],
        None,
        State.LOST,
        ErrorCode.COMMAND_LOST,
    ),
    "asked twice after a NotNow": (
        replace(SENT, idle_at=LATER - hours(1), second_idle_at=LATER),
        [answered("NotNow")],
        None,
        State.NOT_NOW,
        ErrorCode.COMMAND_REJECTED,
    ),
    "enrollment profile without an answer": (
        replace(
            SENT,
            request_type=RequestType.INSTALL_PROFILE,
            idle_at=LATER - hours(1),
            second_idle_at=LATER,
        ),
        [],
        None,
        State.QUEUED,
        ErrorCode.NOT_DELIVERED,
    ),
}


@pytest.mark.parametrize(
    ("sent", "answers", "authenticated_at", "state", "code"), ROWS.values(), ids=ROWS
)
def test_state_of_a_command(
    sent: SentCommand, answers: Any, authenticated_at: Any, state: State, code: Any
) -> None:
    found = delivery(sent, answers, authenticated_at, LATER)
    assert (found.state, found.error_code) == (state, code)
    assert delivery(sent, [*reversed(answers)], authenticated_at, LATER) == found


@pytest.mark.parametrize(
    ("domain", "number", "code"),
    [
        ("MCMDMErrorDomain", 12021, ErrorCode.UNSUPPORTED),
        ("MCMDMErrorDomain", 12026, ErrorCode.COMMAND_REJECTED),
        ("OtherDomain", 12021, ErrorCode.COMMAND_REJECTED),
    ],
)
def test_code_of_an_error_follows_from_domain_and_number(
    domain: str, number: int, code: ErrorCode
) -> None:
    chain = (CommandError(code=number, domain=domain, description="text"),)
    found = delivery(SENT, [answered("Error", errors=chain)], None, LATER)
    assert found.error_code is code
    assert f"{domain} {number} text" in found.detail


ANSWERS = st.lists(
    st.builds(
        answered,
        st.sampled_from(["Acknowledged", "Error", "NotNow", "Weird"]),
        st.integers(1, 50),
        st.uuids().map(str),
    )
)


@given(ANSWERS, st.integers(1, 60))
def test_final_state_never_changes_by_later_messages(answers: list[Answer], minutes: int) -> None:
    before = delivery(SENT, answers, None, LATER)
    later = answered("Error", 51 + minutes, "later")
    after = delivery(SENT, [*answers, later], LATER + hours(2), LATER + hours(3))
    if before.has_answer:
        assert after == before
