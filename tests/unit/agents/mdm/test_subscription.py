"""The lasting subscription of status reports: once for each enrollment, apart from every job."""

import threading
from unittest.mock import Mock

import pytest

from agents.mdm.declarations import STATUS_SET
from agents.mdm.queries import MacQueries, QueryOutcome, QuerySender
from agents.mdm.server import ServerRefusedError, ServerUnavailableError
from agents.mdm.subscription import StatusSubscriptions
from schemas.events.control import HaltScope
from schemas.queries import MacQuery, QueryKind
from tests.factories.sites import SITE, START, hours
from tests.fake_mdm import FakeMdm
from tests.mdm_site import BEFORE, COMMAND, DDM, MAC, MINUTE, REENROLL, MdmSite, a_site

DECLARATIVE = "DeclarativeManagement"
_PARTS = ("items", "activation")


def subscribe(site: MdmSite) -> bool:
    site.mdm.now = site.now
    return StatusSubscriptions(site.macs, site.answers, lambda: site.now).declare(MAC)


def test_mac_is_subscribed_once_for_its_enrollment() -> None:
    site = a_site()
    assert subscribe(site)
    assert not subscribe(site)
    assert site.poll() == [DECLARATIVE]
    assert set(site.mdm.declaration_items(MAC)) == {f"{STATUS_SET}-{x}" for x in _PARTS}
    site.now += hours(24 * 30)
    assert not subscribe(site)
    assert site.queued(DECLARATIVE) == 1


def test_new_enrollment_is_subscribed_again() -> None:
    site = a_site()
    subscribe(site)
    site.poll()
    site.now += MINUTE
    site.enroll()
    assert subscribe(site)
    assert site.poll() == [DECLARATIVE]


def test_subscription_whose_command_the_server_lost_is_declared_again() -> None:
    site = a_site()
    subscribe(site)
    site.mdm.lose(MAC)
    site.poll()
    site.poll()
    assert subscribe(site)
    assert site.poll() == [DECLARATIVE]


def test_version_that_the_subscription_reports_is_known_without_a_query() -> None:
    site = a_site()
    subscribe(site)
    site.poll()
    site.status(version="26.2.1")
    assert str(site.answers.facts(MAC).os_version) == "26.2.1"
    assert "DeviceInformation" not in {one["RequestType"] for one in site.mdm.commands.values()}


@pytest.mark.parametrize("end", ["withdrawn", "halted"])
def test_end_of_a_job_leaves_the_subscription(end: str) -> None:
    site = a_site()
    subscribe(site)
    site.poll()
    site.start(DDM)
    assert len(site.mdm.enrollment_sets[MAC]) == 2
    site.poll()
    site.supersede(DDM) if end == "withdrawn" else site.halt(HaltScope(everything=True))
    for _ in range(3):
        site.poll()
    assert site.mdm.enrollment_sets[MAC] == [STATUS_SET]
    assert site.macs.enrollment(MAC).server.observe(MAC).sets == frozenset()  # type: ignore[union-attr]


def test_subscription_cannot_be_withdrawn_as_an_order() -> None:
    site = a_site()
    subscribe(site)
    server = site.mdm.server()
    server.withdraw(MAC, STATUS_SET)
    assert site.mdm.enrollment_sets[MAC] == [STATUS_SET]
    with pytest.raises(ServerRefusedError):
        server._ddm.withdraw(MAC, STATUS_SET)  # type: ignore[union-attr]


def test_mac_before_macos_14_is_not_subscribed() -> None:
    assert not subscribe(a_site(job=COMMAND))


def test_server_without_declarations_gets_none() -> None:
    mdm = FakeMdm(BEFORE)
    assert not subscribe(a_site(mdm=mdm, servers={"mdm": mdm.server(ddm=False)}))


def test_mac_in_setup_assistant_is_left_alone() -> None:
    site = a_site()
    site.check_in("TokenUpdate", tally=1, AwaitingConfiguration=True)
    assert not subscribe(site)


def test_nothing_is_queued_behind_a_new_enrollment_profile() -> None:
    site = a_site()
    site.start(REENROLL)
    assert not subscribe(site)


def test_ended_enrollment_is_not_subscribed() -> None:
    site = a_site()
    site.now += MINUTE
    site.check_in("CheckOut")
    assert not subscribe(site)


def test_subscription_is_no_command_of_a_job_and_no_query() -> None:
    site = a_site()
    subscribe(site)
    ((sent, _),) = site.answers.deliveries_to(MAC, site.now)
    assert (sent.closed, sent.is_query) == (True, False)
    assert site.answers.open_commands("mdm") == 0


def test_failed_subscription_does_not_disturb_the_queries() -> None:
    queries = Mock(spec=MacQueries)
    queries.send.return_value = QueryOutcome.SENT
    subscribed: list[str] = []
    all_sent = threading.Event()

    def subscribe(udid: str) -> bool:
        subscribed.append(udid)
        if len(subscribed) == len(QueryKind):
            all_sent.set()
        raise ServerUnavailableError("away")

    queries.subscribe.side_effect = subscribe
    outcomes: list[QueryOutcome] = []
    sender = QuerySender(
        queries, {"mdm": 9}, lambda: START, lambda outcome, _: outcomes.append(outcome), Mock()
    )
    for kind in QueryKind:
        sender.ask(
            MacQuery(
                udid=MAC,
                site=SITE,
                kind=kind,
                known_us=0,
                due_at=START,
                expires_at=START + hours(1),
            )
        )
    sender.start()
    assert all_sent.wait(30)
    sender.stop()
    assert outcomes == [QueryOutcome.SENT] * len(QueryKind)
