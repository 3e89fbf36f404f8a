"""The fields of a Device whose values are not kept as JSON values, with their conversions. Pure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.state.earlier_values import earlier_from_wire, earlier_to_wire
from schemas.macos import parse_build, parse_os_version


def _time_to_wire(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()  # in UTC, so that equal times give equal bytes


TO_WIRE: Final[Mapping[str, Callable[[Any], object]]] = {
    "os_version": str,
    "build": str,
    "pending_version": str,
    "pending_build": str,
    "identity_expires_at": _time_to_wire,
    "boot_at": _time_to_wire,
    "loan_returned_at": _time_to_wire,
    "activations": list,
    "profiles": list,
    "earlier_hostnames": earlier_to_wire,
    "earlier_corroborated_hostnames": earlier_to_wire,
    "earlier_serials": earlier_to_wire,
}

FROM_WIRE: Final[Mapping[str, Callable[[Any], object]]] = {
    "os_version": parse_os_version,
    "build": parse_build,
    "pending_version": parse_os_version,
    "pending_build": parse_build,
    "identity_expires_at": datetime.fromisoformat,
    "boot_at": datetime.fromisoformat,
    "loan_returned_at": datetime.fromisoformat,
    "activations": tuple,
    "profiles": tuple,
    "earlier_hostnames": earlier_from_wire,
    "earlier_corroborated_hostnames": earlier_from_wire,
    "earlier_serials": earlier_from_wire,
}
