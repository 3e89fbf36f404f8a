"""The lasting subscription of status reports, so that a Mac reports its version without a query.

It is declared once for each enrollment of a Mac, apart from every job, and stays: no order and no
end of a job removes it. The record of it is its DeclarativeManagement command in the store.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from agents.mac import Obstacle
from agents.mdm.answers import AnswerStore
from agents.mdm.commands import RequestType, declarative_management
from agents.mdm.declarations import status_subscription
from agents.mdm.delivery import State
from agents.mdm.facts import Name
from agents.mdm.mac import MdmMacs
from schemas.macos import OSVersion

# The first version with status items of software updates, and with the method `ddm`.
_FROM: Final = OSVersion(14)


class StatusSubscriptions:
    """The subscriptions of the Macs of one site. `answers` is the store of `macs`."""

    def __init__(self, macs: MdmMacs, answers: AnswerStore, now: Callable[[], datetime]) -> None:
        self._macs = macs
        self._answers = answers
        self._now = now

    def declare(self, udid: str) -> bool:
        """Declare the subscription unless it was for this enrollment; return True if it is new.

        A server without declarations, a Mac before macOS 14, one in Setup Assistant and one with a
        new enrollment profile get none. It is declared again if the server lost the command. Raises
        the errors of MdmServer, and UnreachableError while events of the past are being read.
        """
        enrollment = self._macs.enrollment(udid)
        if isinstance(enrollment, Obstacle) or not enrollment.server.takes_declarations:
            return False
        facts = enrollment.facts
        began_at, version = facts.authenticated_at, facts.os_version
        if began_at is None or facts.is_enrolled is not True or version is None or version < _FROM:
            return False
        is_in_setup = facts.flag(Name.AWAITING_CONFIGURATION) is True
        if is_in_setup or self._macs.has_open(udid, RequestType.INSTALL_PROFILE):
            return False
        prefix = f"status/{udid}"
        order = f"{prefix}/{began_at.isoformat()}"
        sent = self._answers.deliveries(order, self._now())
        if sent and sent[-1][1].state is not State.LOST:
            return False
        enrollment.server.declare(enrollment.id, status_subscription())
        number = sent[-1][0].number + 1 if sent else 0
        command = declarative_management(order, number)
        self._macs.send(enrollment, udid, order, command, number, has_job=False)
        self._answers.keep_newest(prefix, order)
        return True
