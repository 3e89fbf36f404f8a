"""The key of a file in a site cache: the build of an installer, or an image by its SHA-256."""

from dataclasses import dataclass
from typing import Final

from schemas.macos import Build, parse_build

_IMAGE: Final = "image-"
_DIGITS: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ImageKey:
    """An image for `asr`, by the SHA-256 that its manifest states."""

    sha256: str

    def __str__(self) -> str:
        """Return the key as text, for names of files and links."""
        return f"{_IMAGE}{self.sha256}"


CacheKey = Build | ImageKey


def parse_key(text: str) -> CacheKey:
    """Return the key with this text. Raises ValueError for other text."""
    sha256 = text.removeprefix(_IMAGE)
    if sha256 == text:
        return parse_build(text)
    if len(sha256) != 64 or not _DIGITS.issuperset(sha256):
        raise ValueError("no key of an image")
    return ImageKey(sha256)
