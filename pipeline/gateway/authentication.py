"""Authentication of senders and of admins. Secrets are compared in constant time."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.config import SenderSettings
from pipeline.gateway.endpoint import AuthenticationError
from runtime.listening import Listen

SECRET_HEADER: Final = "x-drydock-secret"
SIGNATURE_HEADER: Final = "x-hmac-signature"
# The source whose secret protects /v1/events and /v1/feeds.
EVENTS: Final = "events"
_WRONG_HMAC: Final = "the HMAC of the body is missing or wrong"


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks the credentials of requests.

    `is_loopback`: the server listens on a loopback address, so that only programs on the same
    computer can reach it. Then a source for which no secret is configured needs no credentials.
    """

    settings: SenderSettings
    is_loopback: bool
    admin_token: str | None = None

    def check_headers(self, source: str, headers: Mapping[str, str]) -> None:
        """Raise AuthenticationError if the headers of a request show that it must be refused.

        `source` is a webhook's name, or `events`. Call it before the body is read: the server does
        not read the body of an unknown sender. Of NanoMDM's HMAC only the presence is checked;
        `check_body` checks the value.

        For a source with a secret or key the error is 401: the credentials are missing or wrong.
        For one without it is 403: the server is not on a loopback address, or a web page sent the
        request.
        """
        if self.settings.hmac_key_of(source) is not None:
            if SIGNATURE_HEADER not in headers:
                raise AuthenticationError(401, _WRONG_HMAC)
            return
        secret = self.settings.secret_of(source)
        if secret is not None:
            _check_secret(secret, headers)
        elif not self.is_loopback:
            raise AuthenticationError(403, f"no secret is configured for {source}")
        elif "origin" in headers:
            # A web page can make a browser on this computer post here; the browser then sends
            # an Origin header.
            raise AuthenticationError(403, "requests from web pages are refused")

    def check_body(self, source: str, headers: Mapping[str, str], body: bytes) -> None:
        """Raise AuthenticationError (401) if the HMAC of the body is wrong.

        Of a source without an HMAC key no body is checked. The headers have passed `check_headers`.
        """
        key = self.settings.hmac_key_of(source)
        if key is not None:
            _check_hmac(key, headers.get(SIGNATURE_HEADER), body)

    def check_admin(self, headers: Mapping[str, str]) -> None:
        """Raise AuthenticationError unless the headers have the admin token.

        The error is 401 if the token is missing or wrong, 403 if no token is configured.
        """
        if self.admin_token is None:
            raise AuthenticationError(403, "no admin token is configured")
        _check_secret(self.admin_token, headers)


def check_address(listen: Listen, settings: SenderSettings) -> None:
    """Raise ValueError if no secret is configured and the address is not loopback."""
    if not listen.is_loopback and not settings.has_secrets:
        raise ValueError(
            "without any secret only this machine is served: set DRYDOCK_NANOMDM_HMAC_KEY or"
            f" another secret to listen on {listen.host}"
        )


def _check_hmac(key: bytes, given: str | None, body: bytes) -> None:
    """Raise AuthenticationError (401) unless `given` is NanoMDM's HMAC of the body under `key`.

    `given` is the value of X-Hmac-Signature: base64 of the HMAC-SHA256; None if it is missing.
    Source: github.com/micromdm/nanomdm, http/hashbody.
    """
    wanted = base64.b64encode(hmac.new(key, body, hashlib.sha256).digest())
    if given is None or not hmac.compare_digest(wanted, given.encode("latin-1", "replace")):
        raise AuthenticationError(401, _WRONG_HMAC)


def _check_secret(secret: str, headers: Mapping[str, str]) -> None:
    """Raise AuthenticationError (401) if the headers do not have this secret."""
    given = _secret_in(headers)
    if given is None or not hmac.compare_digest(secret.encode(), given.encode()):
        raise AuthenticationError(401, "the secret is missing or wrong")


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
