"""The events of a feed document are folded as one, and each affected Mac is decided once."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.reconcile.changes import Changes
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.fleet import Fleet
from schemas.decisions import DecisionRecord
from schemas.envelope import Event
from tests import factories as make
from tests.reconcile_loop import UNLIMITED, accept, inputs, new_reconciler, values

OTHER = make.UDID[:-1] + "2"
DOCUMENT = (
    make.release("26.2"),
    make.release("26.1"),
    make.release("15.7.3"),
    make.kev(make.cve_of("26.2")),
)


def started() -> Reconciler:
    """Return a reconciler with a policy and two Macs, on 26.1 and 15.7.2, and no release."""
    reconciler = new_reconciler()
    macs = (
        make.full_report("26.1"),
        make.full_report("15.7.2", udid=OTHER, serial="C02OTHER0001"),
    )
    for event in (make.policy_changed(), *macs):
        accept(reconciler, event, make.NOW)
    return reconciler


def give(reconciler: Reconciler, events: Sequence[Event]) -> Changes:
    changes = reconciler.apply(inputs(*events), make.NOW)
    return reconciler.decide_marked(make.NOW, UNLIMITED, changes)


def outcome(reconciler: Reconciler) -> tuple[Any, ...]:
    return reconciler.fleet.advisories.digest, dict(reconciler.last_decisions)


def test_document_gives_what_its_events_give_one_by_one() -> None:
    whole, single = started(), started()
    give(whole, DOCUMENT)
    for event in DOCUMENT:
        single.apply(inputs(event), make.NOW)
    single.decide_marked(make.NOW, UNLIMITED)
    assert outcome(whole) == outcome(single)


def test_each_mac_is_decided_once_for_a_document() -> None:
    found = values(give(started(), DOCUMENT))
    decisions = Counter(
        (one.decision.udid, one.decision.decision.value)
        for one in found
        if isinstance(one, DecisionRecord)
    )
    assert set(decisions.values()) == {1}
    assert {udid for udid, _ in decisions} == {make.UDID, OTHER}


def test_document_beside_a_report_is_folded_with_it() -> None:
    reconciler = started()
    changes = give(reconciler, (make.full_report("26.2", when=make.NOW), *DOCUMENT))
    assert len(changes.inputs) == len(DOCUMENT) + 1
    assert reconciler.last_decisions[make.UDID].reason.value != "security_update"


def test_events_are_folded_alone_if_the_document_meets_a_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, broken = started(), started()
    give(whole, DOCUMENT)
    change, calls = Fleet.advisory_change, Counter[str]()

    def fails_once(fleet: Fleet, before: Any) -> Any:
        calls["all"] += 1
        if calls["all"] == 1:
            raise KeyError("bug")
        return change(fleet, before)

    monkeypatch.setattr(Fleet, "advisory_change", fails_once)
    changes = give(broken, DOCUMENT)
    assert not changes.rejections
    assert outcome(broken) == outcome(whole)
