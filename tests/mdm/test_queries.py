"""Queries reach simulated Macs through a real NanoMDM, each once, and their answers come back."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from agents.mdm.answers import AnswerStore
from agents.mdm.commands import RequestType
from agents.mdm.facts import Name
from agents.mdm.mac import MdmMacs
from agents.mdm.queries import MacQueries, QueryOutcome
from pipeline.ingest import nanomdm
from pipeline.ingest.redaction import Redactor
from schemas.queries import MacQuery, QueryKind
from tests.factories.sites import SITE, START, a_spec
from tests.mdm.fleet import ManualClock, MdmFleet
from tests.mdm.mac import Behavior
from tests.mdm.servers import MdmServers
from tests.mdm.test_server_contract import adapter
from tests.mdm.webhooks import Webhooks
from tests.waiting import wait_until

MACS = 10
REDACTOR = Redactor(b"a key of the tests only")
KINDS = {
    QueryKind.DEVICE_INFORMATION: "DeviceInformation",
    QueryKind.SECURITY_INFO: "SecurityInfo",
    QueryKind.PROFILE_LIST: "ProfileList",
    QueryKind.CERTIFICATE_LIST: "CertificateList",
}


class QueriedFleet:
    """Macs at the servers, and the store that gets their webhooks."""

    def __init__(
        self, servers: MdmServers, webhooks: Webhooks, behavior: Behavior | None = None
    ) -> None:
        self.udids = [str(uuid.uuid4()).upper() for _ in range(MACS)]
        behaviors = dict.fromkeys(self.udids, behavior or Behavior())
        specs = [a_spec(udid) for udid in self.udids]
        self.fleet = MdmFleet(servers, specs, ManualClock(START), behaviors=behaviors)
        self.answers = AnswerStore(":memory:")
        self._server = adapter(servers.nanomdm.url, servers.kmfddm.url)
        self._webhooks, self._read = webhooks, 0

    def close(self) -> None:
        """Close the store and the connections."""
        self.fleet.close()
        self._server.close()
        self.answers.close()

    def lose_store(self) -> None:
        """Replace the store by an empty one, which gets all events again."""
        self.answers.close()
        self.answers, self._read = AnswerStore(":memory:"), 0
        self.read()

    def read(self) -> None:
        """Store the events of the webhooks that arrived since the last call."""
        bodies = self._webhooks.bodies[self._read :]
        self._read += len(bodies)
        for body in bodies:
            found = nanomdm.translate(
                json.dumps(body).encode(), origin="test", received_at=_now(), redactor=REDACTOR
            )
            assert not found.dead_letters
            self.answers.add_events(found.events, _now())

    def send(self, known_us: int, later: timedelta = timedelta()) -> list[QueryOutcome]:
        """Ask for each kind at every Mac, `later` than now."""

        def now() -> datetime:
            return _now() + later

        queries = MacQueries(self._macs(now), self.answers, now)
        return [
            queries.send(
                MacQuery(
                    udid=udid,
                    site=SITE,
                    kind=kind,
                    known_us=known_us,
                    due_at=START,
                    expires_at=_now() + timedelta(days=1),
                )
            )
            for udid in self.udids
            for kind in QueryKind
        ]

    def is_answered(self) -> bool:
        """Return True if the store has the answers to all queries that were sent."""
        self.read()
        macs = self._macs(_now)
        return not any(
            macs.has_open(udid, RequestType(name)) for udid in self.udids for name in KINDS.values()
        )

    def received(self) -> list[tuple[str, str]]:
        """Return the commands that the Macs got, by their own logs."""
        return [
            (mac.spec.udid, each.request_type)
            for mac in self.fleet.macs.values()
            for each in mac.received
        ]

    def knows(self, *names: Name) -> bool:
        """Return True if the store has these facts of every Mac."""
        self.read()
        return all(
            self.answers.facts(udid).value(name) is not None
            for udid in self.udids
            for name in names
        )

    def _macs(self, now: Callable[[], datetime]) -> MdmMacs:
        return MdmMacs({"mdm": self._server}, self.answers, zone=UTC, now=now)

    def flags(self, name: Name) -> set[bool | None]:
        """Return the values that this fact has at the Macs."""
        self.read()
        return {self.answers.facts(udid).flag(name) for udid in self.udids}


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def fleet(site: MdmServers, webhooks: Webhooks) -> Iterator[QueriedFleet]:
    with closing(QueriedFleet(site, webhooks)) as fleet:
        yield fleet


def test_each_mac_gets_each_query_once_until_it_has_answered(fleet: QueriedFleet) -> None:
    fleet.fleet.enroll()
    wait_until(lambda: fleet.knows(Name.ENROLLED), 30, "the enrollments did not arrive")
    once = [(udid, name) for udid in fleet.udids for name in KINDS.values()]
    # The Macs are away: `settle` was not called.
    assert fleet.send(0) == [QueryOutcome.SENT] * len(once)
    assert fleet.send(0) == [QueryOutcome.OPEN] * len(once)
    assert fleet.send(1) == [QueryOutcome.OPEN] * len(once)
    fleet.fleet.settle()
    assert sorted(fleet.received()) == sorted(once)
    wanted = (Name.OS_VERSION, Name.APPLE_SILICON, Name.USER_APPROVED)
    wait_until(fleet.is_answered, 30, "the answers did not arrive")
    assert fleet.knows(*wanted)
    assert fleet.send(2) == [QueryOutcome.SENT] * len(once)
    fleet.fleet.settle()
    assert sorted(fleet.received()) == sorted(once * 2)


def test_agent_with_an_empty_store_queues_no_second_command(fleet: QueriedFleet) -> None:
    fleet.fleet.enroll()
    wait_until(lambda: fleet.knows(Name.ENROLLED), 30, "the enrollments did not arrive")
    fleet.send(0)
    fleet.lose_store()
    assert fleet.send(0) == [QueryOutcome.SENT] * (MACS * len(KINDS))
    fleet.fleet.settle()
    assert sorted(fleet.received()) == sorted(
        (udid, name) for udid in fleet.udids for name in KINDS.values()
    )


def test_end_of_setup_assistant_is_known_by_the_answer_to_a_query(
    site: MdmServers, webhooks: Webhooks
) -> None:
    waiting = Behavior(awaiting_configuration=True)
    with closing(QueriedFleet(site, webhooks, waiting)) as fleet:
        fleet.fleet.enroll()
        wait_until(lambda: fleet.knows(Name.ENROLLED), 30, "the enrollments did not arrive")
        assert fleet.flags(Name.AWAITING_CONFIGURATION) == {True}
        assert set(fleet.send(0)) == {QueryOutcome.HELD}
        for udid in fleet.udids:  # an administrator lets the Macs go on
            site.nanomdm.enqueue(udid, str(uuid.uuid4()), "DeviceConfigured", push=True)
        fleet.fleet.settle()
        fleet.read()
        assert set(fleet.send(1, later=timedelta(hours=25))) == {QueryOutcome.SENT}
        fleet.fleet.settle()
        wait_until(
            lambda: fleet.flags(Name.AWAITING_CONFIGURATION) == {False},
            30,
            "the answers did not arrive",
        )
