"""The last good copy of each feed on disk, and of the last one that was refused, to be looked at.

A copy saves a download where the server says that nothing changed. It may be lost at any time:
what a feed has said is known elsewhere.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CachedDocument:
    """A document as `location` gave it, with what the server wants to hear at the next look."""

    location: str
    document: bytes
    etag: str | None = None
    last_modified: str | None = None


class DownloadCache:
    """Copies in one folder. OSError from every method but `load`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, source: str, location: str) -> CachedDocument | None:
        """The whole copy of what this location gave, None where there is none."""
        try:
            metadata = json.loads(self._metadata_path(source).read_bytes())
            document = self._document_path(source).read_bytes()
            digest = metadata.pop("sha256")
            cached = CachedDocument(document=document, **metadata)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        whole = hashlib.sha256(document).hexdigest() == digest
        return cached if whole and cached.location == location else None

    def store(self, source: str, copy: CachedDocument) -> None:
        """Keep this one instead of the one before it."""
        metadata = asdict(copy)
        document = metadata.pop("document")
        metadata["sha256"] = hashlib.sha256(document).hexdigest()
        _write(self._document_path(source), document)
        _write(self._metadata_path(source), json.dumps(metadata).encode())

    def store_refused(self, source: str, document: bytes) -> None:
        """Keep what was refused, beside the copy."""
        _write(self._folder / f"{source}.refused", document)

    def _document_path(self, source: str) -> Path:
        return self._folder / f"{source}.json"

    def _metadata_path(self, source: str) -> Path:
        return self._folder / f"{source}.about.json"


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
