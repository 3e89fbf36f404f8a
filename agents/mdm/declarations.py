"""Declarations: a software update that a Mac must install by a time, and status reports. Pure.

Format: github.com/apple/device-management, declarative/declarations. An order has these,
in one set:

| declaration | identifier | content |
| --- | --- | --- |
| enforcement of the target's release | NAME-os | version and time |
| enforcement of the supplement | NAME-supplement | the same version, its build, the same time |
| subscription of status items | NAME-status | the items that show progress and version |
| activation | NAME-activation | the others; without it they are inactive |

NAME is the order's name with dashes: `drydock-job-…-1-declare`. The prefix marks what is ours;
nothing else is changed. A supplement (`26.3.1 (a)`) can be installed only on its release, so both
are declared: a Mac on an older release first installs the release.

Apart from orders, each Mac has the set STATUS_SET, so that it reports its version without a query.
All Macs share its declarations, and no order changes it.

Rules of Apple's that the content follows:
- `26.2.1` means exactly that release; `26.2` means the newest patch of 26.2, which also fulfils a
  job. The build is left out: a release can have another build for other hardware, and the Mac would
  wait for a build that Apple never offers to it. A supplement is chosen by its build only.
- The time has no zone: the Mac reads it in its own. A Mac that is off at that time installs an hour
  after its start.
- A target that Apple does not offer stays active, and is installed when it is offered. So a
  declaration is withdrawn when its job ends.
"""

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Final

from agents.mdm.server import Declaration, DeclarationSet
from schemas.jobs import Target

PREFIX: Final = "drydock-"
STATUS_SET: Final = f"{PREFIX}status"
STATUS_ITEMS: Final = (
    "device.operating-system.version",
    "device.operating-system.build-version",
    "device.operating-system.supplemental.build-version",
    "device.operating-system.supplemental.extra-version",
    "softwareupdate.install-state",
    "softwareupdate.install-reason",
    "softwareupdate.pending-version",
    "softwareupdate.failure-reason",
)

_ENFORCEMENT: Final = "com.apple.configuration.softwareupdate.enforcement.specific"
_SUBSCRIPTIONS: Final = "com.apple.configuration.management.status-subscriptions"
_ACTIVATION: Final = "com.apple.activation.simple"


class UndeclarableError(ValueError):
    """The target cannot be declared; the message has the reason."""


def set_name(order: str) -> str:
    """Return the name of an order's declaration set; `order` is its `order_marker`."""
    return PREFIX + order.replace("/", "-")


def is_order(name: str) -> bool:
    """Return True for the declaration set of an order."""
    return is_ours(name) and name != STATUS_SET


def is_ours(name: str) -> bool:
    """Return True for a declaration set or a declaration of Drydock."""
    return name.startswith(PREFIX)


def enforcement(order: str, target: Target, at: datetime, zone: tzinfo) -> DeclarationSet:
    """Return the declarations that make a Mac install `target` by `at`.

    `zone` is the time zone of the Mac. Raises UndeclarableError for a supplement whose build is
    unknown.
    """
    name = set_name(order)
    version = str(target.version.release)
    local = at.astimezone(zone).replace(tzinfo=None).isoformat(timespec="seconds")
    payload = {"TargetOSVersion": version, "TargetLocalDateTime": local}
    configurations = [Declaration(f"{name}-os", _ENFORCEMENT, payload)]
    if target.version.supplement:
        if target.build is None:
            raise UndeclarableError(f"{target.version} can be declared only with its build")
        configurations.append(
            Declaration(
                f"{name}-supplement",
                _ENFORCEMENT,
                {**payload, "TargetBuildVersion": str(target.build)},
            )
        )
    return _activated(name, [*configurations, _subscription(f"{name}-status")])


def status_subscription() -> DeclarationSet:
    """Return the declarations that make a Mac report its version and the state of its updates."""
    return _activated(STATUS_SET, [_subscription(f"{STATUS_SET}-items")])


def _subscription(identifier: str) -> Declaration:
    wanted = [{"Name": item} for item in STATUS_ITEMS]
    return Declaration(identifier, _SUBSCRIPTIONS, {"StatusItems": wanted})


def _activated(name: str, configurations: Sequence[Declaration]) -> DeclarationSet:
    """Return the set of these configurations and the activation that lists them."""
    activated = [configuration.identifier for configuration in configurations]
    activation = Declaration(
        f"{name}-activation", _ACTIVATION, {"StandardConfigurations": activated}
    )
    return DeclarationSet(name, (*configurations, activation))
