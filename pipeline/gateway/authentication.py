"""Who may post what. Every comparison of a secret takes the same time whatever is compared."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.config import SenderSettings
from pipeline.gateway.endpoint import AuthenticationError

SECRET_HEADER: Final = "x-drydock-secret"


@dataclass(frozen=True, slots=True)
class Authenticator:
    """What proves a sender. `loopback` says that only this machine can reach the server; then a
    source without a secret is taken as it is."""

    settings: SenderSettings
    is_loopback: bool
    admin_token: str | None = None

    def check_source(self, source: str, headers: Mapping[str, str], body: bytes) -> None:
        """A webhook's sender, or `events`. Raises RefusedError."""
        key = self.settings.hmac_key if source == "nanomdm" else None
        if key is not None:
            _check_hmac(key, headers.get("x-hmac-signature"), body)
            return
        secret = self.settings.secret_of(source)
        if secret is not None:
            _check_secret(secret, headers)
        elif not self.is_loopback:
            raise AuthenticationError(403, f"no secret is configured for {source}")
        elif "origin" in headers:
            # Any web page can make a browser on this machine post here; browsers then say so.
            raise AuthenticationError(403, "requests of web pages are not taken")

    def check_before_body(self, source: str, headers: Mapping[str, str]) -> None:
        """What can be said without the body: so that nobody else's is read. RefusedError."""
        if source == "nanomdm" and self.settings.hmac_key is not None:
            if "x-hmac-signature" not in headers:
                raise AuthenticationError(401, "the signature of the body is missing or wrong")
        else:
            self.check_source(source, headers, b"")

    def check_admin(self, headers: Mapping[str, str]) -> None:
        """Who reads the fleet or steers it; nobody without a token. Raises RefusedError."""
        if self.admin_token is None:
            raise AuthenticationError(403, "there is no admin token")
        _check_secret(self.admin_token, headers)


def _check_hmac(key: bytes, given: str | None, body: bytes) -> None:
    """NanoMDM's `X-Hmac-Signature`: base64 of HMAC-SHA256 over the body
    (github.com/micromdm/nanomdm, http/hashbody)."""
    wanted = base64.b64encode(hmac.new(key, body, hashlib.sha256).digest())
    if given is None or not hmac.compare_digest(wanted, given.encode("latin-1", "replace")):
        raise AuthenticationError(401, "the signature of the body is missing or wrong")


def _check_secret(secret: str, headers: Mapping[str, str]) -> None:
    given = _secret_in(headers)
    if given is None or not hmac.compare_digest(secret.encode(), given.encode()):
        raise AuthenticationError(401, "the secret is missing or wrong")


def _secret_in(headers: Mapping[str, str]) -> str | None:
    """The secret as a bearer token, as Basic's password, or in a header of its own."""
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
