"""Two years of SOFA's feed, document by document, beside an independent reading of the JSON."""

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.feed_review import REFUSALS, FeedOutcome, review
from schemas.envelope import AdvisoryRetractedEvent
from schemas.events.advisory import AdvisorySnapshot
from schemas.feeds import FeedState
from tests.factories.sofa import RECEIVED_AT

CVE = re.compile(r"CVE-\d{4}-\d{4,}")
LETTER = re.compile(r"\(([a-z])\)\s*$|^RSR_([a-z])$")


def documents(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each document of an archive, in the order of publication."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda one: one.name):
            content = tar.extractfile(member)
            assert content is not None
            yield member.name, content.read()


@dataclass
class Read:
    """The security content of one release in the JSON, and whether it can be compared."""

    listed: set[str] = field(default_factory=set)
    exploited: set[str] = field(default_factory=set)


def reading(document: dict[str, Any]) -> dict[str, Read]:
    """Return the CVEs of each release of OSVersions by version and letter, as the JSON has them."""
    found: dict[str, Read] = defaultdict(Read)
    for line in document["OSVersions"]:
        for entry in [*(line.get("SecurityReleases") or []), line.get("Latest") or {}]:
            if "ProductVersion" not in entry:
                continue
            parts = [int(part) for part in entry["ProductVersion"].split(".")]
            version = ".".join(str(part) for part in (*parts, 0, 0)[:3])
            for text in (entry.get("ReleaseType"), entry.get("UpdateName")):
                letter = LETTER.search(text or "")
                if letter:
                    version += f" ({letter[1] or letter[2]})"
                    break
            cves = entry.get("CVEs") or {}
            flagged = {
                cve
                for cve, rating in cves.items()
                if rating is True
                or (
                    isinstance(rating, dict)
                    and True in (rating.get("ActivelyExploited"), rating.get("InKEV"))
                )
            }
            exploited = {
                cve
                for cve in {*flagged, *(entry.get("ActivelyExploitedCVEs") or [])}
                if CVE.fullmatch(cve)
            }
            found[version].listed |= {cve for cve in cves if CVE.fullmatch(cve)} | exploited
            found[version].exploited |= exploited
    return found


def key(snapshot: Any) -> str:
    """Return the version of a snapshot in the form of `reading`."""
    version = snapshot.os_version
    letter = f" ({version.supplement})" if version.supplement else ""
    return f"{version.major}.{version.minor}.{version.patch}{letter}"


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_each_document_leaves_the_content_of_its_json(reference_data: Path, form: str) -> None:
    """A CVE stays exploited as long as it is listed; an empty list changes nothing."""
    state, known = FeedState(source="sofa"), dict[str, Read]()
    reported, times = dict[str, Read](), list[Any]()
    count, refused = 0, list[str]()
    for name, raw in documents(reference_data / "sofa" / "history" / f"{form}.tar.xz"):
        judged = review(raw, state, origin=name, now=RECEIVED_AT)
        assert judged.outcome is not FeedOutcome.UNREADABLE
        if judged.outcome in REFUSALS:
            refused.append(name[:10])
            continue
        count += 1
        state = judged.state
        for event in judged.events:
            if isinstance(event, AdvisoryRetractedEvent):
                reported.pop(key(event.data), None)
            elif isinstance(event.data, AdvisorySnapshot):
                reported[key(event.data)] = Read(
                    set(event.data.cves), set(event.data.exploited_cves)
                )
        if judged.events:
            at = {event.time for event in judged.events}
            assert len(at) == 1, "one document has one time"
            times.append(at.pop())
        held = {key(one): Read(set(one.cves), set(one.exploited_cves)) for one in state.snapshots}
        for version, read in reading(json.loads(raw)).items():
            old = known.get(version, Read())
            listed = read.listed or old.listed
            known[version] = Read(listed, read.exploited | (old.exploited & listed))
            assert held[version] == known[version], (name, version)
        for version, snapshot in held.items():
            assert reported[version] == snapshot, (name, version)
        for version in known.keys() - held.keys():
            del known[version]
    assert count > 150
    assert len(refused) < 8, refused
    assert times == sorted(set(times)), "a later document has a later time"
