"""One remediation that a Mac needs."""

from functools import lru_cache

import msgspec

from pipeline.state.advisories import Release
from schemas.decisions import Reason, Severity
from schemas.jobs import Action, Target
from schemas.macos import Build, OSVersion


class Need(msgspec.Struct, frozen=True):
    """One remediation that this Mac needs.

    `intent` is the same for every attempt. A `timed` need waits for maintenance windows and has a
    deadline. While an `exclusive` need is held, no later need is sent. `mdm_usable` is False if its
    job must not go through MDM. `severity` is the worst one that the target closes, `matures_us`
    the end of the target's deferral, None if it has none. `newer_matures_us` is when a newer
    release replaces the target; before `not_before_us` it is not certain that the need exists (all
    in us since 1970).
    `opens_us`: before it the policy does not want this upgrade, with any deadline. `due_us`: a
    deadline of its own, beside that of the Mac's exposure.
    `uncorroborated`: the fault that only inventory reports, as text; empty if there is none.
    `needs_person`: the reason for which only a person can do it, as text; empty if a job can.
    """

    action: Action
    reason: Reason
    intent: str
    target: Target | None = None
    release: Release | None = None
    erases: bool = False
    timed: bool = True
    exclusive: bool = False
    mdm_usable: bool = True
    evidence: tuple[str, ...] = ()
    severity: Severity = Severity.ROUTINE
    matures_us: int | None = None
    newer_matures_us: int | None = None
    not_before_us: int | None = None
    opens_us: int | None = None
    due_us: int | None = None
    needs_person: str = ""
    uncorroborated: str = ""


def target_of(release: Release) -> Target:
    """Return the version and build of a release as the target of a job."""
    return target(release.version, release.build)


@lru_cache(maxsize=4096)
def target(version: OSVersion, build: Build | None) -> Target:
    """Return a version and build as the target of a job; cached, because there are few."""
    return Target(version=version, build=build)


def intent_of(release: Release) -> str:
    """Return the intent of an update or upgrade to a release: its version as text.

    The build is no part of it: a feed can remove a build or add one later, and that must not start
    a new series of attempts.
    """
    return str(release.version)
