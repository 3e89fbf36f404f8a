"""macOS versions and builds as values with a total order.

Both are tuples, so comparison is a tuple comparison and they cost nothing to sort or to hash.
Rules are from the releases in the SOFA feed (github.com/macadmins/sofa) and Apple's own
device-management schema (github.com/apple/device-management).
"""

import re
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

# A name may stand before the number, but not that of Apple's other systems (`iOS 26.2`).
_VERSION: Final = re.compile(
    r"(?!.*\b(?:i|ipad|watch|tv|vision|audio|bridge)os\b)(?:[a-z][a-z ]*\s+)?"
    r"(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?\s*(?:\(([a-z])\))?",
    re.IGNORECASE | re.ASCII,
)
_BUILD: Final = re.compile(r"(\d{1,3})([A-Z])(\d{1,7})([a-z]?)", re.ASCII)

# Background security improvements (once: rapid security responses) use numbers of six digits and
# more; betas use four digits. Both end in a lower-case letter.
_SMALLEST_SUPPLEMENTAL_NUMBER: Final = 100_000
_LONGEST_VERSION_TEXT: Final = 64


class OSVersion(NamedTuple):
    """A macOS version: 26.10 > 26.9, a missing patch is 0, `26.3.1 (a)` follows 26.3.1.

    `supplement` is the letter of a background security improvement, or "".
    """

    major: int
    minor: int = 0
    patch: int = 0
    supplement: str = ""

    @property
    def line(self) -> str:
        """The release line Apple patches as one: `26`, `15`; `10.15` before macOS 11."""
        return f"10.{self.minor}" if self.major == 10 else str(self.major)

    @property
    def release(self) -> "OSVersion":
        """The full release under a supplement: 26.3.1 for 26.3.1 (a)."""
        return self._replace(supplement="") if self.supplement else self

    @lru_cache(maxsize=4096)  # noqa: B019 - of values, and few of them
    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}"
        if self.patch:
            text += f".{self.patch}"
        return f"{text} ({self.supplement})" if self.supplement else text


class Build(NamedTuple):
    """A macOS build such as `25C56`: train (Darwin major), letter, number, suffix.

    Ordered train, letter, betas first, number, suffix. The order within a letter is Apple's only
    between builds of one branch: numbers from 2000 up mark a branch for some hardware (26.0.1 is
    both 25A362 and 25A8364), so whether a Mac runs a release is asked by version first.
    """

    train: int
    letter: str
    released: bool
    number: int
    suffix: str = ""

    @property
    def is_beta(self) -> bool:
        """Whether this is a seed: four digits and a lower-case letter (25A5279m)."""
        return not self.released

    @property
    def branch(self) -> int:
        """Thousands of the number: builds of one release line for the same hardware share it."""
        return self.number // 1000

    @lru_cache(maxsize=8192)  # noqa: B019 - as a version's
    def __str__(self) -> str:
        return f"{self.train}{self.letter}{self.number}{self.suffix}"


@lru_cache(maxsize=4096)
def parse_os_version(text: str) -> OSVersion:
    """`26.2`, `26`, `macOS 26.3.1 (a)` or `Tahoe 26` to a version; ValueError otherwise."""
    match = _VERSION.fullmatch(text.strip()) if len(text) <= _LONGEST_VERSION_TEXT else None
    if match is None:
        raise ValueError("not a macOS version")
    major, minor, patch, supplement = match.groups()
    if int(major) < 10:
        raise ValueError("not a macOS version: its major is below 10")
    return OSVersion(int(major), int(minor or 0), int(patch or 0), (supplement or "").lower())


@lru_cache(maxsize=8192)
def parse_build(text: str) -> Build:
    """`25C56`, `25A5279m` or `25D771280a` to a build; ValueError otherwise."""
    match = _BUILD.fullmatch(text.strip()) if len(text) <= _LONGEST_VERSION_TEXT else None
    if match is None:
        raise ValueError("not a macOS build")
    train, letter, digits, suffix = match.groups()
    number = int(digits)
    beta = bool(suffix) and number < _SMALLEST_SUPPLEMENTAL_NUMBER
    return Build(int(train), letter, not beta, number, suffix)


def train_of(version: OSVersion) -> int | None:
    """The build train of a version: 25 for 26.x, 24 for 15.x, 20 for 11.x; None before 11.

    Since macOS 26 the train is the major less one; 11 to 15 are trains 20 to 24.
    """
    if version.major >= 26:
        return version.major - 1
    if 11 <= version.major <= 15:
        return version.major + 9
    return None


def reaches(
    version: OSVersion | None, build: Build | None, target: OSVersion, wanted: Build | None
) -> bool:
    """Whether a Mac on this version and build has the target release.

    By version first. At the same version a beta build, or an earlier build of the same branch,
    is not the release; a build of another branch is the release for other hardware.
    """
    if version is None or version.release < target.release:
        return False
    if version.release > target.release:
        return True
    if target.supplement:
        # Most sources leave the letter out and report only the supplement's build.
        return version.supplement >= target.supplement or (build is not None and build == wanted)
    if build is None or wanted is None or build == wanted:
        return True
    if build.is_beta:
        return wanted.is_beta and build >= wanted
    return build.branch != wanted.branch or build >= wanted or build.letter != wanted.letter


def _version(value: object) -> OSVersion:
    if isinstance(value, OSVersion):
        return value
    if isinstance(value, str):
        return parse_os_version(value)
    raise ValueError("a macOS version is a string")


def _build(value: object) -> Build:
    if isinstance(value, Build):
        return value
    if isinstance(value, str):
        return parse_build(value)
    raise ValueError("a macOS build is a string")


OSVersionField = Annotated[
    OSVersion,
    PlainValidator(_version),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["26.2", "15.7.3", "26.3.1 (a)"]}),
]
BuildField = Annotated[
    Build,
    PlainValidator(_build),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["25C56", "25A5279m"]}),
]
