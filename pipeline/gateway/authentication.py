"""Authentication of senders and of admins. Secrets are compared in constant time."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.gateway.endpoint import AuthenticationError
from pipeline.gateway.logins import Login, Logins
from pipeline.trust.senders import EVENTS, Sender, default_sender
from runtime.listening import Listen
from runtime.logs import Log
from schemas import logkeys as key

SECRET_HEADER: Final = "x-drydock-secret"
SIGNATURE_HEADER: Final = "x-hmac-signature"
_WRONG_HMAC: Final = "the HMAC of the body is missing or wrong"
_WRONG_SECRET: Final = "the secret is missing or wrong"
_OPEN: Final = "every program on this machine can submit webhooks and events"
_CLOSED: Final = "webhooks and events are refused; set DRYDOCK_NANOMDM_HMAC_KEY or another secret"
# A proxy adds them: the request comes from another machine.
_FORWARDED: Final = ("forwarded", "via", "x-real-ip")
_FORWARDED_PREFIX: Final = "x-forwarded-"


@dataclass(frozen=True, slots=True)
class HeaderCheck:
    """The result for the headers of a request.

    They prove `sender`, or, if it is None, the HMAC of the body must prove one of `signers`.
    """

    sender: Sender | None
    signers: tuple[Login, ...] = ()

    @property
    def is_proven(self) -> bool:
        """True if the headers alone prove the sender."""
        return self.sender is not None


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks the credentials of requests.

    `logins` returns the logins that are valid now. `is_open`: while there is no login, requests
    without credentials are accepted, from programs on the same computer only. Without it they are
    refused.
    """

    logins: Callable[[], Logins]
    is_open: bool = False
    admin_token: str | None = None

    def check_headers(self, source: str, headers: Mapping[str, str]) -> HeaderCheck:
        """Return the result for a request's headers; raise AuthenticationError if refused.

        `source` is a webhook's or feed's name, or `events`. Call it before the body is read: the
        server does not read the body of an unknown sender. Of NanoMDM's HMAC only the presence is
        checked; `check_body` checks the value.

        The error is 401 if the credentials are missing or wrong. It is 403 if no secret is
        configured for the source; without any secret also if the server is not open, or if a web
        page or a proxy sent the request.
        """
        logins = self.logins()
        if logins.is_empty:
            self._check_open(headers)
            return HeaderCheck(default_sender(source))
        # Events in Drydock's own form come from senders of every kind.
        candidates = tuple(logins) if source == EVENTS else logins.of_kind(source)
        if not candidates:
            raise AuthenticationError(403, f"no secret is configured for {source}")
        signers = () if source == EVENTS else tuple(one for one in candidates if one.hmac_keys)
        if signers and SIGNATURE_HEADER in headers:
            return HeaderCheck(None, signers)
        given = _secret_in(headers)
        others = [one for one in candidates if one not in signers]
        proven = [None if given is None else one.sender_of(given) for one in others]
        sender = next((one for one in proven if one is not None), None)
        if sender is None:
            raise AuthenticationError(401, _WRONG_SECRET if others else _WRONG_HMAC)
        return HeaderCheck(sender)

    def check_body(self, checked: HeaderCheck, headers: Mapping[str, str], body: bytes) -> Sender:
        """Return the sender of a request; raise AuthenticationError (401) for a wrong HMAC.

        `checked` is the result of `check_headers` for the same headers.
        """
        if checked.sender is not None:
            return checked.sender
        given = headers.get(SIGNATURE_HEADER, "")
        proven = [
            one.sender
            for one in checked.signers
            if any([_is_hmac(key, given, body) for key in one.hmac_keys])  # noqa: C419 - no early end
        ]
        if not proven:
            raise AuthenticationError(401, _WRONG_HMAC)
        return proven[0]

    def _check_open(self, headers: Mapping[str, str]) -> None:
        if not self.is_open:
            raise AuthenticationError(403, "no secret of a sender is configured")
        if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
            # A web page can make a browser on this computer post here; the browser then sends
            # these headers.
            raise AuthenticationError(403, "requests from web pages are refused")
        if any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIX) for name in headers):
            raise AuthenticationError(403, "requests through a proxy need a secret")

    def warn_without_secrets(self, log: Log) -> None:
        """Log a warning while no sender has a secret."""
        if self.logins().is_empty:
            detail = _OPEN if self.is_open else _CLOSED
            log.warning("no sender's secret is configured", **{key.DETAIL: detail})

    def check_admin(self, headers: Mapping[str, str]) -> None:
        """Raise AuthenticationError unless the headers have the admin token.

        The error is 401 if the token is missing or wrong, 403 if no token is configured.
        """
        if self.admin_token is None:
            raise AuthenticationError(403, "no admin token is configured")
        given = _secret_in(headers)
        if given is None or not hmac.compare_digest(self.admin_token.encode(), given.encode()):
            raise AuthenticationError(401, _WRONG_SECRET)


def check_address(listen: Listen, logins: Logins, *, insecure_loopback: bool) -> None:
    """Raise ValueError if requests from other machines could be accepted without a secret."""
    if listen.is_loopback:
        return
    if insecure_loopback:
        raise ValueError(f"--insecure-loopback serves loopback only, not {listen.host}")
    if logins.is_empty:
        raise ValueError(
            "without any secret only this machine is served: set DRYDOCK_NANOMDM_HMAC_KEY or"
            f" another secret to listen on {listen.host}"
        )


def _is_hmac(key: bytes, given: str, body: bytes) -> bool:
    """Return True if `given` is NanoMDM's HMAC of the body under `key`.

    `given` is the value of X-Hmac-Signature: base64 of the HMAC-SHA256. Source:
    github.com/micromdm/nanomdm, http/hashbody.
    """
    wanted = base64.b64encode(hmac.digest(key, body, hashlib.sha256))
    return hmac.compare_digest(wanted, given.encode("latin-1", "replace"))


def _secret_in(headers: Mapping[str, str]) -> str | None:
    """Return the secret: a bearer token, the password of Basic, or the header X-Drydock-Secret.

    None if there is none, or if the value of Basic cannot be decoded. With Bearer or Basic the
    header X-Drydock-Secret is not used.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            user_and_password = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return user_and_password.partition(":")[2]
    return headers.get(SECRET_HEADER)
