"""Times in the data of an event: unknown before 2015, and the past cannot be after the receipt."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.trust.times import EARLIEST, MAX_AHEAD, bounded_data
from schemas.events.advisory import AdvisoryPublished
from schemas.events.checkin import DdmStatusReported
from schemas.events.inventory import InventoryReported
from tests.factories import DAY, NOW

SECOND = DAY / 86_400
PAST = [
    (InventoryReported, "boot_at"),
    (DdmStatusReported, "failure_at"),
]
FUTURE = [
    (AdvisoryPublished, "released_at"),
    (AdvisoryPublished, "expires_at"),
    (AdvisoryPublished, "kev_due_at"),
    (InventoryReported, "identity_expires_at"),
    (InventoryReported, "loan_returned_at"),
]


def bounded(model: type[Any], name: str, value: datetime) -> datetime | None:
    """Return the time of this field after the limits, for a payload received at NOW."""
    found: datetime | None = getattr(
        bounded_data(model.model_construct(**{name: value}), NOW), name
    )
    return found


@pytest.mark.parametrize(("model", "name"), [*PAST, *FUTURE])
def test_time_before_2015_is_unknown(model: type[Any], name: str) -> None:
    assert bounded(model, name, datetime(2001, 1, 1, tzinfo=UTC)) is None
    assert bounded(model, name, EARLIEST - SECOND) is None
    assert bounded(model, name, EARLIEST) == EARLIEST


@pytest.mark.parametrize(("model", "name"), PAST)
def test_past_time_after_the_receipt_becomes_the_receipt(model: type[Any], name: str) -> None:
    assert bounded(model, name, NOW + MAX_AHEAD) == NOW + MAX_AHEAD
    assert bounded(model, name, NOW + MAX_AHEAD + SECOND) == NOW


@pytest.mark.parametrize(("model", "name"), FUTURE)
def test_future_time_after_the_receipt_is_kept(model: type[Any], name: str) -> None:
    assert bounded(model, name, NOW + 400 * DAY) == NOW + 400 * DAY


@pytest.mark.parametrize("model", [InventoryReported, AdvisoryPublished, DdmStatusReported])
def test_each_time_of_the_data_has_limits(model: type[Any]) -> None:
    for name in (each for each in model.model_fields if each.endswith("_at")):
        assert bounded(model, name, EARLIEST - SECOND) is None, name


def test_data_with_plausible_times_is_the_same_object() -> None:
    data = InventoryReported(source="mdm", udid="MAC-1", boot_at=NOW - DAY)
    assert bounded_data(data, NOW) is data
