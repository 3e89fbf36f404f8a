"""The last accepted document of each feed on disk, and the last refused one, for inspection.

The accepted copy saves a download when the server responds "not modified". It may be lost at any
time: the state of a feed is kept by the sink.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CachedDocument:
    """A document from `location`, with the headers for the next conditional request.

    `etag` and `last_modified` are None if the server sent none, or if the document is from a file.
    """

    location: str
    document: bytes
    etag: str | None = None
    last_modified: str | None = None


class DownloadCache:
    """Documents in one folder. Every method but `load` may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, source: str, location: str) -> CachedDocument | None:
        """Return the accepted document of the feed `source`.

        None if it is missing, damaged or from another `location`.
        """
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
        """Replace the accepted document of the feed.

        After a crash in between, `load` returns None: document and metadata are two files.
        """
        metadata = asdict(copy)
        document = metadata.pop("document")
        metadata["sha256"] = hashlib.sha256(document).hexdigest()
        _write(self._document_path(source), document)
        _write(self._metadata_path(source), json.dumps(metadata).encode())

    def store_refused(self, source: str, document: bytes) -> None:
        """Replace the refused document of the feed; the accepted one stays."""
        _write(self._folder / f"{source}.refused", document)

    def _document_path(self, source: str) -> Path:
        return self._folder / f"{source}.json"

    def _metadata_path(self, source: str) -> Path:
        return self._folder / f"{source}.about.json"


def _write(path: Path, content: bytes) -> None:
    """Replace a file atomically: a crash leaves the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
