"""What `drydock policy publish` makes of what the control topic holds."""

from datetime import timedelta

import pytest
from typer.testing import CliRunner

from pipeline.cli import policy_publication
from pipeline.cli.app import app
from pipeline.cli.control_topic import NoTopicError
from pipeline.cli.policy_publication import publication, put_in_force
from pipeline.connection import KafkaSettings
from pipeline.decide.policy_file import policy_digest
from pipeline.embedded import control_events
from schemas.envelope import PolicyChangedEvent, decode, encode
from schemas.events.control import HaltScope
from tests.factories import NOW, POLICY_TEXT

OTHER_TEXT = POLICY_TEXT + "# another one\n"
HOUR = timedelta(hours=1)


def published_policy(text: str, at: timedelta = -HOUR) -> bytes:
    """A policy that was published then."""
    return encode(control_events.policy_changed(text, "somebody", NOW + at))


def with_wrong_digest(text: str) -> bytes:
    event = control_events.policy_changed(text, "somebody", NOW)
    data = event.data.model_copy(update={"digest": policy_digest("else")})
    return encode(event.model_copy(update={"data": data}))


HALT = encode(control_events.halt_set(HaltScope(everything=True), "x", "", None, NOW))
MINE, OTHER = policy_digest(POLICY_TEXT), policy_digest(OTHER_TEXT)
# What the topic holds; the policy in force before; whether POLICY_TEXT has to be published.
HELD = {
    "nothing": ([], None, True),
    "no policy": ([HALT, b"{", b""], None, True),
    "this one": ([published_policy(POLICY_TEXT), HALT], MINE, False),
    "another one": ([published_policy(OTHER_TEXT)], OTHER, True),
    "another one since": (
        [published_policy(POLICY_TEXT, -2 * HOUR), published_policy(OTHER_TEXT)],
        OTHER,
        True,
    ),
    "another one, late": (
        [published_policy(POLICY_TEXT), published_policy(OTHER_TEXT, -2 * HOUR)],
        MINE,
        False,
    ),
    "an invalid one since": (
        [published_policy(POLICY_TEXT), published_policy("sites: 1\n", HOUR)],
        MINE,
        False,
    ),
    "one that lies since": (
        [published_policy(OTHER_TEXT), with_wrong_digest(POLICY_TEXT)],
        OTHER,
        True,
    ),
}


@pytest.mark.parametrize(("held", "before", "wanted"), HELD.values(), ids=HELD.keys())
def test_publishes_where_another_policy_is_in_force(
    held: list[bytes], before: str | None, wanted: bool
) -> None:
    found = publication(held, POLICY_TEXT, "me", NOW)
    assert found.previous == before
    assert (found.event is not None) is wanted
    if found.event is not None:
        assert decode(encode(found.event)) == control_events.policy_changed(POLICY_TEXT, "me", NOW)
        after = publication([*held, encode(found.event)], POLICY_TEXT, "me", NOW)
        assert (after.event, after.previous) == (None, MINE)


def test_wins_over_one_dated_by_a_clock_that_is_ahead() -> None:
    held = [published_policy(OTHER_TEXT, HOUR)]
    found = publication(held, POLICY_TEXT, "me", NOW)
    assert found.event is not None
    assert found.event.time == NOW + HOUR + timedelta(microseconds=1)
    assert publication([*held, encode(found.event)], POLICY_TEXT, "me", NOW).event is None


class FakeControlTopic:
    """A Kafka that is away for the next so many questions, and a topic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, away: int) -> None:
        self.control: list[bytes] = []
        self.away = away
        self.loses_answer = False
        monkeypatch.setattr(policy_publication, "read_control", self.read)
        monkeypatch.setattr(policy_publication, "publish", self.publish)

    def read(self, _: KafkaSettings) -> list[bytes]:
        self.away -= 1
        if self.away >= 0:
            raise NoTopicError
        return self.control

    def publish(self, _: KafkaSettings, event: PolicyChangedEvent) -> None:
        self.control.append(encode(event))
        if self.loses_answer:
            raise TimeoutError


def test_tries_again_while_kafka_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeControlTopic(monkeypatch, away=3)
    done = put_in_force(KafkaSettings(), POLICY_TEXT, "me", wait_s=60, retry_delay_s=0.0)
    assert done.event is not None
    assert fleet.control == [encode(done.event)]


def test_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeControlTopic(monkeypatch, away=10**9)
    with pytest.raises(NoTopicError):
        put_in_force(KafkaSettings(), POLICY_TEXT, "me", wait_s=0.01, retry_delay_s=0.0)
    assert fleet.control == []


def test_an_answer_that_was_lost_is_looked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeControlTopic(monkeypatch, away=0)
    fleet.loses_answer = True
    done = put_in_force(KafkaSettings(), POLICY_TEXT, "me", wait_s=60, retry_delay_s=0.0)
    assert (done.previous, len(fleet.control)) == (MINE, 1)


WRONG = {
    "invalid": ("sites: {}\n", (), 1, "is not a valid policy: 1 problem"),
    "no address": (POLICY_TEXT, ("--bootstrap", "nowhere"), 2, "DRYDOCK_KAFKA_BOOTSTRAP"),
}


@pytest.mark.parametrize(("text", "given", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_published_is_one_line(
    text: str, given: tuple[str, ...], code: int, message: str
) -> None:
    result = CliRunner().invoke(app, ["policy", "publish", "-", *given], input=text)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
