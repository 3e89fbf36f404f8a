"""The logins of senders: their credentials, and tokens that are derived for single Macs."""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.config import SenderSettings
from pipeline.ingest.sources import FEED_DIFFS, WEBHOOK_SOURCES
from pipeline.trust.senders import ADMIN, ADVISORIES, EVENTS, SCOPES, Sender, default_sender

_TOKEN_PURPOSE: Final = b"drydock device token\n"


@dataclass(frozen=True, slots=True)
class Login:
    """The credentials of one sender. While a secret is rotated, the old and the new one are valid.

    - `secrets`: sent with each request
    - `hmac_keys`: keys of the HMAC of each webhook's body; then `secrets` are for /v1/events only
    - `master_secrets`: secrets from which each Mac's own token is derived; none is sent itself
    """

    sender: Sender
    secrets: tuple[str, ...] = ()
    hmac_keys: tuple[bytes, ...] = ()
    master_secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the sender's name; secrets are not shown."""
        return f"Login({self.sender.name!r})"

    def shares_a_secret(self, other: "Login") -> bool:
        """Return True if a secret of this login is one of the other login too."""
        return not _credentials(self).isdisjoint(_credentials(other))

    def sender_of(self, given: str) -> Sender | None:
        """Return the sender that this secret or token proves; None if it is wrong.

        Each comparison takes constant time.
        """
        found = [hmac.compare_digest(one.encode(), given.encode()) for one in self.secrets]
        if any(found):
            return self.sender
        udid, _, _ = given.rpartition(".")
        udid = udid.upper()
        derived = [
            hmac.compare_digest(device_token(one, udid).encode(), given.encode())
            for one in self.master_secrets
        ]
        if not udid or not any(derived):
            return None
        return self.sender.limited_to(udid)


@dataclass(frozen=True, slots=True)
class Logins:
    """All logins of a server."""

    logins: tuple[Login, ...] = ()

    def __iter__(self) -> Iterator[Login]:
        return iter(self.logins)

    @property
    def is_empty(self) -> bool:
        """True if no sender has a secret."""
        return not self.logins

    def of_kind(self, kind: str) -> tuple[Login, ...]:
        """Return the logins of a kind: a webhook's or a feed's name, or `events`."""
        return tuple(one for one in self.logins if one.sender.kind == kind)

    def sender(self, name: str) -> Sender | None:
        """Return the sender of this `Sender.recorded_name`; None if it is unknown.

        A kind is also the name of a sender that is configured by its secret alone.
        """
        name, _, udid = name.partition("/")
        known = [one.sender for one in self.logins if one.sender.name == name]
        if not known and name in SCOPES:
            known = [default_sender(name)]
        if not known:
            return None
        return known[0].limited_to(udid) if udid else known[0]


def _credentials(login: Login) -> frozenset[bytes]:
    texts = (one.encode() for one in (*login.secrets, *login.master_secrets))
    return frozenset((*texts, *login.hmac_keys))


def device_token(master: str, udid: str) -> str:
    """Return the token of a Mac: its UDID in capitals, a dot, and an HMAC under the master secret.

    With it the Mac's own programs can submit events about this Mac and about no other.
    """
    name = udid.upper()
    digest = hmac.new(master.encode(), _TOKEN_PURPOSE + name.encode(), hashlib.sha256)
    return f"{name}.{digest.hexdigest()}"


def environment_logins(settings: SenderSettings) -> Logins:
    """Return the logins of the secrets in the environment; each one's name is its kind."""
    kinds = [*FEED_DIFFS, *WEBHOOK_SOURCES, EVENTS, ADVISORIES, ADMIN]
    found = []
    for kind in kinds:
        secret, key = settings.secret_of(kind), settings.hmac_key_of(kind)
        if secret is not None or key is not None:
            secrets = () if secret is None else (secret,)
            found.append(Login(default_sender(kind), secrets, () if key is None else (key,)))
    return Logins(tuple(found))
