"""Commands: their ids, their content, and which of them may be delivered twice."""

import plistlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.mdm.commands import (
    EFFECTS,
    RequestType,
    UnsupportedCommandError,
    command_uuid,
    declarative_management,
    device_information,
    erase_device,
    install_profile,
    may_be_ours,
    schedule_os_update,
    security_info,
)
from schemas.macos import OSVersion

ORDER = "job-0123456789abcdef0123456789abcdef/1/declare"
SAFE = {
    RequestType.DEVICE_INFORMATION,
    RequestType.SECURITY_INFO,
    RequestType.PROFILE_LIST,
    RequestType.CERTIFICATE_LIST,
    RequestType.DECLARATIVE_MANAGEMENT,
}


def test_every_command_has_its_effects_and_only_queries_and_syncs_may_be_repeated() -> None:
    assert {*EFFECTS} == {*RequestType}
    assert {kind for kind, effects in EFFECTS.items() if effects.safe_to_repeat} == SAFE


def test_uuid_of_an_order_never_changes() -> None:
    assert command_uuid(ORDER) == command_uuid(ORDER, 0)
    assert command_uuid(ORDER) != command_uuid(ORDER, 1)


@given(st.text(), st.integers(0, 50), st.text(), st.integers(0, 50))
def test_uuids_of_two_orders_differ(a: str, m: int, b: str, n: int) -> None:
    assert (command_uuid(f"j{a}/1/x", m) == command_uuid(f"j{b}/1/x", n)) == ((a, m) == (b, n))


@pytest.mark.parametrize(
    ("uuid", "ours"),
    [
        pytest.param(command_uuid(ORDER), True, id="ours"),
        pytest.param(command_uuid(ORDER).lower(), True, id="in lower case"),
        pytest.param("8f0b0b1e-3c7c-4d6b-9a6e-2f6f1d2a3b4c", False, id="random"),
        pytest.param("job-1", False, id="no UUID"),
    ],
)
def test_uuid_of_another_program_is_recognized(uuid: str, ours: bool) -> None:
    assert may_be_ours(uuid) is ours


COMMANDS = [
    pytest.param(device_information(ORDER), {"Queries"}, id="query"),
    pytest.param(security_info(ORDER), set(), id="security"),
    pytest.param(declarative_management(ORDER), set(), id="sync"),
    pytest.param(install_profile(ORDER, b"<plist/>"), {"Payload"}, id="profile"),
    pytest.param(erase_device(ORDER, None), {"ObliterationBehavior"}, id="erase"),
    pytest.param(erase_device(ORDER, "123456"), {"ObliterationBehavior", "PIN"}, id="with PIN"),
    pytest.param(schedule_os_update(ORDER, OSVersion(13, 7, 8), None), {"Updates"}, id="update"),
]


@pytest.mark.parametrize(("command", "keys"), COMMANDS)
def test_command_is_a_property_list_with_its_type_and_uuid(command: object, keys: set[str]) -> None:
    content = plistlib.loads(command.plist)  # type: ignore[attr-defined]
    assert content["CommandUUID"] == command_uuid(ORDER)
    assert {*content["Command"]} == {"RequestType"} | keys


def test_erase_never_falls_back_to_obliteration() -> None:
    for pin in (None, "123456"):
        content = plistlib.loads(erase_device(ORDER, pin).plist)
        assert content["Command"]["ObliterationBehavior"] == "DoNotObliterate"


@pytest.mark.parametrize(
    "running", [OSVersion(12), OSVersion(12, 7, 6), OSVersion(13, 7, 8), None], ids=str
)
def test_update_names_the_version(running: OSVersion | None) -> None:
    content = plistlib.loads(schedule_os_update(ORDER, OSVersion(13, 7, 8), running).plist)
    update = {"InstallAction": "InstallASAP", "ProductVersion": "13.7.8"}
    assert content["Command"]["Updates"] == [update]


@pytest.mark.parametrize("running", [OSVersion(11, 7, 10), OSVersion(14), OSVersion(27)], ids=str)
def test_update_command_is_refused_outside_macos_12_and_13(running: OSVersion) -> None:
    with pytest.raises(UnsupportedCommandError):
        schedule_os_update(ORDER, OSVersion(26, 2), running)
