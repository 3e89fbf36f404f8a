"""An operator takes an invented statement back, whatever its source repeats (A2, A9, A10)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.target import Target, release, report, target
from tests.security.test_signed_control import drydock

SENDERS = "senders:\n  - {name: mirror, kind: advisories, secrets: [file:%s]}\n"
MIRROR = "the-secret-of-the-mirror"
INVENTED = "CVE-2026-66666"


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Target]:
    """A service with a Mac that has 26.2, and a mirror that states an exploited 26.3."""
    (tmp_path / "mirror").write_text(MIRROR)
    (tmp_path / "senders.yaml").write_text(SENDERS % (tmp_path / "mirror"))
    with target(tmp_path, "--senders", str(tmp_path / "senders.yaml")) as found:
        found.accept(release(), "sofa")
        found.accept(report("MAC-1", os_version="26.2", build="25C56"))
        mirrored(found)
        yield found


def mirrored(at: Target, **data: Any) -> None:
    forged = {"source": "other", "os_version": "26.3", "builds": [], "exploited_cves": [INVENTED]}
    event = release(**{**forged, **data})
    response = at.post("/v1/events", event, None, **{"X-Drydock-Secret": MIRROR})
    assert response.status_code == 200, response.text


def advisories(at: Target, *arguments: str, why: str = "invented") -> list[str]:
    """Run `drydock advisories`; return the scopes that it changed."""
    where = ("--data-dir", str(at.data_dir), "--by", "ada", "--why", why, "--json")
    done = drydock("advisories", *arguments, *where)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout).values()
    return list(found)


def exploited(at: Target) -> bool:
    at.accept(report("MAC-1", os_version="26.2", build="25C56"))
    return INVENTED in at.decision("MAC-1")["cves"]


def test_struck_statement_stays_without_effect_until_it_is_restored(at: Target) -> None:
    assert exploited(at)
    assert advisories(at, "strike", "26.3") == ["macOS-26.3 other"]
    assert not exploited(at)
    mirrored(at)
    assert not exploited(at)
    (strike,) = at.status()["strikes"]
    assert (strike["by"], strike["why"], strike["has_effect"]) == ("ada", "invented", "yes")
    shown = drydock("status", "--data-dir", str(at.data_dir)).stdout
    assert "struck: macOS-26.3 other by ada" in shown
    explained = drydock("explain", "MAC-1", "--data-dir", str(at.data_dir)).stdout
    assert "struck macOS-26.3 other by ada: invented" in explained
    assert advisories(at, "restore", "macos-26.3") == ["macOS-26.3 other"]
    assert exploited(at)
    assert at.status()["strikes"] == []
    verified = drydock("replay", "--verify", "--data-dir", str(at.data_dir))
    assert verified.returncode == 0, verified.stdout


def test_statement_with_other_content_counts_again(at: Target) -> None:
    assert advisories(at, "strike", "--source", "other") == ["macOS-26.3 other"]
    mirrored(at, severity="low")
    assert exploited(at)
    (strike,) = at.status()["strikes"]
    assert strike["has_effect"] == "no"


def test_one_value_is_struck_and_the_rest_counts(at: Target) -> None:
    part = ("--field", "exploited_cves", "--value", INVENTED)
    found = advisories(at, "strike", "macOS-26.3", *part)
    assert found == [f"macOS-26.3 other exploited_cves {INVENTED}"]
    assert not exploited(at)
    assert "CVE-2025-14174" in at.decision("MAC-1")["cves"]


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing named": (("strike",), "name an advisory, a source, or both"),
    "unknown advisory": (("strike", "26.4"), "no release has the advisory"),
    "no statement of it": (("strike", "26.3", "--source", "sofa"), "no source states that"),
    "value without a field": (("strike", "26.3", "--value", "x"), "a value belongs to a field"),
    "unknown field": (("strike", "26.3", "--field", "os_version"), "field"),
    "nothing struck": (("restore", "26.3"), "nothing of that is struck"),
}


def test_act_that_names_nothing_is_refused_and_changes_nothing(at: Target) -> None:
    for arguments, error in REFUSED.values():
        where = ("--data-dir", str(at.data_dir), "--by", "ada", "--why", "drill")
        done = drydock("advisories", *arguments, *where)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert error in done.stderr
        assert "Traceback" not in done.stderr
    assert at.status()["strikes"] == []
    assert exploited(at)


def test_strike_does_not_come_in_as_an_event_of_a_sender(at: Target) -> None:
    strikes = [{"advisory_id": "macOS-26.2", "source": "sofa", "sha256": "0" * 64}]
    event = release() | {
        "type": "drydock.strike.set.v1",
        "subject": "strikes",
        "data": {"strikes": strikes, "by": "attacker", "why": "x"},
    }
    for sender in ("events", "sofa", "admin"):
        assert at.event(event, sender).status_code == 400
    assert at.status()["strikes"] == []
