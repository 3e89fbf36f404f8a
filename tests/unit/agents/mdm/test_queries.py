"""Queries of the inventory: one at a time for each Mac, with any behaviour of server and Mac."""

import threading
from datetime import timedelta
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from agents.mdm.metrics import MdmMetrics
from agents.mdm.queries import MacQueries, QueryOutcome, QuerySender
from agents.mdm.server import ServerRefusedError, ServerUnavailableError
from schemas.queries import MacQuery, QueryKind
from tests.factories.sites import SITE, START, hours
from tests.fake_mdm import FakeMdm
from tests.mdm_site import COMMAND, DDM, MAC, MINUTE, REENROLL, MdmSite, a_site

INFORMATION = MacQuery(
    udid=MAC,
    site=SITE,
    kind=QueryKind.DEVICE_INFORMATION,
    known_us=1,
    due_at=START,
    expires_at=START + timedelta(days=1),
)
SECURITY = INFORMATION.model_copy(update={"kind": QueryKind.SECURITY_INFO})
PROFILES = INFORMATION.model_copy(update={"kind": QueryKind.PROFILE_LIST})
NEXT = INFORMATION.model_copy(update={"known_us": 2})
BUDGET = {"mdm": 100}
SENT, OPEN, HELD = QueryOutcome.SENT, QueryOutcome.OPEN, QueryOutcome.HELD


def send(site: MdmSite, query: MacQuery = INFORMATION) -> QueryOutcome:
    """Send a query with the store and the clock of the site."""
    site.mdm.now = site.now
    return MacQueries(site.macs, site.answers, lambda: site.now).send(query)


def test_each_kind_is_one_command() -> None:
    site = a_site()
    assert [send(site), send(site, SECURITY), send(site, PROFILES)] == [SENT, SENT, SENT]
    assert site.poll() == ["DeviceInformation", "SecurityInfo", "ProfileList"]


def test_mac_that_is_away_for_weeks_gets_one_command() -> None:
    site = a_site()
    send(site)
    for day in range(30):
        site.now += timedelta(days=1)
        # Reports of other sources can change the time of the newest report.
        assert send(site, INFORMATION.model_copy(update={"known_us": day})) is OPEN
    assert site.queued("DeviceInformation") == 1


def test_query_of_a_job_counts_as_the_query_of_the_inventory() -> None:
    site = a_site(job=COMMAND)
    site.start(COMMAND)
    site.poll()
    site.run(timedelta(days=2))
    asked = site.queued("DeviceInformation")
    assert asked == 1
    assert send(site) is OPEN
    assert site.queued("DeviceInformation") == asked


def test_mac_that_answers_not_now_keeps_its_command() -> None:
    site = a_site()
    send(site)
    site.mdm.report(MAC, "NotNow", site.mdm.report(MAC, "Idle"))
    site.step()
    assert send(site, NEXT) is OPEN


def test_next_query_is_sent_after_the_answer_and_the_store_keeps_the_newest() -> None:
    site = a_site()
    send(site)
    site.poll()
    assert send(site, NEXT) is SENT
    site.poll()
    assert len(site.answers.deliveries_to(MAC, site.now)) == 1
    assert site.delivered("DeviceInformation") == 2


def test_query_that_is_read_again_after_its_answer_is_not_repeated() -> None:
    site = a_site()
    send(site)
    site.poll()
    assert send(site) is QueryOutcome.ANSWERED
    later = INFORMATION.model_copy(update={"due_at": site.now + MINUTE})
    site.now += timedelta(hours=1)
    assert send(site, later) is SENT


def test_query_that_the_server_lost_is_sent_again() -> None:
    site = a_site()
    send(site)
    site.mdm.lose(MAC)
    site.poll()
    site.poll()
    assert send(site) is SENT
    assert site.poll() == ["DeviceInformation"]


def test_query_that_failed_is_sent_again_when_it_is_due() -> None:
    site = a_site()
    send(site)
    site.poll(DeviceInformation={"Status": "Error"})
    assert send(site) is SENT
    assert site.queued("DeviceInformation") == 2


def test_query_that_failed_often_has_a_new_id_after_the_store_forgot_the_first() -> None:
    site = a_site()
    for day in range(4):
        send(site)
        site.poll(DeviceInformation={"Status": "Error"})
        site.answers.prune(site.now - timedelta(days=2))
        site.now += timedelta(days=1)
        assert site.delivered("DeviceInformation") == day + 1


def test_new_enrollment_clears_the_queue_and_the_query_is_sent_again() -> None:
    site = a_site()
    send(site)
    site.now += MINUTE
    site.enroll()
    assert send(site) is SENT
    assert site.poll() == ["DeviceInformation"]


def test_agent_without_the_store_of_another_one_sends_the_same_command() -> None:
    mdm = FakeMdm(START)
    mdm.enroll(MAC, OSVersion="26.2")
    enrollment = mdm.take_events()
    first, second = MdmSite(mdm), MdmSite(mdm)
    for site in (first, second):
        site.answers.add_events(enrollment, START)
    send(first)
    assert send(second) is SENT
    assert first.queued("DeviceInformation") == 1


def test_nothing_is_queued_behind_a_new_enrollment_profile() -> None:
    site = a_site()
    site.start(REENROLL)
    assert send(site) is HELD
    assert site.queued("DeviceInformation") == 0


def test_mac_in_setup_assistant_is_left_alone() -> None:
    site = a_site()
    site.check_in("TokenUpdate", tally=1, AwaitingConfiguration=True)
    assert send(site) is HELD


def test_mac_that_may_have_left_setup_assistant_is_queried_after_a_day() -> None:
    site = a_site()
    site.check_in("TokenUpdate", tally=1, AwaitingConfiguration=True)
    site.now += hours(25)
    assert send(site) is SENT
    site.mdm.now = site.now
    site.poll(DeviceInformation=site.information(AwaitingConfiguration=True))
    assert send(site, INFORMATION.model_copy(update={"known_us": 9})) is HELD


@pytest.mark.parametrize("udid", [MAC, "UNKNOWN"])
def test_mac_without_an_enrollment_is_not_queried(udid: str) -> None:
    site = a_site()
    site.now += MINUTE
    site.check_in("CheckOut")
    assert send(site, INFORMATION.model_copy(update={"udid": udid})) is QueryOutcome.NOT_ENROLLED
    assert not site.mdm.commands


def test_queries_do_not_use_the_queue_of_orders() -> None:
    site = a_site()
    send(site)
    assert site.answers.open_commands("mdm") == 0
    site.start(DDM)
    assert site.outcomes == ["accepted", "started"]


def test_late_answer_to_a_query_is_no_finding() -> None:
    site = a_site()
    send(site)
    site.run(timedelta(days=3))
    site.poll()
    assert site.findings == []


def test_query_that_the_store_has_forgotten_is_not_queued_twice() -> None:
    site = a_site()
    send(site)
    site.run(timedelta(days=1))
    site.answers.prune(site.now)
    assert send(site) is SENT
    assert site.queued("DeviceInformation") == 1


class Outcomes:
    """Counts outcomes, and ends a wait for a number of them."""

    def __init__(self, wanted: int) -> None:
        self.found: list[QueryOutcome] = []
        self._wanted = wanted
        self._all = threading.Event()

    def count(self, outcome: QueryOutcome, _: float) -> None:
        self.found.append(outcome)
        if len(self.found) == self._wanted:
            self._all.set()

    def wait(self) -> list[QueryOutcome]:
        assert self._all.wait(30)
        return self.found


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(ServerRefusedError("no"), QueryOutcome.FAILED, id="refused"),
        pytest.param(KeyError("bug"), QueryOutcome.FAILED, id="bug"),
        pytest.param(ServerUnavailableError("away"), QueryOutcome.UNAVAILABLE, id="away"),
    ],
)
def test_failed_query_does_not_end_the_thread_and_one_without_a_response_is_repeated(
    error: Exception, outcome: QueryOutcome
) -> None:
    is_repeated = outcome is QueryOutcome.UNAVAILABLE
    queries = Mock(spec=MacQueries)
    queries.send.side_effect = [error, SENT, SENT]
    outcomes = Outcomes(3 if is_repeated else 2)
    sender = QuerySender(queries, BUDGET, lambda: START, outcomes.count, Mock())
    sender.ask(INFORMATION)
    sender.ask(SECURITY)
    sender.start()
    assert outcomes.wait() == [outcome, *[SENT] * (1 + is_repeated)]
    sender.stop()
    asked = [call.args[0] for call in queries.send.call_args_list]
    assert asked == [INFORMATION, SECURITY, *[INFORMATION] * is_repeated]


def test_delay_of_a_sent_query_is_the_time_since_it_was_due() -> None:
    registry = CollectorRegistry()
    metrics = MdmMetrics(registry)
    queries = Mock(spec=MacQueries)
    queries.send.side_effect = [SENT, OPEN]
    outcomes = Outcomes(2)

    def count(outcome: QueryOutcome, delay_s: float) -> None:
        metrics.count_query(outcome, delay_s)
        outcomes.count(outcome, delay_s)

    now = START + timedelta(hours=2)
    sender = QuerySender(queries, BUDGET, lambda: now, count, Mock())
    sender.ask(INFORMATION)
    sender.ask(SECURITY)
    sender.start()
    outcomes.wait()
    sender.stop()
    sent = registry.get_sample_value("drydock_mdm_queries_total", {"outcome": "sent"})
    delay = registry.get_sample_value("drydock_mdm_query_delay_seconds_sum")
    assert (sent, delay) == (1, 7200)


def test_query_counts_as_waiting_until_it_is_sent() -> None:
    queries = Mock(spec=MacQueries)
    begun, go_on = threading.Event(), threading.Event()

    def send(_: MacQuery) -> QueryOutcome:
        begun.set()
        go_on.wait(30)
        return SENT

    queries.send.side_effect = send
    outcomes = Outcomes(2)
    sender = QuerySender(queries, BUDGET, lambda: START, outcomes.count, Mock())
    sender.ask(INFORMATION, offset=7)
    sender.ask(SECURITY, offset=8)
    sender.start()
    assert begun.wait(30)
    assert sender.first_offset() == 7
    go_on.set()
    outcomes.wait()
    sender.stop()
    assert sender.first_offset() is None


def test_sender_stops_with_queries_that_wait() -> None:
    queries = Mock(spec=MacQueries)
    queries.send.side_effect = ServerUnavailableError("away")
    outcomes = Outcomes(1)
    sender = QuerySender(queries, BUDGET, lambda: START, outcomes.count, Mock())
    sender.start()
    sender.ask(INFORMATION)
    outcomes.wait()
    sender.stop()
    assert not sender.is_alive()
