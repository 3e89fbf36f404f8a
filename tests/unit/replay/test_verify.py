"""An unaltered log verifies; an alteration is found with its check, its entry and its field."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reconcile.reconciler import Reconciler
from pipeline.replay.log import read_record
from pipeline.replay.verify import Check, verify
from schemas.envelope import decode
from tests.unit.replay.driver import START, Driver, Entry, MemoryLog, story

STORY = story()


def copied() -> MemoryLog:
    return MemoryLog(
        list(STORY.rows),
        dict(STORY.blobs),
        dict(STORY.kept_devices),
        dict(STORY.kept_job_histories),
    )


def first(log: MemoryLog, *texts: str, kind: str | None = None) -> int:
    """Return the seq of the first row whose body contains these texts."""
    return next(
        row.seq
        for row in log.rows
        if kind in (None, row.kind) and all(text.encode() in row.body for text in texts)
    )


def alter(log: MemoryLog, seq: int, old: str, new: str) -> None:
    row = log.rows[seq - 1]
    assert old.encode() in row.body
    log.rows[seq - 1] = row._replace(body=row.body.replace(old.encode(), new.encode(), 1))


def renumbered(log: MemoryLog, rows: list[Entry]) -> None:
    log.rows[:] = [row._replace(seq=seq) for seq, row in enumerate(rows, 1)]


def delete(log: MemoryLog, seq: int) -> None:
    """Delete a row and number the others again, so that the gap is hidden."""
    renumbered(log, [row for row in log.rows if row.seq != seq])


def swap(log: MemoryLog, seq: int, other: int) -> None:
    rows = list(log.rows)
    rows[seq - 1], rows[other - 1] = rows[other - 1], rows[seq - 1]
    renumbered(log, rows)


def test_an_untouched_log_verifies() -> None:
    report = verify(STORY, state=STORY)
    events = [row for row in STORY.rows if row.kind == "event"]
    issued = [row for row in events if row.type == "drydock.job.issued.v1"]
    assert report.difference is None
    assert (report.events, report.decisions) == (len(events), len(STORY.decisions()))
    assert report.jobs == len(issued) > 5


def test_an_empty_log_verifies() -> None:
    assert verify(MemoryLog(), state=MemoryLog()).difference is None


# --- tampering: each function alters the log and returns the seq of the difference ---


def event_version(log: MemoryLog) -> int:
    seq = first(log, "LON-2", '"os_version":"15.7.2"', kind="event")
    alter(log, seq, '"os_version":"15.7.2"', '"os_version":"15.7.1"')
    return first(log, '"udid":"LON-2"', '"compliant"', kind="decision")


def event_unreadable(log: MemoryLog) -> int:
    seq = first(log, "LON-2", '"os_version":"15.7.2"', kind="event")
    alter(log, seq, '"data":{', '"data":[')
    return seq


def event_type(log: MemoryLog) -> int:
    log.rows[5] = log.rows[5]._replace(type="drydock.mdm.checked_out.v1")
    return 6


def event_id(log: MemoryLog) -> int:
    log.rows[5] = log.rows[5]._replace(id="another")
    return 6


def event_deleted(log: MemoryLog) -> int:
    seq = first(log, "LON-2", '"os_version":"15.7.2"', kind="event")
    delete(log, seq)
    return first(log, '"udid":"LON-2"', '"compliant"', kind="decision")


def row_missing(log: MemoryLog) -> int:
    log.rows.pop(6)
    return 8


def rows_out_of_order(log: MemoryLog) -> int:
    log.rows[5], log.rows[7] = log.rows[7], log.rows[5]
    return 8


def event_after_its_decision(log: MemoryLog) -> int:
    seq = first(log, '"udid":"LON-2"', '"compliant"', kind="decision")
    swap(log, seq - 1, seq)
    return seq - 1


def policy_event(log: MemoryLog) -> int:
    alter(log, 1, "max_jobs: 2", "max_jobs: 9")
    return 1


def halt_deleted(log: MemoryLog) -> int:
    seq = first(log, "drydock.halt.set.v1")
    delete(log, seq)
    return first(log, '"reason":"halted"', kind="decision")


def advisory_event(log: MemoryLog) -> int:
    seq = first(log, "drydock.advisory.published.v1", "15.7.3")
    alter(log, seq, "CVE-2025-2001", "CVE-2025-2009")
    return seq + 1


def decision_reason(log: MemoryLog) -> int:
    seq = first(log, '"reason":"outside_window"', kind="decision")
    alter(log, seq, '"reason":"outside_window"', '"reason":"cooling_down"')
    return seq


def decision_byte(log: MemoryLog) -> int:
    seq = first(log, '"reason":"outside_window"', kind="decision")
    alter(log, seq, '"reason":"outside_window"', '"reason":"outside_windoq"')
    return seq


def decision_deleted(log: MemoryLog) -> int:
    seq = first(log, '"decision":"send"', kind="decision")
    delete(log, seq)
    return seq


def decision_unknown_field(log: MemoryLog) -> int:
    seq = first(log, '"supersedes":null', kind="decision")
    alter(log, seq, '"supersedes":null', '"supersedez":null')
    return seq


def decision_moved(log: MemoryLog) -> int:
    seq = first(log, '"reason":"outside_window"', kind="decision")
    log.rows[seq - 1] = log.rows[seq - 1]._replace(at=START)
    return seq


def decision_of_another_mac(log: MemoryLog) -> int:
    seq = first(log, '"reason":"outside_window"', kind="decision")
    log.rows[seq - 1] = log.rows[seq - 1]._replace(key="LON-9")
    return seq


def input_that_the_decision_uses(log: MemoryLog) -> int:
    seq = first(log, '"free_disk_gb"', "outside_window", kind="decision")
    alter(log, seq, ",120.5]", ",100.5]")
    return seq


def input_that_the_decision_ignores(log: MemoryLog) -> int:
    seq = first(log, '"hostname"', "LON-3", kind="decision")
    alter(log, seq, '"ldn-lon-3"', '"ldn-lon-4"')
    return seq


def input_job_history(log: MemoryLog) -> int:
    seq = first(log, '"reason":"job_open"', kind="decision")
    alter(log, seq, '"report_by_us":1', '"report_by_us":2')
    return seq


def input_mangled(log: MemoryLog) -> int:
    seq = first(log, '"facts":{', kind="decision")
    alter(log, seq, '"facts":{', '"fazts":{')
    return seq


def input_policy(log: MemoryLog) -> int:
    seq = first(log, '"policy_digest":"', kind="decision")
    alter(log, seq, '"policy_digest":"', '"policy_digest":"0')
    return seq


def input_open_jobs(log: MemoryLog) -> int:
    seq = first(log, '"site_open_jobs":0', '"compliant"', kind="decision")
    alter(log, seq, '"site_open_jobs":0', '"site_open_jobs":1')
    return seq


def policy_blob(log: MemoryLog) -> int:
    digest = next(digest for digest, body in log.blobs.items() if b"max_jobs" in body)
    log.blobs[digest] = log.blobs[digest].replace(b"7d", b"8d")
    return log.decisions()[0].seq


def policy_blob_not_text(log: MemoryLog) -> int:
    digest = next(digest for digest, body in log.blobs.items() if b"max_jobs" in body)
    log.blobs[digest] = b"\xff" + log.blobs[digest]
    return log.decisions()[0].seq


def catalogue_blob(log: MemoryLog) -> int:
    seq = first(log, '"outside_window"', kind="decision")
    digest = json.loads(log.rows[seq - 1].body)["inputs"]["catalog_digest"]
    log.blobs[digest] = log.blobs[digest].replace(b"15.7.3", b"15.7.4", 1)
    return seq


def blob_missing(log: MemoryLog) -> int:
    seq = first(log, '"outside_window"', kind="decision")
    del log.blobs[json.loads(log.rows[seq - 1].body)["inputs"]["catalog_digest"]]
    return seq


def job_altered(log: MemoryLog) -> int:
    seq = first(log, "drydock.job.issued.v1")
    alter(log, seq, '"method":"ddm"', '"method":"mdm_command"')
    return seq


def signed_job_differs(log: MemoryLog) -> int:
    seq = first(log, "drydock.job.issued.v1")
    payload = json.loads(log.rows[seq - 1].body)["data"]["signed"]["payload"]
    alter(log, seq, payload, payload[4:])
    return seq


def job_deleted(log: MemoryLog) -> int:
    seq = first(log, "drydock.job.issued.v1")
    delete(log, seq)
    return seq - 1


def stored_device(log: MemoryLog) -> int:
    log.kept_devices["LON-1"] = log.kept_devices["LON-1"].replace(b"120.5", b"110.5")
    return max(row.seq for row in log.rows if row.key == "LON-1" and row.kind == "event")


def stored_job_history(log: MemoryLog) -> int:
    del log.kept_job_histories["LON-1"]
    return max(row.seq for row in log.rows if row.key == "LON-1" and row.kind == "event")


Tamper = Callable[[MemoryLog], int]
TAMPERINGS: dict[Tamper, tuple[Check, str]] = {
    event_version: (Check.FROM_LOG, "inputs.device.facts.os_version[1]"),
    event_unreadable: (Check.COMPLETE, "body"),
    event_type: (Check.COMPLETE, "type"),
    event_id: (Check.COMPLETE, "id"),
    event_deleted: (Check.FROM_LOG, "inputs.device.facts.serial"),
    row_missing: (Check.COMPLETE, "seq"),
    rows_out_of_order: (Check.COMPLETE, "seq"),
    event_after_its_decision: (Check.FROM_LOG, "inputs.device.facts.serial"),
    policy_event: (Check.COMPLETE, "data.digest"),
    halt_deleted: (Check.FROM_LOG, "inputs.halts[0]"),
    advisory_event: (Check.FROM_LOG, "inputs.catalog_digest"),
    decision_reason: (Check.FROM_RECORD, "decision.reason"),
    decision_byte: (Check.COMPLETE, "body"),
    decision_deleted: (Check.ORDERED, "job"),
    decision_unknown_field: (Check.COMPLETE, "decision.supersedez"),
    decision_moved: (Check.COMPLETE, "inputs.now"),
    decision_of_another_mac: (Check.COMPLETE, "key"),
    input_that_the_decision_uses: (Check.FROM_RECORD, "decision.gates[12].detail"),
    input_that_the_decision_ignores: (Check.FROM_LOG, "inputs.device.facts.hostname[1]"),
    input_job_history: (Check.FROM_LOG, "inputs.job_history[0].report_by_us"),
    input_mangled: (Check.FROM_RECORD, "inputs"),
    input_policy: (Check.FROM_RECORD, "inputs"),
    input_open_jobs: (Check.FROM_LOG, "inputs.site_open_jobs"),
    policy_blob: (Check.FROM_RECORD, "inputs"),
    policy_blob_not_text: (Check.FROM_RECORD, "inputs"),
    catalogue_blob: (Check.FROM_RECORD, "inputs"),
    blob_missing: (Check.FROM_RECORD, "inputs"),
    job_altered: (Check.ORDERED, "job.method"),
    signed_job_differs: (Check.ORDERED, "signed.payload"),
    job_deleted: (Check.ORDERED, "job"),
    stored_device: (Check.STATE, "state.device.facts.free_disk_gb[1]"),
    stored_job_history: (Check.STATE, "state.job_history"),
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_found_with_its_check_field_and_entry(tamper: Tamper) -> None:
    log = copied()
    seq = tamper(log)
    found = verify(log, state=log).difference
    assert found is not None
    assert (found.check, found.field, found.seq) == (*TAMPERINGS[tamper], seq)
    assert found.recorded != found.expected
    assert verify(log, state=log, fast_paths=False) == verify(log, state=log)


def test_records_of_an_untouched_log_are_compared_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = verify(STORY, state=STORY, fast_paths=False)

    def refuse(entry: Entry) -> None:
        raise AssertionError(f"entry {entry.seq} was decoded")

    monkeypatch.setattr("pipeline.replay.verify.read_record", refuse)
    assert verify(STORY, state=STORY) == plain


def test_a_difference_names_the_macs_last_event_before_it() -> None:
    log = copied()
    event_version(log)
    found = verify(log).difference
    assert found is not None
    assert found.after_seq == first(log, "LON-2", '"os_version":"15.7.1"', kind="event")
    assert (found.udid, found.serial) == ("LON-2", "SNLON-2")
    assert (found.recorded, found.expected) == ("15.7.2", "15.7.1")


def test_an_altered_event_after_the_last_decision_is_found_in_the_stored_state() -> None:
    driver = Driver()
    driver.report("LON-1", battery_percent=50.0)
    driver.report("LON-1", battery_percent=77.0)
    log = driver.finish()
    alter(log, len(log.rows), "77.0", "76.0")
    assert verify(log).difference is None
    found = verify(log, state=log).difference
    assert found is not None
    assert (found.check, found.field) == (Check.STATE, "state.device.facts.battery_percent[1]")


def test_order_free_events_may_be_swapped() -> None:
    log = copied()
    swap(log, 2, 3)
    assert log.rows != STORY.rows
    assert verify(log, state=log).difference is None


def test_fields_of_an_older_version_may_be_absent() -> None:
    log = copied()
    seq = first(log, '"supersedes":null,', kind="decision")
    alter(log, seq, '"supersedes":null,', "")
    assert verify(log, state=log).difference is None


def test_a_log_without_policy_has_no_decisions_to_check() -> None:
    driver = Driver(policy=None)
    driver.report("LON-1")
    log = driver.finish()
    report = verify(log, state=log)
    assert (report.events, report.decisions, report.difference) == (1, 0, None)


# --- periods ---


def test_only_decisions_of_the_period_are_checked() -> None:
    log = copied()
    seq = first(log, '"reason":"outside_window"', kind="decision")
    alter(log, seq, '"reason":"outside_window"', '"reason":"cooling_down"')
    at = log.rows[seq - 1].at
    assert verify(log, since=at + timedelta(minutes=1)).difference is None
    assert verify(log, until=at).difference is None
    assert verify(log, since=at, until=at + timedelta(minutes=1)).difference is not None


def test_events_before_the_period_are_folded() -> None:
    log = copied()
    seq = first(log, "LON-3", '"os_version":"15.7.2"', kind="event")
    alter(log, seq, '"os_version":"15.7.2"', '"os_version":"15.7.1"')
    found = verify(log, since=START + timedelta(hours=1)).difference
    assert found is not None
    assert found.field == "inputs.device.facts.os_version[1]"
    assert found.at > START


def test_with_a_udid_only_the_decisions_of_that_mac_are_checked() -> None:
    log = copied()
    decision_reason(log)  # of LON-1
    report = verify(log, udid="TYO-1")
    assert report.difference is None
    assert report.decisions == len([row for row in log.decisions() if row.key == "TYO-1"])
    found = verify(log, udid="LON-1").difference
    assert found is not None
    assert found.check is Check.FROM_RECORD


def test_progress_ends_at_the_last_entry() -> None:
    reported: list[int] = []
    verify(STORY, progress=reported.append)
    assert reported[-1] == len(STORY.rows)


# --- any byte ---


@given(st.data())
def test_a_changed_byte_is_found_or_has_no_effect(data: st.DataObject) -> None:
    log = copied()
    index = data.draw(st.integers(0, len(log.rows) - 1))
    row = log.rows[index]
    offset = data.draw(st.integers(0, len(row.body) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != row.body[offset]))
    body = row.body[:offset] + bytes([byte]) + row.body[offset + 1 :]
    log.rows[index] = row._replace(body=body)
    if verify(log, state=log).difference is not None:
        return
    if row.kind == "decision":
        assert read_record(log.rows[index]) == read_record(row)
    else:
        assert folded(log) == folded(STORY)


def folded(log: MemoryLog) -> object:
    reconciler = Reconciler()
    for row in log.entries(kind="event"):
        reconciler.fold(decode(row.body))
    return reconciler.fleet.devices, reconciler.fleet.job_histories
