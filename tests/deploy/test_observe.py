"""The rules with shorter times, and the verdicts of `make observe`."""

import pytest

from tests.observe.__main__ import RULES
from tests.observe.compressed_rules import compressed_rules
from tests.observe.incident import FAULTS, SLOW_FAULTS, Seen, verdicts

ALERTS = {
    rule["alert"]: rule
    for group in compressed_rules(RULES, 120)["groups"]
    for rule in group["rules"]
}


def test_windows_offsets_and_delays_are_divided() -> None:
    refused, falling = ALERTS["DrydockInputsRefused"], ALERTS["DrydockExploitedNotFalling"]
    assert "[7500ms]" in refused["expr"]
    assert refused["for"] == "2500ms"
    assert "offset 720000ms" in falling["expr"]
    assert "for" not in ALERTS["DrydockBug"]


def test_each_fault_names_an_alert_of_the_chart() -> None:
    assert {one.alert for one in (*FAULTS, *SLOW_FAULTS)} <= ALERTS.keys()


@pytest.mark.parametrize(
    ("seen", "left", "verdict"),
    [
        pytest.param(["DrydockNoInput"], [], "ok", id="fired and ended"),
        pytest.param([], [], "did not fire", id="did not fire"),
        pytest.param(["DrydockNoInput"], ["DrydockNoInput"], "did not end", id="did not end"),
    ],
)
def test_verdict_of_an_expected_alert(seen: list[str], left: list[str], verdict: str) -> None:
    faults = [one for one in FAULTS if one.alert == "DrydockNoInput"]
    found = verdicts(faults, Seen(dict.fromkeys(seen, 1.0)), set(left))
    assert found == {"DrydockNoInput": verdict}


def test_alert_that_no_fault_names_is_not_expected() -> None:
    assert verdicts([], Seen({"DrydockBug": 1.0}), set()) == {"DrydockBug": "not expected"}
