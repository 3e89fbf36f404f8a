"""Authentication: accepted and refused credentials of senders and of admins."""

import base64
import hashlib
import hmac
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.config import ServerSettings
from pipeline.gateway.authentication import Authenticator, check_address
from pipeline.gateway.endpoint import AuthenticationError
from pipeline.gateway.logins import Login, Logins, device_token, environment_logins
from pipeline.trust.senders import Sender, default_sender
from runtime.listening import Listen

BODY = b'{"topic":"mdm.Connect"}'
KEY, SECRET, TOKEN = "wh-hmac-secret", "jamf-secret", "admin-token"
HMAC = base64.b64encode(hmac.new(KEY.encode(), BODY, hashlib.sha256).digest()).decode()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def authenticator(*, loopback: bool = False, **secrets: str) -> Authenticator:
    given: dict[str, Any] = {name: SecretStr(value) for name, value in secrets.items()}
    logins = environment_logins(ServerSettings(**given))
    return Authenticator(lambda: logins, loopback, TOKEN)


def check(checker: Authenticator, source: str, headers: dict[str, str], body: bytes) -> Sender:
    """Check a whole request, in the order of the application."""
    return checker.check_body(checker.check_headers(source, headers), headers, body)


FULL = authenticator(nanomdm_hmac_key=KEY, jamf_secret=SECRET)
OPEN = authenticator(loopback=True)
BOTH = authenticator(loopback=True, jamf_secret=SECRET)
CLOSED = authenticator()

ACCEPTED: dict[str, tuple[Authenticator, str, dict[str, str]]] = {
    "hmac": (FULL, "nanomdm", {"x-hmac-signature": HMAC}),
    "bearer": (FULL, "jamf", {"authorization": f"Bearer {SECRET}"}),
    "basic": (FULL, "jamf", {"authorization": basic(SECRET)}),
    "header": (FULL, "jamf", {"x-drydock-secret": SECRET}),
    "no secret, loopback only": (OPEN, "munki", {}),
}
REFUSED: dict[str, tuple[Authenticator, str, dict[str, str], int]] = {
    "no hmac": (FULL, "nanomdm", {}, 401),
    "hmac of another key": (FULL, "nanomdm", {"x-hmac-signature": "A" * 44}, 401),
    "hmac in hex": (FULL, "nanomdm", {"x-hmac-signature": "ab" * 32}, 401),
    "hmac not latin-1": (FULL, "nanomdm", {"x-hmac-signature": "\u20ac"}, 401),
    "secret instead of an hmac": (FULL, "nanomdm", {"authorization": f"Bearer {KEY}"}, 401),
    "no credentials": (FULL, "jamf", {}, 401),
    "wrong bearer": (FULL, "jamf", {"authorization": "Bearer wrong"}, 401),
    "hmac instead of a secret": (FULL, "jamf", {"x-hmac-signature": HMAC}, 401),
    "basic, wrong password": (FULL, "jamf", {"authorization": basic("wrong")}, 401),
    "basic, not base64": (FULL, "jamf", {"authorization": "Basic %%%"}, 401),
    "basic, not text": (FULL, "jamf", {"authorization": "Basic /////w=="}, 401),
    "empty bearer": (FULL, "jamf", {"authorization": "Bearer "}, 401),
    "no secret of this source": (FULL, "osquery", {}, 403),
    "no secret of this source, on loopback": (BOTH, "osquery", {}, 403),
    "secret of another source": (FULL, "osquery", {"x-drydock-secret": SECRET}, 403),
    "no secret at all": (CLOSED, "munki", {}, 403),
    "a web page": (OPEN, "munki", {"origin": "https://example.org"}, 403),
    "a web page without its origin": (OPEN, "munki", {"sec-fetch-site": "cross-site"}, 403),
    "a proxy": (OPEN, "munki", {"forwarded": "for=203.0.113.9"}, 403),
    "an older proxy": (OPEN, "munki", {"x-forwarded-for": "203.0.113.9"}, 403),
    "a proxy that names itself": (OPEN, "munki", {"via": "1.1 proxy"}, 403),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_sender_with_valid_credentials_is_accepted(case: str) -> None:
    checker, source, headers = ACCEPTED[case]
    check(checker, source, headers, BODY)


@pytest.mark.parametrize("case", REFUSED)
def test_sender_with_invalid_credentials_is_refused(case: str) -> None:
    checker, source, headers, status = REFUSED[case]
    with pytest.raises(AuthenticationError) as refused:
        check(checker, source, headers, BODY)
    assert refused.value.status == status


def test_hmac_of_another_body_is_refused() -> None:
    with pytest.raises(AuthenticationError):
        check(FULL, "nanomdm", {"x-hmac-signature": HMAC}, BODY + b" ")


def test_admin_token_is_required_on_loopback_too() -> None:
    OPEN.check_admin({"authorization": f"Bearer {TOKEN}"})
    for headers in ({}, {"authorization": f"Bearer {SECRET}"}):
        with pytest.raises(AuthenticationError):
            OPEN.check_admin(headers)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_address_needs_no_secret(host: str) -> None:
    for insecure in (False, True):
        check_address(Listen(host, 0), CLOSED.logins(), insecure_loopback=insecure)


def test_other_address_needs_a_secret() -> None:
    address = Listen("10.0.0.1", 0)
    check_address(address, FULL.logins(), insecure_loopback=False)
    with pytest.raises(ValueError, match="without any secret only this machine is served"):
        check_address(address, CLOSED.logins(), insecure_loopback=False)
    with pytest.raises(ValueError, match="serves loopback only"):
        check_address(address, FULL.logins(), insecure_loopback=True)


def test_sender_of_events_is_the_one_whose_secret_was_sent() -> None:
    checker = authenticator(jamf_secret=SECRET, events_secret="events-secret", sofa_secret="s" * 9)
    for secret, name in ((SECRET, "jamf"), ("events-secret", "events"), ("s" * 9, "sofa")):
        assert check(checker, "events", {"x-drydock-secret": secret}, BODY).name == name


def test_token_of_a_mac_is_valid_for_this_mac_alone() -> None:
    munki = Login(default_sender("munki"), master_secrets=("master-secret",))
    checker = Authenticator(lambda: Logins((munki,)))
    sender = check(
        checker, "munki", {"x-drydock-secret": device_token("master-secret", "mac-1")}, BODY
    )
    assert (sender.own_device, sender.scope.devices) == ("MAC-1", frozenset({"MAC-1"}))
    assert sender.recorded_name == "munki/MAC-1"
    assert Logins((munki,)).sender("munki/MAC-1") == sender, "also for its repeated dead letter"
    assert Logins((munki,)).sender("munki") == munki.sender
    assert Logins((munki,)).sender("nobody/MAC-1") is None
    other = device_token("master-secret", "MAC-1").replace("MAC-1", "MAC-2")
    for wrong in (other, "master-secret", device_token("another", "MAC-1"), ".", ""):
        with pytest.raises(AuthenticationError):
            check(checker, "munki", {"x-drydock-secret": wrong}, BODY)


def test_old_and_new_secret_are_valid_during_a_rotation() -> None:
    login = Login(default_sender("nanomdm"), ("old", "new"), (b"another", KEY.encode()))
    checker = Authenticator(lambda: Logins((login,)))
    assert check(checker, "nanomdm", {"x-hmac-signature": HMAC}, BODY).name == "nanomdm"
    for secret in ("old", "new"):
        assert check(checker, "events", {"x-drydock-secret": secret}, BODY).name == "nanomdm"


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr([FULL, FULL.logins()])
    assert SECRET not in shown
    assert KEY not in shown
