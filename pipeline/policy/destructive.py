"""The Macs of a site that a job may erase or reinstall: canaries, and a share of the others."""

import hashlib
from functools import cached_property
from typing import Annotated

from pydantic import Field

from runtime.yaml_model import StrictModel
from schemas.ids import SerialField
from schemas.jobs import Permit


class DestructiveWork(StrictModel):
    """The Macs of one site that a job may erase or reinstall.

    `canaries` are the serial numbers of the first ones. `percent` is the share of the site's other
    Macs; without it there is none. A higher share has the Macs of every lower one.
    """

    canaries: tuple[SerialField, ...] = ()
    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0

    def permit(self, udid: str, serial: str | None) -> Permit | None:
        """Return why this Mac may be erased or reinstalled; None if it may not.

        None for a Mac without a serial number: an executor could not compare it.
        """
        if serial is None:
            return None
        if serial in self._canaries:
            return Permit.CANARY
        return Permit.SHARE if _position(udid) < self.percent else None

    @cached_property
    def _canaries(self) -> frozenset[str]:
        return frozenset(self.canaries)


def _position(udid: str) -> float:
    """Return the place of a Mac among all, from 0 to less than 100: equal in every process."""
    digest = hashlib.sha256(udid.encode()).digest()
    # 53 bits: a float has no more, and a rounded 100 would leave a Mac out of every share.
    return (int.from_bytes(digest[:8]) >> 11) / 2**53 * 100
