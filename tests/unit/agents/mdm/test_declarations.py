"""The declarations of an order, and the reading of what a Mac reports about them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.mdm.declarations import (
    STATUS_ITEMS,
    UndeclarableError,
    enforcement,
    is_ours,
    set_name,
)
from agents.mdm.status_report import read_declarations, read_status
from schemas.jobs import Target
from schemas.macos import parse_build, parse_os_version

ORDER = "job-0123456789abcdef0123456789abcdef/1/declare"
NAME = "drydock-job-0123456789abcdef0123456789abcdef-1-declare"
AT = datetime(2026, 12, 1, 18, tzinfo=UTC)
TOKYO = ZoneInfo("Asia/Tokyo")


def target(version: str, build: str | None = None) -> Target:
    return Target(
        version=parse_os_version(version), build=None if build is None else parse_build(build)
    )


def payloads(wanted: Target, zone: Any = UTC, at: datetime = AT) -> dict[str, dict[str, Any]]:
    declared = enforcement(ORDER, wanted, at, zone)
    return {one.identifier.removeprefix(f"{NAME}-"): one.payload for one in declared.declarations}


def test_names_have_the_prefix_of_drydock_and_no_dots() -> None:
    declared = enforcement(ORDER, target("26.2.1"), AT, UTC)
    assert declared.name == set_name(ORDER) == NAME
    for one in declared.declarations:
        assert is_ours(one.identifier)
        assert not set(one.identifier) & set("./ ")


def test_release_is_declared_without_its_build_and_activated() -> None:
    found = payloads(target("26.2.1", "25C2201"))
    assert found == {
        "os": {"TargetOSVersion": "26.2.1", "TargetLocalDateTime": "2026-12-01T18:00:00"},
        "status": {"StatusItems": [{"Name": item} for item in STATUS_ITEMS]},
        "activation": {"StandardConfigurations": [f"{NAME}-os", f"{NAME}-status"]},
    }


def test_supplement_is_declared_after_its_release_with_its_build() -> None:
    found = payloads(target("26.3.1 (a)", "25D771280a"))
    assert [*found] == ["os", "supplement", "status", "activation"]
    assert found["os"]["TargetOSVersion"] == found["supplement"]["TargetOSVersion"] == "26.3.1"
    assert "TargetBuildVersion" not in found["os"]
    assert found["supplement"]["TargetBuildVersion"] == "25D771280a"
    assert found["activation"]["StandardConfigurations"][:2] == [f"{NAME}-os", f"{NAME}-supplement"]


def test_supplement_without_a_build_cannot_be_declared() -> None:
    with pytest.raises(UndeclarableError, match="build"):
        enforcement(ORDER, target("26.3.1 (a)"), AT, UTC)


@pytest.mark.parametrize(
    ("zone", "at", "local"),
    [
        pytest.param(TOKYO, AT, "2026-12-02T03:00:00", id="ahead of UTC"),
        pytest.param(ZoneInfo("America/New_York"), AT, "2026-12-01T13:00:00", id="behind UTC"),
        pytest.param(
            ZoneInfo("Europe/Berlin"),
            datetime(2026, 7, 1, 18, tzinfo=UTC),
            "2026-07-01T20:00:00",
            id="summer",
        ),
        pytest.param(
            UTC,
            AT.astimezone(TOKYO) + timedelta(microseconds=7),
            "2026-12-01T18:00:00",
            id="fraction",
        ),
    ],
)
def test_time_is_local_to_the_mac(zone: Any, at: datetime, local: str) -> None:
    assert payloads(target("26.2"), zone, at)["os"]["TargetLocalDateTime"] == local


@pytest.mark.parametrize(
    "name", ["org.example.update", "zentral.blueprint.1.activation", "", "dry"]
)
def test_names_of_other_programs_are_not_ours(name: str) -> None:
    assert not is_ours(name)


@pytest.mark.parametrize(
    ("extra", "build", "version", "expected"),
    [
        pytest.param("(a)", "25D771280a", "26.3.1 (a)", "25D771280a", id="supplement"),
        pytest.param("", "25D2128", "26.3.1", "25D2128", id="none"),
        pytest.param("?", "25D771280a", "26.3.1", "25D2128", id="invalid letter"),
    ],
)
def test_status_report_names_the_supplement(
    extra: str, build: str, version: str, expected: str
) -> None:
    supplemental = {"extra-version": extra, "build-version": build}
    system = {"version": "26.3.1", "build-version": "25D2128", "supplemental": supplemental}
    report = {"StatusItems": {"device": {"operating-system": system}}}
    status = read_status(report, "MAC-1")
    assert status is not None
    assert (str(status.os_version), str(status.build)) == (version, expected)


def test_invalid_field_of_a_report_is_unknown_and_the_rest_is_read() -> None:
    update = {"install-state": "prepared", "failure-reason": {"count": "x", "timestamp": "never"}}
    status = read_status({"StatusItems": {"softwareupdate": update}}, "MAC-1")
    assert status is not None
    assert (status.install_state, status.failure_count, status.failure_at) == (
        "prepared",
        None,
        None,
    )


def test_rejected_declaration_has_the_reason_of_the_mac() -> None:
    reason = {"code": "Error.ConfigurationCannotBeApplied", "description": "no such update"}
    listed = [
        {"identifier": f"{NAME}-os", "active": False, "valid": "invalid", "reasons": [reason]},
        {"active": True},
        "no declaration",
    ]
    report = {"StatusItems": {"management": {"declarations": {"configurations": listed}}}}
    found = read_declarations(report)
    assert found is not None
    assert {*found} == {f"{NAME}-os"}
    assert found[f"{NAME}-os"].reasons == "Error.ConfigurationCannotBeApplied no such update"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "StatusItems": st.dictionaries(
                st.sampled_from(["device", "softwareupdate", "management"]),
                st.dictionaries(
                    st.sampled_from(["operating-system", "install-state", "declarations"]), JSON
                ),
            )
        }
    )
)
def test_any_report_can_be_read(report: Any) -> None:
    read_status(report, "MAC-1")
    read_declarations(report)
