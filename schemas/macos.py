"""macOS versions and builds as values with a total order.

Both are tuples, so they compare and hash at the speed of tuples. The rules are derived from the
releases in the SOFA feed (github.com/macadmins/sofa) and from Apple's device-management schema
(github.com/apple/device-management).
"""

import re
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

# A name may precede the number (`Tahoe 26`), except those of Apple's other systems (`iOS 26.2`).
_VERSION: Final = re.compile(
    r"(?!.*\b(?:i|ipad|watch|tv|vision|audio|bridge)os\b)(?:[a-z][a-z ]*\s+)?"
    r"(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?\s*(?:\(([a-z])\))?",
    re.IGNORECASE | re.ASCII,
)
_BUILD: Final = re.compile(r"(\d{1,3})([A-Z])(\d{1,7})([a-z]?)", re.ASCII)

# Background security improvements (rapid security responses before macOS 26) use build numbers of
# six or more digits; betas use four digits. Both end in a lower-case letter.
_SMALLEST_SUPPLEMENTAL_NUMBER: Final = 100_000
_SEEDS: Final = 5  # the thousands of the number
_LONGEST_VERSION_TEXT: Final = 64
# macOS 26 is 16 to programs built with an older SDK, with the same minor version and patch.
_COMPATIBLE_MAJOR: Final = 16
_REAL_MAJOR: Final = 26


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
        """The line of the version: `26`, `15`; `10.15` before macOS 11."""
        return f"10.{self.minor}" if self.major == 10 else str(self.major)

    @property
    def release(self) -> "OSVersion":
        """The version without its supplement: 26.3.1 for 26.3.1 (a)."""
        return self._replace(supplement="") if self.supplement else self

    @lru_cache(maxsize=4096)  # noqa: B019 - the cache holds values, and there are few versions
    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}"
        if self.patch:
            text += f".{self.patch}"
        return f"{text} ({self.supplement})" if self.supplement else text


class Build(NamedTuple):
    """A macOS build such as `25C56`: train (Darwin major), letter, number, suffix.

    Ordered by train, letter, betas before releases, number, suffix. Within one letter this is
    Apple's order only for builds of one branch: numbers from 2000 up mark a branch for some
    hardware (26.0.1 is both 25A362 and 25A8364). `reaches` therefore compares versions first.
    """

    train: int
    letter: str
    released: bool
    number: int
    suffix: str = ""

    @property
    def is_beta(self) -> bool:
        """True if this is a beta: a letter after fewer than six digits, or 5xxx (25A5279m)."""
        return not self.released

    @property
    def branch(self) -> int:
        """The thousands of the number: 0 for 25A362, 8 for 25A8364.

        Builds of one line for the same hardware share it.
        """
        return self.number // 1000

    @lru_cache(maxsize=8192)  # noqa: B019 - as in OSVersion
    def __str__(self) -> str:
        return f"{self.train}{self.letter}{self.number}{self.suffix}"


@lru_cache(maxsize=4096)
def parse_os_version(text: str) -> OSVersion:
    """Return the version in a text such as `26.2`, `26`, `macOS 26.3.1 (a)` or `Tahoe 26`.

    A missing minor version or patch is 0. Words before the number are ignored (`Windows 11` gives
    11.0), but another Apple system's name (`iOS 26.2`) raises ValueError. So do a major version
    below 10 and any other text.
    """
    match = _VERSION.fullmatch(text.strip()) if len(text) <= _LONGEST_VERSION_TEXT else None
    if match is None:
        raise ValueError("not a macOS version")
    major, minor, patch, supplement = match.groups()
    if int(major) < 10:
        raise ValueError("not a macOS version: its major is below 10")
    return OSVersion(int(major), int(minor or 0), int(patch or 0), (supplement or "").lower())


@lru_cache(maxsize=8192)
def parse_build(text: str) -> Build:
    """Return the build in a text such as `25C56`, `25A5279m` or `25D771280a`.

    A lower-case letter after fewer than six digits marks a beta, as does a number from 5000 to 5999
    without one: feeds have given a seed's number for a release (github.com/macadmins/sofa, pull
    request 328), and no release has such a number. Raises ValueError for other text.
    """
    match = _BUILD.fullmatch(text.strip()) if len(text) <= _LONGEST_VERSION_TEXT else None
    if match is None:
        raise ValueError("not a macOS build")
    train, letter, digits, suffix = match.groups()
    number = int(digits)
    beta = (bool(suffix) and number < _SMALLEST_SUPPLEMENTAL_NUMBER) or number // 1000 == _SEEDS
    return Build(int(train), letter, not beta, number, suffix)


def train_of(version: OSVersion) -> int | None:
    """Return the build train of a version: 25 for 26.x, 24 for 15.x, 20 for 11.x, 19 for 10.15.

    None for a version that does not exist: 16 to 25, and 10.16, which macOS gives programs built
    with an older SDK in place of 26 and 11 (github.com/osquery/osquery, issue 6840).
    From macOS 26 on the train is the major version minus one; 11 to 15 are trains 20 to 24.
    """
    if version.major >= 26:
        return version.major - 1
    if 11 <= version.major <= 15:
        return version.major + 9
    if version.major == 10 and version.minor <= 15:
        return version.minor + 4
    return None


@lru_cache(maxsize=8192)
def version_with_build(version: OSVersion, build: Build | None) -> OSVersion | None:
    """Return the version of a system of which both were reported; None if it cannot be known.

    The build decides, because it has no compatible form: 16.x with a build of macOS 26 is 26.x. A
    version that does not exist, and one of another train than the build, give None.
    """
    train = None if build is None else build.train
    if version.major == _COMPATIBLE_MAJOR and train == _REAL_MAJOR - 1:
        version = version._replace(major=_REAL_MAJOR)
    own = train_of(version)
    return version if own is not None and train in (None, own) else None


def running_system(
    version: OSVersion | None, build: Build | None, letter: str | None, letter_build: Build | None
) -> tuple[OSVersion | None, Build | None]:
    """Return the version and build that a Mac runs: its release with the supplement on top of it.

    `version` and `build` are those of the release. `letter` is the supplement's letter and
    `letter_build` its build. Without a letter the result is (`version`, `build`). With one it is
    `version` with that letter, None if `version` is None, and `letter_build`, or `build` if that is
    None.

    Apple reports a background security improvement beside the release, as
    `SupplementalOSVersionExtra` and `SupplementalBuildVersion`. Without a supplement the second
    field repeats the build of the release (github.com/apple/device-management,
    mdm/commands/information.device.yaml).
    """
    if letter is None:
        return version, build
    if version is not None:
        version = version._replace(supplement=letter)
    return version, letter_build or build


def reaches(
    version: OSVersion | None, build: Build | None, target: OSVersion, wanted: Build | None
) -> bool:
    """Return True if a Mac with this version and build has the release `target`, or a later one.

    Versions are compared first, without supplements; an unknown one (None) gives False. At the same
    version:

    - A target with a supplement needs its letter or a later one, or exactly the build `wanted`.
    - Otherwise an unknown build on either side gives True.
    - A beta has the release only if `wanted` is a beta too, and not a later one.
    - A build of another branch or letter is the release for other hardware; else an earlier build
      than `wanted` is not the release.
    """
    if version is None or version.release < target.release:
        return False
    if version.release > target.release:
        return True
    if target.supplement:
        # Most sources report only the supplement's build, and a version without its letter.
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
