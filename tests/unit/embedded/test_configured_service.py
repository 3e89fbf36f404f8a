"""`drydock run` with a configuration: real adapters, live and dry sites, answers from the log."""

from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.configured_sites import ANSWERS_FILE, ConfiguredSites
from pipeline.embedded.answer_feed import LOG_FEED
from pipeline.embedded.log import Log
from pipeline.embedded.service import Service
from schemas.envelope import JobResultedEvent, decode
from schemas.queries import MacQuery
from tests.configured_world import CONFIG, open_sites
from tests.embedded_world import POLICY, Environment
from tests.factories.control import halted
from tests.factories.sites import JOBS_KEY, KEYS, START, a_spec
from tests.fake_mdm import SECRETS, FakeMdm

MAC = "MAC-1"
MINUTE = timedelta(minutes=1)
TWO_SITES = POLICY.replace(
    "max_jobs: 3}\n", "max_jobs: 3, ssh: false}\n  tokyo: {time_zone: Asia/Tokyo}\n"
)


class Company:
    """One data directory over several lives of the service; the Macs and servers live on."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder, self.config = folder, config
        self.mdm = FakeMdm(START)
        self.only_mdm_reports = False
        self.reports = Environment.of(a_spec(MAC), a_spec("MAC-TOKYO", site="tokyo"))
        self.mdm.enroll(MAC, OSVersion="26.1", BuildVersion="25B78")
        self.open()
        # Each Mac reports within six hours.
        for _ in range(7):
            self.step(timedelta(hours=1))

    def open(self) -> None:
        """Begin a life."""
        self.sites: ConfiguredSites = open_sites(self.folder, self.mdm, self.config)
        self.service = Service.open(
            self.folder,
            now=self.mdm.now,
            signer=JOBS_KEY,
            trust=KEYS,
            policy_text=TWO_SITES,
            access=self.sites.access,
        )
        self.service.feed_answers(self.sites, self.mdm.now)

    def close(self) -> None:
        """End this life."""
        self.service.close()
        self.sites.close()

    def step(self, duration: timedelta = MINUTE) -> None:
        """Accept the events, do the work that is due, then advance the clock."""
        events = [*self.reports.unsent, *self.reports.fleet.advance(self.mdm.now)]
        if self.only_mdm_reports:
            events = []
        self.reports.unsent = []
        self.service.accept([*events, *self.mdm.take_events()], (), self.mdm.now)
        while self.service.next_wake(self.mdm.now) == self.mdm.now:
            self.service.tick(self.mdm.now)
        self.mdm.now += duration

    def outcomes(self, udid: str) -> list[str]:
        """Return the outcomes of the Mac's jobs that the log has, in order."""
        with Log.open(self.folder) as log:
            events = [decode(row.body) for row in log.entries(kind="event")]
        return [
            event.data.outcome.value
            for event in events
            if isinstance(event, JobResultedEvent) and event.data.udid == udid
        ]

    @property
    def commands(self) -> list[str]:
        """The request types that the server has queued for the Mac, each once."""
        return [one["RequestType"] for one in self.mdm.commands.values()]


@pytest.fixture
def company(tmp_path: Path) -> Company:
    return Company(tmp_path)


def test_live_site_gets_orders_and_another_site_is_in_dry_run(company: Company) -> None:
    with closing(company):
        assert company.commands == ["DeclarativeManagement"]
        assert [*company.mdm.enrollment_sets] == [MAC]
        assert company.outcomes("MAC-TOKYO")[:2] == ["accepted", "withheld"]


def test_answer_of_the_mac_advances_its_job_in_the_same_step(company: Company) -> None:
    with closing(company):
        assert company.outcomes(MAC) == ["accepted", "started"]
        company.mdm.report(MAC, "CommandFormatError", company.mdm.report(MAC, "Idle"))
        company.step()
        assert company.outcomes(MAC)[2:3] == ["failed"]


def test_restart_gives_no_second_order_and_reads_answers_of_the_meantime(company: Company) -> None:
    company.mdm.report(MAC, "Acknowledged", company.mdm.report(MAC, "Idle"))
    # The events are in the log, and the process dies before the store has them.
    company.service._answers = None
    company.step()
    company.close()
    company.open()
    with closing(company):
        assert company.sites.position(LOG_FEED) == company.service.store.last_seq()
        (uuid,) = company.mdm.commands
        (answer,) = company.sites.answers.answers(uuid)
        assert answer.status == "Acknowledged"
        company.step()
        assert company.commands == ["DeclarativeManagement"]
        assert company.outcomes(MAC)[-1] not in {"failed", "refused"}


def test_lost_store_is_filled_again_from_the_log(company: Company) -> None:
    company.close()
    for file in company.folder.glob(f"{ANSWERS_FILE}*"):
        file.unlink()
    company.open()
    with closing(company):
        assert company.sites.answers.facts(MAC).is_enrolled
        company.step()
        assert company.commands == ["DeclarativeManagement"]


def test_store_that_is_newer_than_a_restored_log_is_filled_again(company: Company) -> None:
    company.sites.add_events((), company.mdm.now, {LOG_FEED: 10_000})
    company.close()
    company.open()
    with closing(company):
        assert company.sites.position(LOG_FEED) == company.service.store.last_seq()


def test_halt_withdraws_the_declaration(company: Company) -> None:
    with closing(company):
        assert company.mdm.enrollment_sets[MAC]
        company.service.accept((halted(company.mdm.now),), (), company.mdm.now)
        company.step()
        assert not company.mdm.enrollment_sets[MAC]


def test_no_file_of_the_service_has_a_secret(company: Company) -> None:
    company.close()
    for file in company.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret.encode() in content for secret in SECRETS), file


class QueriedCompany(Company):
    """A company whose Macs are queried; the MDM server has Macs of both sites."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.asked: list[MacQuery] = []
        super().__init__(folder, config)

    def open(self) -> None:
        super().open()
        live = self.sites.query_budgets
        self.service.query_macs(lambda site, _: bool(live(site)), self._ask, self.mdm.now)

    def _ask(self, query: MacQuery) -> None:
        self.asked.append(query)
        self.sites.queries[query.site].send(query)

    def counts(self) -> Counter[str]:
        """Return the number of queries that the server has queued, by request type."""
        wanted = ("DeviceInformation", "SecurityInfo")
        return Counter(command for command in self.commands if command in wanted)


def test_macs_of_the_live_site_are_queried_and_those_in_dry_run_are_not(tmp_path: Path) -> None:
    with closing(QueriedCompany(tmp_path)) as company:
        assert {(query.udid, query.site) for query in company.asked} == {(MAC, "london")}
        assert company.counts() == {"DeviceInformation": 1, "SecurityInfo": 1}


def test_mac_that_is_away_with_an_open_job_gets_one_query_over_restarts(tmp_path: Path) -> None:
    company = QueriedCompany(tmp_path)
    company.only_mdm_reports = True
    for _ in range(3):
        for _ in range(12):
            company.step(timedelta(hours=1))
        company.close()
        company.open()
    with closing(company):
        assert len(company.asked) > 3
        assert company.counts() == {"DeviceInformation": 1, "SecurityInfo": 1}


def test_version_that_only_a_query_shows_ends_the_job(tmp_path: Path) -> None:
    with closing(QueriedCompany(tmp_path)) as company:
        company.only_mdm_reports = True
        uuid = company.mdm.report(MAC, "Idle")
        while uuid is not None:
            answer: dict[str, Any] = {"Status": "Acknowledged"}
            if company.mdm.commands[uuid]["RequestType"] == "DeviceInformation":
                system = {"OSVersion": "26.2", "BuildVersion": "25C56", "ProductName": "Mac16,1"}
                answer["QueryResponses"] = system
            uuid = company.mdm.report(MAC, answer.pop("Status"), uuid, **answer)
        for _ in range(30):
            company.step()
        assert "acted" in company.outcomes(MAC)


def test_new_policy_lets_the_macs_of_another_site_be_queried(tmp_path: Path) -> None:
    company = QueriedCompany(tmp_path, CONFIG.replace("  london:", "  paris:"))
    with closing(company):
        assert company.asked == []
        paris = TWO_SITES.replace("  london:", "  paris:").replace(
            "default_site: london", "default_site: paris"
        )
        company.service.set_policy(paris, company.mdm.now, "ada")
        company.only_mdm_reports = True
        for _ in range(25):
            company.step(timedelta(hours=1))
        assert (MAC, "paris") in {(query.udid, query.site) for query in company.asked}
