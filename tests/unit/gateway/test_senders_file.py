"""The senders file: problems with their lines, secrets by reference, scopes, rotation, reload."""

from pathlib import Path
from typing import Any, get_args

import pytest
import structlog

from pipeline.config import SenderSettings
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.endpoint import AuthenticationError, HttpError
from pipeline.gateway.logins import Logins, device_token
from pipeline.gateway.request_rate import RequestRate
from pipeline.gateway.senders_config import Kind, SendersError, parse_senders
from pipeline.gateway.senders_file import SendersFile, SendersFileError, open_logins
from pipeline.trust.senders import SCOPES, Sender, SenderLimits, default_sender

WHOLE = """\
version: 1
senders:
  - name: mdm-london
    kind: nanomdm
    hmac_keys: [env:HMAC_KEY]
    secrets: [env:MDM_SECRET]
  - name: relay
    kind: osquery
    secrets: [file:{folder}/new.key, file:{folder}/old.key]
    devices: [mac-1, MAC-2]
    limits: {{events_per_request: 5, requests_per_minute: 3}}
  - name: munki-clients
    kind: munki
    device_tokens: [env:MASTER]
  - name: no-deletions
    kind: sofa
    secrets: [env:SOFA_SECRET]
    event_types: [drydock.advisory.published.v1, drydock.advisory.severity_raised.v1]
"""
ENVIRONMENT = {
    "HMAC_KEY": "key-of-the-hmac",
    "MDM_SECRET": "secret-of-mdm",
    "MASTER": "master-of-munki",
    "SOFA_SECRET": "secret-of-sofa",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "new.key").write_text("secret-that-is-new\n")
    (tmp_path / "old.key").write_text("secret-that-is-old\n")
    found = tmp_path / "senders.yaml"
    found.write_text(WHOLE.format(folder=tmp_path))
    return found


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 2.0
        return self.now_s


def opened(path: Path, log: Any = None, **environment: str) -> SendersFile:
    return SendersFile(path, ENVIRONMENT | environment, Logins(), log, Clock())


def sender(logins: Logins, source: str, secret: str) -> Sender:
    checker = Authenticator(lambda: logins)
    headers = {"x-drydock-secret": secret}
    return checker.check_body(checker.check_headers(source, headers), headers, b"")


def test_each_sender_has_its_kind_scope_and_limits(path: Path) -> None:
    logins = opened(path).logins()
    relay = sender(logins, "osquery", "secret-that-is-new")
    assert (relay.name, relay.kind) == ("relay", "osquery")
    assert relay.scope.devices == frozenset({"MAC-1", "MAC-2"})
    assert relay.limits == SenderLimits(5, 3)
    assert sender(logins, "osquery", "secret-that-is-old") == relay
    feed = sender(logins, "events", "secret-of-sofa")
    assert {data.__name__ for data in feed.scope.fields} == {
        "AdvisoryPublished",
        "AdvisorySeverityRaised",
    }
    munki = sender(logins, "munki", device_token("master-of-munki", "MAC-3"))
    assert munki.own_device == "MAC-3"
    names = [login.sender.name for login in logins]
    assert names == ["mdm-london", "relay", "munki-clients", "no-deletions"]


def test_file_knows_every_kind() -> None:
    assert set(get_args(Kind)) == set(SCOPES)


PROBLEMS = {
    "unknown key": ("devices: [mac-1", "device: [mac-1", "line 10:5: senders[1].device: unknown"),
    "unknown kind": ("kind: osquery", "kind: osqueri", "line 8:11: senders[1].kind: must be"),
    "literal secret": ("[env:MASTER]", "[hunter2hunter2]", "line 14"),
    "no secret": ("    device_tokens: [env:MASTER]\n", "", "has no secret"),
    "hmac of another kind": ("device_tokens:", "hmac_keys:", "only requests of nanomdm are signed"),
    "tokens of an MDM server": (
        "secrets: [env:MDM_SECRET]",
        "device_tokens: [env:MDM_SECRET]",
        "an MDM server has one login",
    ),
    "tokens of an operator": (
        "kind: munki",
        "kind: admin",
        "an operator's login is on no Mac",
    ),
    "three secrets": (
        "secrets: [env:MDM_SECRET]",
        "secrets: [env:A, env:B, env:C]",
        "senders[0].secrets",
    ),
    "name twice": ("name: relay", "name: mdm-london", "two senders are called mdm-london"),
    "type of another kind": (
        "[drydock.advisory.published.v1,",
        "[drydock.inventory.reported.v1,",
        "sofa may not submit drydock.inventory.reported.v1",
    ),
    "Macs of a feed": ("event_types: [dry", "devices: [dry", "this kind reports on no Macs"),
    "capitals in a name": ("name: relay", "name: Relay", "must match"),
    "limit of nothing": ("minute: 3", "minute: 0", "line 11"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_has_its_line(case: str) -> None:
    old, new, message = PROBLEMS[case]
    assert old in WHOLE
    with pytest.raises(SendersError) as error:
        parse_senders(WHOLE.format(folder="/run").replace(old, new))
    assert message in str(error.value)
    assert "hunter2" not in str(error.value)


def test_error_of_a_secret_names_its_sender_and_never_its_value(path: Path) -> None:
    for environment, message in (
        ({"MASTER": "short"}, "munki-clients: env:MASTER: is shorter than 8 characters"),
        ({"MASTER": "secret-of-mdm"}, "munki-clients: has a secret of mdm-london"),
        ({"MASTER": ""}, "munki-clients: env:MASTER: is empty"),
    ):
        with pytest.raises(SendersFileError) as error:
            opened(path, **environment)
        assert str(error.value) == message


def test_name_of_a_sender_of_the_environment_cannot_be_used_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (ENVIRONMENT | {"DRYDOCK_SOFA_SECRET": "another-secret"}).items():
        monkeypatch.setenv(name, value)
    assert open_logins(path, SenderSettings(), None)().sender("sofa") is not None  # type: ignore[arg-type]
    path.write_text(path.read_text().replace("name: no-deletions", "name: sofa"))
    with pytest.raises(SendersFileError, match="the environment has a sender of this name"):
        open_logins(path, SenderSettings(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [("EVENTS_SECRET", "NANOMDM_SECRET"), ("OSQUERY_SECRET", "NANOMDM_HMAC_KEY")],
)
def test_secret_of_two_senders_of_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    for name in (one, other):
        monkeypatch.setenv(f"DRYDOCK_{name}", "a secret of two")
    with pytest.raises(SendersFileError, match="have one secret") as error:
        open_logins(None, SenderSettings(), None)  # type: ignore[arg-type]
    assert "nanomdm" in str(error.value)
    assert "a secret of two" not in str(error.value)


def test_file_and_secrets_are_read_again_after_a_change(path: Path) -> None:
    captured = structlog.testing.LogCapture()
    file = opened(path, structlog.wrap_logger(structlog.PrintLogger(), processors=[captured]))
    assert sender(file.logins(), "osquery", "secret-that-is-old")
    path.with_name("old.key").write_text("secret-that-is-newest")
    assert sender(file.logins(), "osquery", "secret-that-is-newest").name == "relay"
    with pytest.raises(AuthenticationError):
        sender(file.logins(), "osquery", "secret-that-is-old")
    path.write_text(path.read_text().replace("name: relay", "name: relay-2"))
    assert sender(file.logins(), "osquery", "secret-that-is-newest").name == "relay-2"
    path.write_text("senders: {")
    assert sender(file.logins(), "osquery", "secret-that-is-newest").name == "relay-2"
    file.logins()
    found = [entry["event"] for entry in captured.entries]
    assert found == [
        "senders file read again",
        "senders file read again",
        "senders file not accepted; the logins before stay valid",
    ]


def test_sender_over_its_rate_waits_for_the_next_minute() -> None:
    times = iter([0.0, 10.0, 59.0, 60.0])
    rate = RequestRate(lambda: next(times))
    one = Sender("relay", "osquery", default_sender("osquery").scope, limits=SenderLimits(None, 2))
    rate.count(one)
    rate.count(one)
    with pytest.raises(HttpError) as refused:
        rate.count(one)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2)
    rate.count(one)
    for _ in range(1000):
        rate.count(default_sender("munki"))
