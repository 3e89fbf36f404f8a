import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.hardware import (
    MODEL_NAMES,
    HardwareClass,
    device_id_of_board,
    device_ids_of,
    hardware_class,
    model_name,
    supports_major,
)
from pipeline.state.hardware_table import MODELS, T2_BOARDS


@pytest.fixture(scope="module")
def rows(reference_data: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        (reference_data / "models" / "mac_models.json").read_text()
    )["models"]
    return listed


def _expected_class(row: dict[str, Any]) -> str:
    if row["arch"].endswith("_vm"):
        return "vm"
    if row["arch"] == "apple_silicon":
        return "apple_silicon"
    return {"T1": "t1", "T2": "t2", "none": "intel"}[row["security_chip"]]


def test_table_has_exactly_the_reference_models(rows: list[dict[str, Any]]) -> None:
    assert set(MODELS) == {row["model_identifier"] for row in rows}
    assert {row["model_identifier"]: row["marketing_name"] for row in rows} == MODEL_NAMES


def test_classes_equal_the_reference(rows: list[dict[str, Any]]) -> None:
    wrong = {
        row["model_identifier"]: found
        for row in rows
        if (found := hardware_class(row["model_identifier"], None, None)) != _expected_class(row)
    }
    assert not wrong


def test_last_major_is_the_lower_one_of_both_sources(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        ceiling = row["max_major_oclp"] or row["max_major_in_feed"]
        for major in (12, 13, 14, 15, 26):
            expected = major in row["os_majors_in_feed"] and major <= ceiling
            assert supports_major(row["model_identifier"], major) is expected, row


def test_device_ids_of_apple_silicon_equal_those_of_the_feed(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["arch"] == "apple_silicon":
            assert MODELS[row["model_identifier"]].device_id in row["device_ids_in_sofa_feed"]


def test_intel_device_ids_equal_those_of_opencore_not_of_the_feed(
    rows: list[dict[str, Any]],
) -> None:
    for row in rows:
        model_row = MODELS[row["model_identifier"]]
        if row["security_chip"] == "T2":
            assert model_row.device_id.lower() == row["t2_device_oclp"] + "ap"
            assert T2_BOARDS[row["board_id_oclp"]] == model_row.device_id
        elif row["arch"] == "intel":
            assert model_row.device_id == row["board_id_oclp"]


@pytest.mark.parametrize(
    "model", ["MacBookPro13,2", "MacBookPro13,3", "MacBookPro14,2", "MacBookPro14,3"]
)
def test_touch_bar_macs_of_2016_and_2017_have_a_t1(model: str) -> None:
    assert hardware_class(model, None, None) is HardwareClass.T1


def test_exactly_six_intel_models_run_26() -> None:
    intel = {HardwareClass.INTEL, HardwareClass.T1, HardwareClass.T2}
    newest = {
        m for m, facts in MODELS.items() if facts.hardware in intel and facts.last_major == 26
    }
    assert newest - {"MacPro7,1-Rack"} == {
        "MacBookPro16,1",
        "MacBookPro16,2",
        "MacBookPro16,4",
        "iMac20,1",
        "iMac20,2",
        "MacPro7,1",
    }


CLASSES = [
    pytest.param("Mac17,5", None, None, "apple_silicon", id="an-A18-Pro-is-Apple-silicon"),
    pytest.param("Mac18,1", None, None, "apple_silicon", id="a-future-Mac"),
    pytest.param("Mac123,45", None, None, "apple_silicon", id="a-far-future-Mac"),
    pytest.param("Mac14,4", None, None, "apple_silicon", id="a-gap-in-a-family-without-Intel"),
    pytest.param("MacBookPro18,5", None, None, "apple_silicon", id="newer-than-its-family"),
    pytest.param("MacBookPro16,5", None, None, "unknown", id="a-gap-in-a-family-with-Intel"),
    pytest.param("MacBookPro11,1", None, None, "intel", id="older-than-its-family"),
    pytest.param("iMac14,4", None, None, "intel", id="an-old-iMac"),
    pytest.param("Mac12,1", None, None, "unknown", id="no-such-Mac"),
    pytest.param("VirtualMac2,1", None, True, "vm", id="Apple-VM"),
    pytest.param("VirtualMac3,1", None, True, "vm", id="a-future-Apple-VM"),
    pytest.param("VMware7,1", None, False, "vm", id="VMware"),
    pytest.param("Parallels16,1", None, False, "vm", id="Parallels"),
    pytest.param("VMM-x86_64", None, None, "vm", id="Intel-VM"),
    pytest.param("iMac19,1", "VMM-x86_64", False, "vm", id="a-VM-that-claims-a-model"),
    pytest.param(None, "VMA2MACOSAP", None, "vm", id="VM-by-device-id"),
    pytest.param(None, "J613AP", None, "apple_silicon", id="Apple-silicon-by-device-id"),
    pytest.param(None, "j613ap", None, "apple_silicon", id="device-id-in-lower-case"),
    pytest.param(None, "J680AP", None, "t2", id="T2-by-device-id"),
    pytest.param(None, "Mac-937A206F2EE63C01", None, "t2", id="T2-by-board"),
    pytest.param(None, "Mac-551B86E5744E2388", None, "t1", id="T1-by-board"),
    pytest.param(None, "Mac-0123456789ABCDEF", None, "intel", id="some-other-board"),
    pytest.param(None, "J999AP", None, "unknown", id="unknown-device-id"),
    pytest.param(None, "J999AP", True, "apple_silicon", id="unknown-device-id-and-flag"),
    pytest.param(None, None, True, "apple_silicon", id="flag-alone"),
    pytest.param(None, None, False, "unknown", id="not-Apple-silicon-leaves-the-T2-unknown"),
    pytest.param("MacBookPro15,1", None, True, "t2", id="the-model-wins-over-the-flag"),
    pytest.param("MacBook Pro (16-inch, 2019)", None, None, "t2", id="marketing-name"),
    pytest.param(" Mac16,1 ", None, None, "apple_silicon", id="spaces-around"),
    pytest.param("", "", None, "unknown", id="empty"),
    pytest.param(None, None, None, "unknown", id="nothing-known"),
]


@pytest.mark.parametrize(("model", "device_id", "flag", "expected"), CLASSES)
def test_hardware_class_uses_the_first_source_that_knows_it(
    model: str | None, device_id: str | None, flag: bool | None, expected: str
) -> None:
    assert hardware_class(model, device_id, flag).value == expected


NAMES = [
    ("MacBook Pro (14-inch, 2021)", {"MacBookPro18,3", "MacBookPro18,4"}),
    ("14-inch MacBook Pro (2021)", {"MacBookPro18,3", "MacBookPro18,4"}),
    ("Apple MacBook Pro (16-inch, M1 Pro, 2021)", {"MacBookPro18,1"}),
    ("MacBook Pro (16-inch, M3 Max, Nov 2023)", {"Mac15,9", "Mac15,11"}),
    ("MacBook Pro (13-inch, 2019, Four Thunderbolt 3 ports)", {"MacBookPro15,2"}),
    ("MacBook Pro (13-inch, 2020)", {"MacBookPro16,2", "MacBookPro16,3", "MacBookPro17,1"}),
    ("MacBook Air (M2, 2022)", {"Mac14,2"}),
    ("MacBook Air (13-inch, M2, 2022)", {"Mac14,2"}),
    ("MacBook Air (13-inch, 2017)", {"MacBookAir7,2"}),
    ("MacBook Air (13-inch, 2020)", {"MacBookAir9,1", "MacBookAir10,1"}),
    ("MacBook Neo (2026)", {"Mac17,5"}),
    ("Mac mini (2024)", {"Mac16,10", "Mac16,11"}),
    ("Mac mini (Late 2018)", {"Macmini8,1"}),
    ("Mac Studio (2022)", {"Mac13,1", "Mac13,2"}),
    ("Mac Pro (2023)", {"Mac14,8"}),
    ("iMac Pro (2017)", {"iMacPro1,1"}),
    ("iMac (24-inch, M1, 2021)", {"iMac21,1", "iMac21,2"}),
    ("iMac (24-inch, M3, 2023, 2 ports)", {"Mac15,4"}),
    ("MacBook Pro (13-inch, A18 Pro, 2026)", set()),
    ("MacBook Pro (14-inch, 2031)", set()),
    ("MacBook Pro", set()),
    ("iPad Pro (11-inch, 2021)", set()),
]


@pytest.mark.parametrize(("name", "models"), NAMES)
def test_marketing_name_has_the_ids_of_the_models_of_which_it_is_true(
    name: str, models: set[str]
) -> None:
    board = any(MODELS[model].device_id.startswith("Mac-") for model in models)
    ids = set() if board else {MODELS[model].device_id for model in models}
    assert set(device_ids_of(name)) == ids
    kinds = {MODELS[model].hardware for model in models}
    assert hardware_class(name, None, None) in (kinds if len(kinds) == 1 else {"unknown"})


def test_board_of_a_t2_mac_gives_the_id_that_releases_list() -> None:
    assert device_id_of_board("Mac-E1008331FDC96864") == "J152FAP"
    assert device_id_of_board("Mac-551B86E5744E2388") is None


MAJORS = [
    pytest.param("MacBookPro13,1", 12, True, id="sources-disagree-lower"),
    pytest.param("MacBookPro13,1", 13, False, id="sources-disagree-higher"),
    pytest.param("iMac15,1", 12, False, id="feed-is-wrong"),
    pytest.param("iMac15,1", 11, True, id="its-real-last"),
    pytest.param("MacBookPro16,1", 26, True, id="last-for-Intel"),
    pytest.param("MacBookPro16,1", 27, False, id="27-is-not-for-Intel"),
    pytest.param("VMM-x86_64", 27, False, id="27-is-not-for-Intel-VMs"),
    pytest.param("Mac16,1", 27, None, id="27-on-Apple-silicon-is-not-in-the-table"),
    pytest.param("VirtualMac2,1", 27, None, id="27-in-a-VM"),
    pytest.param("Mac16,1", 14, False, id="before-the-model"),
    pytest.param("Macmini9,1", 11, None, id="before-the-feed"),
    pytest.param("Mac16,1", 20, False, id="no-such-macOS"),
    pytest.param("Mac18,1", 26, None, id="newer-than-the-table"),
    pytest.param("MacBookPro11,1", 12, False, id="older-than-the-table"),
    pytest.param("MacBookPro11,1", 11, None, id="older-than-the-table-and-the-feed"),
    pytest.param("VirtualMac1,1", 26, None, id="an-older-VM-is-not-an-older-Mac"),
    pytest.param("MacBook Pro (16-inch, 2019)", 26, True, id="marketing-name"),
    pytest.param("Mac mini (2024)", 14, False, id="name-of-two-models"),
    pytest.param("MacBook Pro (13-inch, 2020)", 15, True, id="models-of-a-name-agree"),
    pytest.param("MacBook Pro (13-inch, 2020)", 26, None, id="models-of-a-name-differ"),
    pytest.param("MacBook Pro (Retina, 15-inch, Mid 2014)", 12, False, id="old-name"),
    pytest.param("Mac mini (Late 2014)", 12, True, id="old-name-in-the-table"),
    pytest.param("iPad Air (2013)", 12, None, id="no-Mac"),
    pytest.param(None, 26, None, id="no-model"),
]


@pytest.mark.parametrize(("model", "major", "expected"), MAJORS)
def test_supported_majors_are_known_only_within_the_table(
    model: str | None, major: int, expected: bool | None
) -> None:
    assert supports_major(model, major) is expected


def test_unknown_model_identifier_is_its_own_name() -> None:
    assert model_name("Mac14,8") == "Mac Pro (Rack, 2023)"
    assert model_name("Mac99,1") == "Mac99,1"


@given(
    st.text() | st.sampled_from(sorted(MODELS)), st.text() | st.none(), st.none() | st.booleans()
)
def test_any_report_has_a_class(model: str, device_id: str | None, flag: bool | None) -> None:
    assert isinstance(hardware_class(model, device_id, flag), HardwareClass)
    assert supports_major(model, 26) in {True, False, None}
