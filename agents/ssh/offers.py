"""The updates that Apple offers to a Mac, from `softwareupdate --list`. Pure.

A listing has minor updates, major upgrades and other software side by side, so one of them is
chosen by its build, never all. A listing without updates proves nothing: Apple's tool returns one
from time to time although there are updates (github.com/Macjutsu/super).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agents.ssh.update_output import plain_text
from schemas.jobs import Target
from schemas.macos import Build, OSVersion, parse_build, parse_os_version

_OFFER: Final = re.compile(r"^\* Label: (.+?)\s*$\s*^\s*(Title: .*)$", re.MULTILINE)
_FOUND: Final = "Software Update found"
_NOTHING: Final = "No new software available."
# Prefixes: Apple's texts after them vary.
_NO_SERVER: Final = ("Can't connect", "Couldn't communicate")


@dataclass(frozen=True, slots=True)
class Offer:
    """One update. `label` is its name for `softwareupdate --install`."""

    label: str
    version: OSVersion | None
    build: Build | None
    restarts: bool


class ListingState(StrEnum):
    """Kind of a listing."""

    OFFERS = "offers"  # it has at least one update
    NOTHING = "nothing"  # no update, which may be wrong for a moment
    NO_SERVER = "no_server"  # Apple's server did not respond
    UNREADABLE = "unreadable"  # none of these: cut off, or another format


@dataclass(frozen=True, slots=True)
class Listing:
    """The updates of one listing."""

    state: ListingState
    offers: tuple[Offer, ...] = ()


def parse_listing(text: str) -> Listing:
    """Return the listing in the output, standard output and standard error together."""
    text = plain_text(text)
    offers = tuple(_offer(label, fields) for label, fields in _OFFER.findall(text))
    if offers and _FOUND in text:
        return Listing(ListingState.OFFERS, offers)
    if any(prefix in text for prefix in _NO_SERVER):
        return Listing(ListingState.NO_SERVER)
    return Listing(ListingState.NOTHING if _NOTHING in text else ListingState.UNREADABLE)


def _offer(label: str, text: str) -> Offer:
    fields = dict(part.split(": ", 1) for part in text.split(", ") if ": " in part)
    try:
        version: OSVersion | None = parse_os_version(fields.get("Version", ""))
    except ValueError:
        version = None
    try:
        build: Build | None = parse_build(label.rpartition("-")[2])
    except ValueError:
        build = None
    return Offer(label, version, build, restarts=fields.get("Action", "").startswith("restart"))


def find_offer(listing: Listing, target: Target) -> Offer | None:
    """Return the one offer of exactly the target's release; None without it.

    With the target's build it is compared, else the version. None also if several offers fit: their
    builds are for different hardware, and the right one is unknown.
    """
    systems = [offer for offer in listing.offers if offer.build is not None]
    if target.build is not None:
        found = [offer for offer in systems if offer.build == target.build]
    else:
        found = [offer for offer in systems if offer.version == target.version]
    return found[0] if len(found) == 1 else None
