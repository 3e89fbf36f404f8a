"""Situations for decisions; by default an enrolled Mac that lacks 26.2, without windows."""

from datetime import datetime
from typing import Any

from pipeline.decide.situation import Situation
from pipeline.policy.model import Policy
from pipeline.state.advisories import Advisories
from pipeline.state.device import Device
from tests.factories.advisories import apple
from tests.factories.control import policy
from tests.factories.devices import mac
from tests.factories.times import NOW


def situation(
    device: Device | None = None,
    *,
    advisories: Advisories | None = None,
    rules: Policy | None = None,
    now: datetime = NOW,
    **rest: Any,
) -> Situation:
    """Return the situation of a Mac that lacks 26.2, at a site without windows."""
    return Situation(
        device if device is not None else mac(),
        advisories if advisories is not None else apple(),
        rules if rules is not None else policy(),
        now,
        **rest,
    )
