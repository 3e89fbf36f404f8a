"""Move of Macs to another MDM server by Apple Business Manager, by a deadline and without an erase.

Apple Business API 2.3 and School API 1.6 (August 2026): the activities
`ASSIGN_DEVICES_WITH_MDM_MIGRATION_DEADLINE`, `UPDATE_MDM_MIGRATION_DEADLINE` and
`CANCEL_MDM_MIGRATION`. A deadline lies at most 90 days ahead; one in the past moves the Macs now. A
migration is destructive work: a Mac must be in its site's `allow_destructive`.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NoReturn, Protocol


class MigrationState(StrEnum):
    """Apple's state of the migration of one Mac (mdmmigrationstatus)."""

    REQUESTED = "REQUESTED"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class NotBuiltError(Exception):
    """This Drydock cannot do it; nothing was sent."""


class Migration(Protocol):
    """Moves Macs, by serial number, to an MDM server of Apple Business Manager."""

    def assign(self, serials: Collection[str], server: str, deadline: datetime) -> str:
        """Assign the Macs to a server by a deadline; return the id of the activity."""
        ...

    def states(self, serials: Collection[str]) -> Mapping[str, MigrationState]:
        """Return the state of each Mac that has a migration."""
        ...

    def cancel(self, serials: Collection[str]) -> str:
        """Cancel migrations that have not begun; return the id of the activity."""
        ...


class UnbuiltMigration:
    """The only `Migration` so far: it refuses everything."""

    def assign(self, serials: Collection[str], server: str, deadline: datetime) -> str:  # noqa: ARG002
        """Raise NotBuiltError."""
        self._refuse()

    def states(self, serials: Collection[str]) -> Mapping[str, MigrationState]:  # noqa: ARG002
        """Raise NotBuiltError."""
        self._refuse()

    def cancel(self, serials: Collection[str]) -> str:  # noqa: ARG002
        """Raise NotBuiltError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotBuiltError(
            "migration by Apple Business Manager is not built; assign the Macs there by hand"
        )
