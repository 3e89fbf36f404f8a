"""Every Mac whose decision an event changes is among the affected ones."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.change import merge_changes
from schemas.envelope import Event
from schemas.jobs import Action
from tests.factories import (
    HOUR,
    NOW,
    POLICY_TEXT,
    RELEASES,
    halt_cleared,
    halted,
    policy_changed,
    release,
    reported,
)
from tests.strategies import MODELS, VERSIONS, advisory_events, controls, policy_texts, reports

_MANY = 20


def decisions(reconciler: Reconciler) -> dict[str, bytes]:
    return {
        udid: decide(reconciler.situation(udid, NOW))
        .model_dump_json(exclude={"gates", "evidence"})
        .encode()
        for udid in reconciler.fleet.macs()
    }


def fleet_of(rng: random.Random, text: str) -> Reconciler:
    """Return a fleet of all kinds of Macs; a third of them have a record by serial number only."""
    reconciler = Reconciler()
    reconciler.fold(policy_changed(text))
    for version in RELEASES:
        if rng.random() < 0.8:
            reconciler.fold(release(version))
    for number in range(_MANY):
        serial = f"C02{number:05d}"
        version = rng.choice(list(VERSIONS))
        model = rng.choice(list(MODELS))
        facts: dict[str, Any] = {
            "os_version": version,
            "build": VERSIONS[rng.choice(list(VERSIONS)) if rng.random() < 0.2 else version],
            "model": model,
            "device_id": rng.choice([MODELS[model], None]),
            "site": "london",
        }
        if rng.random() < 0.2:
            facts["loan_returned_at"] = NOW - timedelta(days=20)
        when = NOW - timedelta(hours=rng.randrange(1, 400))
        if rng.random() < 0.7:
            reconciler.fold(reported(f"UDID-{number}", when, serial=serial, **facts))
        else:
            reconciler.fold(reported(None, when, serial=serial, **facts))
            if rng.random() < 0.5:
                reconciler.fold(reported(f"UDID-{number}", when, serial=serial))
    return reconciler


@given(
    st.randoms(use_true_random=False),
    policy_texts(),
    st.lists(advisory_events() | controls() | reports(), min_size=1, max_size=6),
)
def test_every_mac_whose_decision_changes_is_reconciled(
    rng: random.Random, text: str, events: list[Event]
) -> None:
    reconciler = fleet_of(rng, text)
    before = decisions(reconciler)
    for event in events:
        affected = set(reconciler.affected(reconciler.fold(event)))
        after = decisions(reconciler)
        changed = {udid for udid in after if before.get(udid) != after[udid]}
        assert changed <= affected
        # A Mac that was forgotten is decided once more, for its open job.
        forgotten = {udid for udid in affected if reconciler.fleet.is_forgotten(udid)}
        whole = affected - forgotten
        assert whole <= set(after), "a record that is part of a Mac was affected itself"
        before = after


@pytest.mark.parametrize("action", [Action.UPDATE, Action.UPGRADE, Action.REINSTALL])
def test_every_mac_that_a_halt_of_an_action_holds_is_reconciled(action: Action) -> None:
    """Drawn events seldom halt an action that a Mac needs: each of these fleets is halted."""
    held = 0
    for seed in range(8):
        reconciler = fleet_of(random.Random(seed), POLICY_TEXT + "upgrades: {to: '26'}\n")
        before = decisions(reconciler)
        for event in (
            halted(NOW - HOUR, site="london", action=action),
            halt_cleared(NOW - HOUR / 2, site="london", action=action),
        ):
            affected = set(reconciler.affected(reconciler.fold(event)))
            after = decisions(reconciler)
            changed = {udid for udid in after if before[udid] != after[udid]}
            assert changed <= affected
            held += len(changed)
            before = after
    assert held >= 8, "too few Macs need the action for the test to fail"


@given(
    st.randoms(use_true_random=False),
    policy_texts(),
    st.lists(advisory_events() | controls(), min_size=1, max_size=6),
)
def test_merged_changes_affect_the_macs_of_each_change(
    rng: random.Random, text: str, events: list[Event]
) -> None:
    reconciler = fleet_of(rng, text)
    changes = [reconciler.fold(event) for event in events]
    each = {udid for change in changes for udid in reconciler.affected(change)}
    assert set(reconciler.affected(merge_changes(changes))) == each
