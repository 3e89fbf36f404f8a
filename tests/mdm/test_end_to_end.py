"""An advisory from Apple's real releases reaches 50 Macs through real MDM servers.

Both forms of Drydock run as programs: `drydock run` with NanoMDM on its default storage, which
loses and repeats commands, and the fleet on Kafka with NanoMDM on PostgreSQL.
"""

import time
from collections import Counter
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.ingest import sofa
from schemas.envelope import InventoryEvent
from schemas.events.inventory import InventoryReported
from schemas.ids import event_id
from schemas.macos import OSVersion
from tests.kafka.brokers import KafkaCluster
from tests.mdm.company import JULY_2026, Employee, company_groups, employees, releases_of
from tests.mdm.drydock import Drydock, Embedded, OnKafka, write_config
from tests.mdm.fleet import FastClock
from tests.mdm.postgres import create_database, query
from tests.mdm.programs import tool
from tests.mdm.run import SPEED, TROUBLE_AFTER, Run
from tests.mdm.secrecy import exposed_secrets, secrets_of
from tests.mdm.servers import MdmServers, Ports

BEFORE = "sofa/v2/macos_data_feed.2026-07-27T1736Z.json"
AFTER = "sofa/v2/macos_data_feed.2026-07-27T1806Z.json"


def the_company(drydock: Drydock, servers: MdmServers, feed: bytes) -> AbstractContextManager[Run]:
    clock = FastClock()
    groups = company_groups(clock() + TROUBLE_AFTER)
    events = sofa.translate(feed, origin="test", received_at=datetime.now(UTC)).events
    macs = employees(groups, JULY_2026)
    return Run.of(drydock, servers, macs, releases_of(events), clock)


def stated(one: Employee, name: str, at: datetime) -> InventoryEvent:
    """Return an administrator's statement of a time about this Mac."""
    spec = one.spec
    fact = {name: at}
    return InventoryEvent(
        id=event_id(name, spec.udid),
        source="/example/statements",
        subject=spec.udid,
        time=datetime.now(UTC),
        data=InventoryReported(source="admin", udid=spec.udid, serial=spec.serial, **fact),
    )


def advisory_is_carried_out(at: Run, before: bytes, after: bytes) -> None:
    """Let the advisory arrive, and check that every Mac ends as the policy wants."""
    at.drydock.read_feed(before)
    at.eventually(at.are_queried, "Drydock has queried the Macs")
    at.clock.skip(TROUBLE_AFTER)
    at.drydock.read_feed(after)
    [loan] = at.of_kind("loan")
    at.drydock.accept(stated(loan, "loan_returned_at", datetime.now(UTC)))
    at.eventually(lambda: at.reason_of(loan) == "awaiting_approval", "it awaits an approval")
    # Between two boots of a Mac there is a minute, or an executor takes them for one.
    at.eventually(lambda: time.monotonic() > at.started_s + 62, "a minute has passed")
    at.clock.accelerate(SPEED)
    at.drydock.approve(loan.spec.serial)
    # macOS 13 does not report its version without a question, and Drydock asks once an hour.
    commanded = [one for one in at.of_kind("healthy", "declines") if one.ends_at.major == 13]
    at.eventually(lambda: all(map(at.is_patched, commanded)), "the Macs on 13 are patched")
    at.eventually(lambda: at.has_acted(loan), "the loan unit is erased and has enrolled again")
    [renewing] = at.of_kind("renews")
    renewed = at.fleet.macs[renewing.spec.udid]
    at.eventually(lambda: renewed.enrollments == 2, "the Mac has a new MDM identity")
    at.ask([loan, *commanded])
    at.eventually(lambda: not at.unexpected(), "all Macs are as the policy wants")
    at.eventually(lambda: not at.declared(), "the declarations of ended jobs are withdrawn")
    capable = [one for one in at.employees if one.spec.os_version >= OSVersion(14)]
    assert at.subscribed() == capable
    at.eventually(at.queues_are_empty, "no command is left for a Mac")
    [newer] = at.of_kind("too new")
    assert "newer_than_feeds" in at.drydock.outcome().latest[newer.spec.udid]["findings"]
    for one in at.employees:
        mac = at.fleet.macs[one.spec.udid]
        final = [each for each in mac.received if each.status != "NotNow"]
        performed = [each.what for each in mac.performed]
        assert len(performed) <= 1, one
        # NanoMDM's default storage can deliver a command again, but no other one is its repeat.
        for request_type in ("ScheduleOSUpdate", "EraseDevice"):
            uuids = {each.uuid for each in final if each.request_type == request_type}
            assert len(uuids) <= 1, one
        erasures = [each for each in final if each.request_type == "EraseDevice"]
        assert len(erasures) == (one.kind == "loan"), one
        profiles = [each for each in final if each.request_type == "InstallProfile"]
        assert len(profiles) == (one.kind == "renews"), one
        if "pgsql" in at.servers.nanomdm.program.command:
            assert max(Counter(each.uuid for each in final).values(), default=0) <= 1, one


def check_secrecy(drydock: Drydock, folder: Path) -> None:
    """Check that no log, page or file of the run has a secret that the programs used."""
    secrets = secrets_of(folder)
    assert len(secrets) > 5
    assert exposed_secrets(folder, drydock.pages(), secrets) == []


@pytest.mark.timeout(600)
def test_macs_end_as_the_policy_demands_on_the_default_storage(
    tools: None, reference_data: Path, tmp_path: Path
) -> None:
    before, after = ((reference_data / name).read_bytes() for name in (BEFORE, AFTER))
    ports = Ports.choose()
    config = write_config(tmp_path / "config", ports, destructive=("C02MDM000050",))
    with (
        Embedded.run(tmp_path, config) as drydock,
        MdmServers.run(tmp_path / "mdm", ports=ports, webhook_url=drydock.webhook_url) as servers,
        the_company(drydock, servers, after) as at,
    ):
        advisory_is_carried_out(at, before, after)
        check_secrecy(drydock, tmp_path)


@pytest.mark.timeout(600)
def test_macs_end_as_the_policy_demands_on_kafka(
    tools: None,
    empty_kafka: KafkaCluster,
    cluster: str,
    reference_data: Path,
    tmp_path: Path,
) -> None:
    before, after = ((reference_data / name).read_bytes() for name in (BEFORE, AFTER))
    ports = Ports.choose()
    config = write_config(tmp_path / "config", ports, destructive=("C02MDM000050",))
    database = create_database(
        cluster, f"end-to-end-{ports.nanomdm}", tool("nanomdm", "schema.sql")
    )
    with (
        OnKafka.run(tmp_path, config, empty_kafka) as drydock,
        MdmServers.run(
            tmp_path / "mdm", ports=ports, webhook_url=drydock.webhook_url, database=database
        ) as servers,
        the_company(drydock, servers, after) as at,
    ):
        advisory_is_carried_out(at, before, after)
        check_secrecy(drydock, tmp_path)
        unreachable = {one.spec.udid for one in at.of_kind("dead", "gone")}
        waiting = set(query(database, _WAITING))
        assert waiting <= unreachable


# Commands without a final answer (NanoMDM's own query for the next command has these conditions).
_WAITING = """
SELECT DISTINCT q.id FROM enrollment_queue q
LEFT JOIN command_results r ON r.command_uuid = q.command_uuid AND r.id = q.id
WHERE q.active AND (r.status IS NULL OR r.status = 'NotNow')
"""
