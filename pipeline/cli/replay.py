"""`drydock replay`: list or verify past decisions, or try another policy. Publishes nothing."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.halt_switch import Bootstrap
from pipeline.cli.log_options import (
    TIME_HELP,
    AsJson,
    console,
    format_time,
    open_log,
    parse_option_time,
    print_table,
    progress,
)
from pipeline.cli.output import emit, fail, fail_attention
from pipeline.cli.readings import find_by_hostname

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pipeline.embedded.log import Log
    from pipeline.replay.verify import LogDifference, VerificationReport
    from schemas.decisions import Decision

_TABLE_ROWS = 500


def replay(  # noqa: PLR0913, PLR0917 - a command's options
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="The data directory of `drydock run` or `drydock query`."),
    ] = None,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Read the topics of a fleet: in no group, only reading.")
    ] = False,
    bootstrap: Bootstrap = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            envvar="DRYDOCK_KEYS_DIR",
            help="With --kafka: the key directory, of which only the trusted public keys are read.",
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help=f"From this time {TIME_HELP}.")] = None,
    until: Annotated[str | None, typer.Option(help=f"Before this time {TIME_HELP}.")] = None,
    serial: Annotated[
        str | None, typer.Option(help="One Mac: serial number, UDID or enrollment id.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Decisions about Macs of this site.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute the past again; exit 1 for a difference.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option(help="Show which decisions this policy would change.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List or verify past decisions, or try another policy.

    Without --verify and --policy it prints the recorded decisions in order. --verify computes every
    decision again from its record and folds every event again from the log's beginning; it prints
    the first difference and exits 1. Of a fleet it compares each record with the Mac's reports and
    jobs instead, because topics have no common order. --policy decides again from each decision's
    recorded inputs, prints which decisions change, and exits 0; the consequences of a change are
    not followed.
    """
    if verify and policy is not None:
        fail("--verify and --policy do not go together: give one of them")
    with _opened(data_dir, kafka, bootstrap, keys) as log:
        start, end = (
            parse_option_time("--since", since, log),
            parse_option_time("--until", until, log),
        )
        if start is not None and end is not None and start >= end:
            fail(f"--since {format_time(start)} is not before --until {format_time(end)}")
        udid = None if serial is None else _find_udid(log, serial)
        scope = _Scope(start, end, udid, site)
        if verify:
            _verify(log, scope, as_json=as_json)
        elif policy is not None:
            _what_if(log, policy, scope, as_json=as_json)
        else:
            _list(log, scope, as_json=as_json)


class _Scope(NamedTuple):
    """The selected decisions: with `since` <= time < `until`, of one Mac, of one site."""

    since: datetime | None
    until: datetime | None
    udid: str | None
    site: str | None


def _opened(
    data_dir: Path | None, kafka: bool, bootstrap: str | None, keys: Path | None
) -> "AbstractContextManager[Log]":
    """Return the log of a data directory, or of a fleet's topics. Exit 2 unless one is given."""
    if kafka is (data_dir is not None):
        fail("give --data-dir for a data directory, or --kafka for the topics of a fleet")
    if data_dir is not None:
        return open_log(data_dir)
    if keys is None:
        fail("--kafka needs --keys: records without the signature of a trusted key do not count")
    from pipeline.cli.topics_log import open_topics

    return open_topics(bootstrap, keys)


def _find_udid(log: "Log", name: str) -> str:
    """Return the log key of the Mac with this serial number, UDID or enrollment id.

    Exit 2 if the log has no such Mac.
    """
    from pipeline.replay.device_lookup import find_device_key

    return find_device_key(log, name) or find_by_hostname(log, name)


# --- list ---


def _list(log: "Log", scope: _Scope, *, as_json: bool) -> None:
    """Print the recorded decisions of the scope."""
    from pipeline.replay.log import read_record

    rows: list[tuple[str, ...]] = []
    shown = 0
    since, until, udid, site = scope
    for entry in log.entries(since=since, until=until, key=udid, kind="decision"):
        record = read_record(entry)
        decision, digest = record.decision, record.inputs.policy_digest
        if site not in {None, decision.site}:
            continue
        shown += 1
        if as_json:
            wire = {
                "seq": entry.seq,
                "at": entry.at.isoformat(),
                "policy_digest": digest,
                **decision.model_dump(mode="json"),
            }
            emit(json.dumps(wire))
            continue
        policy = (digest or "none")[:12]
        rows.append((str(entry.seq), format_time(entry.at), *_decision_row(decision), policy))
        if len(rows) == _TABLE_ROWS:
            _print_decisions(rows)
            rows.clear()
    if rows:
        _print_decisions(rows)
    if not as_json and not shown:
        console().print("There are no such decisions.")


_DECISION_COLUMNS = ("mac", "site", "decision", "action", "method", "target", "reason", "next")


def _decision_row(decision: "Decision") -> tuple[str, ...]:
    target = "" if decision.target is None else str(decision.target.version)
    return (
        decision.serial or decision.udid,
        decision.site or "-",
        decision.decision.value,
        "" if decision.action is None else decision.action.value,
        "" if decision.method is None else decision.method.value,
        target,
        decision.reason.value,
        format_time(decision.next_eligible_at),
    )


def _print_decisions(rows: list[tuple[str, ...]]) -> None:
    print_table(("seq", "at", *_DECISION_COLUMNS, "policy"), rows)


# --- verify ---


def _verify(log: "Log", scope: _Scope, *, as_json: bool) -> None:
    """Verify the log and print the counts. Exit 1 with the first difference, if there is one."""
    from pipeline.embedded.log import OFFSETS_SETTING
    from pipeline.replay.verify import verify
    from pipeline.replay.verify_topics import TopicsScope, verify_topics

    is_view = log.setting(OFFSETS_SETTING) is not None
    if scope.site is not None and not is_view:
        fail("--site goes with --verify for a fleet only: one process counts all sites together")
    with progress("verifying", log.last_seq(scope.until)) as report_progress:
        if is_view:
            report = verify_topics(
                log, TopicsScope(*scope), progress=report_progress, fast_paths=fast_paths_wanted()
            )
        else:
            report = verify(
                log,
                since=scope.since,
                until=scope.until,
                udid=scope.udid,
                state=log,
                progress=report_progress,
                fast_paths=fast_paths_wanted(),
            )
    if as_json:
        emit(json.dumps(_report_wire(report)))
    else:
        console().print(
            f"{report.decisions:,} decisions and {report.jobs:,} jobs checked,"
            f" {report.events:,} events folded: {1 if report.difference else 0} differences"
        )
    if report.difference is not None:
        fail_attention(_difference_line(report.difference))


def _difference_line(found: "LogDifference") -> str:
    from pipeline.replay.differences import shown

    mac = "" if found.udid is None else f", Mac {found.serial or found.udid}"
    after = "" if found.after_seq is None else f"; its last event before is entry {found.after_seq}"
    return (
        f"entry {found.seq} of {format_time(found.at)}{mac}: {found.check.value}: {found.field}"
        f" is {shown(found.recorded)}, expected {shown(found.expected)}{after}"
    )


def _report_wire(report: "VerificationReport") -> dict[str, Any]:
    from pipeline.replay.differences import shown

    found = report.difference
    return {
        "verified": found is None,
        "events": report.events,
        "decisions": report.decisions,
        "jobs": report.jobs,
        "difference": None
        if found is None
        else {
            "seq": found.seq,
            "at": found.at.isoformat(),
            "udid": found.udid,
            "serial": found.serial,
            "check": found.check.value,
            "field": found.field,
            "recorded": shown(found.recorded),
            "expected": shown(found.expected),
            "after_seq": found.after_seq,
        },
    }


# --- what if ---


def _what_if(log: "Log", policy: Path, scope: _Scope, *, as_json: bool) -> None:
    """Print the decisions that the policy in this file would change.

    Exit 2 if the file is unreadable or its policy is invalid.
    """
    from pipeline.cli.what_if import diff_lines, print_diff
    from pipeline.policy.file import PolicyError
    from pipeline.replay.counterfactual import counterfactual

    text = _policy_text(policy)
    try:
        with progress("deciding again", log.last_seq(scope.until)) as report_progress:
            diff = counterfactual(
                log,
                text,
                since=scope.since,
                until=scope.until,
                udid=scope.udid,
                site=scope.site,
                progress=report_progress,
                fast_paths=fast_paths_wanted(),
            )
    except PolicyError as error:
        fail("\n".join(f"{policy}:{problem}" for problem in error.problems))
    if as_json:
        for line in diff_lines(diff):
            emit(json.dumps(line))
    else:
        print_diff(diff)


def _policy_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8 text")
