"""Scopes of senders: the sources, fields, event types and Macs that each login may state."""

from typing import get_args

import pytest

from pipeline.ingest.sources import DEVICE_SOURCES
from pipeline.trust.senders import (
    ENROLLMENT_FIELDS,
    MDM_KINDS,
    SCOPES,
    default_sender,
    event_types,
    restricted,
)
from schemas.envelope import CheckedOutEvent, InventoryEvent
from schemas.events.inventory import InventoryReported, InventorySource

INVENTORY = InventoryEvent.model_fields["type"].default
CHECKED_OUT = CheckedOutEvent.model_fields["type"].default


@pytest.mark.parametrize("kind", sorted(MDM_KINDS))
def test_mdm_server_reports_as_each_source_but_drydock_and_an_operator(kind: str) -> None:
    assert SCOPES[kind].sources == set(get_args(InventorySource)) - {"executor", "admin"}
    assert SCOPES[kind].fields[InventoryReported] >= ENROLLMENT_FIELDS


@pytest.mark.parametrize(
    "kind", [*sorted({source.name for source in DEVICE_SOURCES} - MDM_KINDS), "events"]
)
def test_other_reports_of_macs_state_no_enrollment(kind: str) -> None:
    assert {"executor", "admin", "mdm"}.isdisjoint(SCOPES[kind].sources)
    for fields in SCOPES[kind].fields.values():
        assert ENROLLMENT_FIELDS.isdisjoint(fields)


def test_restricted_scope_has_only_the_named_types_and_macs() -> None:
    whole = SCOPES["nanomdm"]
    assert {INVENTORY, CHECKED_OUT} < event_types(whole)
    part = restricted(whole, frozenset({INVENTORY}), frozenset({"MAC-1"}))
    assert event_types(part) == {INVENTORY}
    assert part.fields[InventoryReported] == whole.fields[InventoryReported]
    assert (part.sources, part.devices) == (whole.sources, frozenset({"MAC-1"}))


def test_scope_without_a_restriction_stays_whole() -> None:
    assert restricted(SCOPES["nanomdm"], None, None) == SCOPES["nanomdm"]


def test_login_of_one_mac_submits_events_of_this_mac_only() -> None:
    sender = default_sender("munki").limited_to("MAC-1")
    assert (sender.own_device, sender.recorded_name) == ("MAC-1", "munki/MAC-1")
    assert sender.scope.devices == frozenset({"MAC-1"})
    assert sender.scope.fields == SCOPES["munki"].fields


def test_sender_has_no_limits_unless_they_are_configured() -> None:
    limits = default_sender("munki").limits
    assert (limits.events_per_request, limits.requests_per_minute) == (None, None)
