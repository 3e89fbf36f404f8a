"""`drydock policy publish`: the event to publish, for each content of the control topic."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from pipeline.cli import policy_publication
from pipeline.cli.app import app
from pipeline.cli.control_topic import Fleet, NoTopicError
from pipeline.cli.policy_publication import Publication, publication, put_in_force
from pipeline.embedded import control_events
from pipeline.policy.file import policy_digest
from runtime.kafka import KafkaSettings
from runtime.retry import RetryPolicy
from schemas.envelope import PolicyChangedEvent, decode, encode
from schemas.events.control import HaltScope, PolicyChanged
from schemas.signing import key_id
from tests.factories import NOW, POLICY_TEXT, policy_changed
from tests.factories.sites import CONTROL_KEY, KEYS, STRANGER_KEY, signed_control

OTHER_TEXT = POLICY_TEXT + "# another one\n"
HOUR = timedelta(hours=1)


def published_policy(text: str, at: timedelta = -HOUR) -> bytes:
    """Return a policy event with time NOW + `at`."""
    return signed_control(control_events.policy_changed(text, "someone", NOW + at))


def with_wrong_digest(text: str) -> bytes:
    event = control_events.policy_changed(text, "someone", NOW)
    data = event.data.model_copy(update={"digest": policy_digest("else")})
    return signed_control(event.model_copy(update={"data": data}))


def change(
    held: list[bytes], signer: Ed25519PrivateKey = CONTROL_KEY, **values: str
) -> Publication:
    """Return the change that puts POLICY_TEXT in force."""
    wanted = PolicyChanged(digest=MINE, text=POLICY_TEXT, by="me", **values)
    return publication(held, KEYS.control, key_id(signer.public_key()), wanted, NOW)


HALT = signed_control(control_events.halt_set(HaltScope(everything=True), "x", "", None, NOW))
MINE, OTHER = policy_digest(POLICY_TEXT), policy_digest(OTHER_TEXT)
# Records of the topic; digest of the policy in force before; True if POLICY_TEXT is published.
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
    "one that a stranger signed since": (
        [published_policy(OTHER_TEXT), signed_control(policy_changed(POLICY_TEXT), STRANGER_KEY)],
        OTHER,
        True,
    ),
    "an unsigned one since": (
        [published_policy(OTHER_TEXT), encode(policy_changed(POLICY_TEXT))],
        OTHER,
        True,
    ),
    "one with a wrong digest since": (
        [published_policy(OTHER_TEXT), with_wrong_digest(POLICY_TEXT)],
        OTHER,
        True,
    ),
}


@pytest.mark.parametrize(("held", "before", "wanted"), HELD.values(), ids=HELD.keys())
def test_policy_is_published_unless_it_is_in_force(
    held: list[bytes], before: str | None, wanted: bool
) -> None:
    found = change(held)
    assert found.previous == before
    assert (found.event is not None) is wanted
    if found.event is not None:
        assert decode(encode(found.event)) == control_events.policy_changed(POLICY_TEXT, "me", NOW)
        after = change([*held, signed_control(found.event)])
        assert (after.event, after.previous) == (None, MINE)


def test_published_policy_is_later_than_one_from_a_clock_that_is_ahead() -> None:
    held = [published_policy(OTHER_TEXT, HOUR)]
    found = change(held)
    assert found.event is not None
    assert found.event.time == NOW + HOUR + timedelta(microseconds=1)
    assert change([*held, signed_control(found.event)]).event is None


def test_policy_in_force_is_published_again_after_its_key_was_rotated() -> None:
    held = [published_policy(POLICY_TEXT)]
    found = change(held, signer=STRANGER_KEY, why="the key was rotated")
    assert found.event is not None
    assert (found.previous, found.event.data.why) == (MINE, "the key was rotated")


class FakeControlTopic:
    """A control topic that is away for the next `away` reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, away: int) -> None:
        self.control: list[bytes] = []
        self.away = away
        self.loses_response = False
        monkeypatch.setattr(policy_publication, "read_control", self.read)
        monkeypatch.setattr(policy_publication, "publish", self.publish)

    def put(self, wait_s: float = 60) -> Publication:
        """Put POLICY_TEXT in force."""
        wanted = PolicyChanged(digest=MINE, text=POLICY_TEXT, by="me")
        fleet = Fleet(KafkaSettings(), CONTROL_KEY, KEYS.control)
        return put_in_force(fleet, wanted, wait_s, retry=RetryPolicy(0.0, 0.0))

    def read(self, _: KafkaSettings) -> list[bytes]:
        self.away -= 1
        if self.away >= 0:
            raise NoTopicError
        return self.control

    def publish(self, _: Fleet, event: PolicyChangedEvent) -> None:
        self.control.append(signed_control(event))
        if self.loses_response:
            raise TimeoutError


def test_publication_is_retried_while_kafka_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeControlTopic(monkeypatch, away=3)
    done = fleet.put()
    assert done.event is not None
    assert fleet.control == [signed_control(done.event)]


def test_publication_fails_after_wait_s(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeControlTopic(monkeypatch, away=10**9)
    with pytest.raises(NoTopicError):
        fleet.put(wait_s=0.01)
    assert fleet.control == []


def test_policy_whose_confirmation_was_lost_is_not_published_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = FakeControlTopic(monkeypatch, away=0)
    fleet.loses_response = True
    done = fleet.put()
    assert (done.previous, len(fleet.control)) == (MINE, 1)


WRONG = {
    "invalid": ("sites: {}\n", (), 1, "is not a valid policy: 1 problem"),
    "no address": (POLICY_TEXT, ("--bootstrap", "nowhere"), 2, "DRYDOCK_KAFKA_BOOTSTRAP"),
    "no key": (POLICY_TEXT, ("--bootstrap", "127.0.0.1:9"), 2, "give --keys"),
}


@pytest.mark.parametrize(("text", "given", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_unpublishable_policy_is_one_line_on_stderr(
    text: str, given: tuple[str, ...], code: int, message: str
) -> None:
    result = CliRunner().invoke(app, ["policy", "publish", "-", *given], input=text)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
