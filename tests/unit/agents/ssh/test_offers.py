"""Listings of updates: the one release of the target is chosen, or none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ssh.offers import ListingState, Offer, find_offer, parse_listing
from schemas.jobs import Target
from schemas.macos import OSVersion, parse_build, parse_os_version
from tests.unit.agents.ssh.cli_samples import samples

HEAD = "Software Update Tool\n\nFinding available software\n"
FOUND = HEAD + "Software Update found the following new or updated software:\n"


def offer(label: str, version: str, action: str = " Action: restart,") -> str:
    title = label.rpartition("-")[0]
    return (
        f"* Label: {label}\n\tTitle: {title}, Version: {version}, Size: 3039632KiB,"
        f" Recommended: YES,{action} \n"
    )


MINOR = offer("macOS Tahoe 26.7-25G229", "26.7")
MAJOR = offer("macOS 27-26A428", "27")
SAFARI = offer("Safari27.0TahoeAuto-27.0", "27.0", action="")


def target(version: str, build: str | None = None) -> Target:
    parsed = None if build is None else parse_build(build)
    return Target(version=parse_os_version(version), build=parsed)


STATES = {
    "updates": (FOUND + MINOR, ListingState.OFFERS),
    "none": (HEAD + "No new software available.\n", ListingState.NOTHING),
    "none, without the head": ("No new software available.", ListingState.NOTHING),
    "curly apostrophe": (
        HEAD + "Can\u2019t connect to the Apple Software Update server",
        ListingState.NO_SERVER,
    ),
    "plain apostrophe": ("Couldn't communicate with a helper", ListingState.NO_SERVER),
    "cut off": (HEAD, ListingState.UNREADABLE),
    "empty": ("", ListingState.UNREADABLE),
}


@pytest.mark.parametrize(("text", "state"), STATES.values(), ids=STATES)
def test_listing_has_its_kind(text: str, state: ListingState) -> None:
    assert parse_listing(text).state is state


CHOICES = {
    "minor beside major": (MAJOR + MINOR, target("26.7", "25G229"), "macOS Tahoe 26.7-25G229"),
    "major beside minor": (MINOR + MAJOR, target("27.0", "26A428"), "macOS 27-26A428"),
    "version only": (MINOR + MAJOR, target("26.7"), "macOS Tahoe 26.7-25G229"),
    "two-part version": (MINOR + MAJOR, target("27.0.0"), "macOS 27-26A428"),
    "another build of the version": (MINOR, target("26.7", "25G230"), None),
    "another software of the version": (SAFARI, target("27.0"), None),
    "older release is not offered": (MINOR, target("26.6.2", "25G83"), None),
    "two builds of the version": (
        MINOR + offer("macOS Tahoe 26.7-25G231", "26.7"),
        target("26.7"),
        None,
    ),
}


@pytest.mark.parametrize(("offers", "wanted", "label"), CHOICES.values(), ids=CHOICES)
def test_offer_of_the_target_is_found(offers: str, wanted: Target, label: str | None) -> None:
    found = find_offer(parse_listing(FOUND + offers), wanted)
    assert (None if found is None else found.label) == label


def test_listings_of_real_macs_are_read(reference_data: Path) -> None:
    both, minor, nothing = samples(reference_data)["softwareupdate --list"]
    assert [one.label for one in parse_listing(both).offers] == [
        "Safari27.0TahoeAuto-27.0",
        "macOS Tahoe 26.7-25G229",
        "macOS 27-26A428",
    ]
    assert find_offer(parse_listing(minor), target("26.5.1")) == Offer(
        "macOS Tahoe 26.5.1-25F80", OSVersion(26, 5, 1), parse_build("25F80"), restarts=True
    )
    assert parse_listing(nothing).state is ListingState.NOTHING
    (no_server,) = samples(reference_data)["softwareupdate --list (server unreachable)"]
    assert parse_listing(no_server).state is ListingState.NO_SERVER


@given(st.text(alphabet="* Label:\tTitle,Version26.7-25G\n\r\u2019'"))
def test_any_text_is_a_listing(text: str) -> None:
    listing = parse_listing(text)
    assert (listing.state is ListingState.OFFERS) <= bool(listing.offers)


@given(st.integers(0, len(FOUND + MINOR + MAJOR)))
def test_listing_that_is_cut_off_has_no_wrong_offer(length: int) -> None:
    whole = parse_listing(FOUND + MINOR + MAJOR).offers
    for found in parse_listing((FOUND + MINOR + MAJOR)[:length]).offers:
        assert found.label in {one.label for one in whole}
