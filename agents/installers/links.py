"""Links by which a Mac fetches the file of its job from the site cache.

A link is valid for one job and one file, until a time: `/installers/<key>/<job>/<until>/<tag>/`
and the name of the file. The tag is an HMAC-SHA256 over the other parts.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from agents.installers.bucket import FILE_NAME
from agents.installers.cache_key import CacheKey, parse_key

_PREFIX: Final = "installers"
_KEY_FILE: Final = "links.key"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Link:
    """The permission of a link: one job, one file, until a time in seconds since 1970."""

    job_id: str
    key: CacheKey
    until_s: int


class LinkSigner:
    """Makes and checks links with one key."""

    def __init__(self, signing_key: bytes) -> None:
        self._key = signing_key

    @classmethod
    def in_folder(cls, folder: Path) -> "LinkSigner":
        """Return the signer with the key in a folder, made if it is missing.

        The key outlives the process, so a Mac continues its download after a restart of the agent.
        Raises OSError.
        """
        path = folder / _KEY_FILE
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            found = b""
        if len(found) != _KEY_BYTES:
            found = secrets.token_bytes(_KEY_BYTES)
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(found)
        return cls(found)

    def path(self, job_id: str, key: CacheKey, until: datetime) -> str:
        """Return the path of a link."""
        link = Link(job_id, key, int(until.timestamp()))
        parts = (_PREFIX, str(key), quote(job_id, safe=""), str(link.until_s), self._tag(link))
        return "/" + "/".join((*parts, FILE_NAME))

    def read(self, path: str, now: datetime) -> Link | None:
        """Return the permission of the link now; None if it is not valid."""
        parts = path.split("/")
        if len(parts) != 7 or parts[0] or parts[1] != _PREFIX or parts[6] != FILE_NAME:
            return None
        _, _, key, job_id, until, tag, _ = parts
        if not (until.isascii() and until.isdecimal() and len(until) <= 12):
            return None
        try:
            link = Link(unquote(job_id, errors="strict"), parse_key(key), int(until))
        except ValueError:
            return None
        if not hmac.compare_digest(tag.encode(), self._tag(link).encode()):
            return None
        return link if now.timestamp() < link.until_s else None

    def _tag(self, link: Link) -> str:
        text = f"{link.key}\n{link.until_s}\n{link.job_id}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
