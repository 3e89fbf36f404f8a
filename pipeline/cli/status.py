"""`drydock status`: the state of a fleet."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.cli.log_options import format_time, open_log, print_table
from pipeline.cli.output import emit, fail, fail_attention
from pipeline.cli.service_client import AsJson, DataDir

if TYPE_CHECKING:
    from pipeline.embedded.status import Status

_WORST_FIRST = ("exploited", "critical", "high", "medium", "low", "routine")


def status(data_dir: DataDir, as_json: AsJson = False) -> None:
    """Show the state of the fleet; the service may be running.

    Exit 1 if something needs a person: no policy is in force, exposed Macs are past their deadline,
    or there are dead letters because of a bug. Exit 2 if there is no data directory.
    """
    import sqlite3

    from pipeline.embedded.status import read_status

    with open_log(data_dir) as log:
        try:
            found = read_status(log, datetime.now(UTC))
        except (ValueError, KeyError, sqlite3.Error) as error:
            fail(
                f"cannot read the state in {data_dir}: {error}; use the Drydock version that"
                " wrote it, or restore a backup"
            )
    if as_json:
        emit(json.dumps(found.to_json()))
    else:
        _print(found)
    if found.problems:
        fail_attention("; ".join(found.problems))


def _print(found: "Status") -> None:
    emit(f"{found.devices} Macs; last input {format_time(found.last_at) or 'never'}")
    emit(f"policy {found.policy or 'none'}; halted: {', '.join(found.halts) or 'nothing'}")
    sites = sorted({*found.exposed, *found.open_jobs, *found.dry_run})
    rows = [
        (
            site or "(no site)",
            *(str(found.exposed.get(site, {}).get(worst, 0)) for worst in _WORST_FIRST),
            str(found.overdue.get(site, 0)),
            str(sum(found.open_jobs.get(site, {}).values())),
        )
        for site in sites
    ]
    if rows:
        print_table(("site", *_WORST_FIRST, "overdue", "open jobs"), rows, title="Exposed Macs")
    withheld = [
        (site, action, str(count))
        for site, by_action in found.dry_run.items()
        for action, count in by_action.items()
    ]
    if withheld:
        columns = ("site", "action", "Macs whose job would have been sent")
        print_table(columns, withheld, title="Dry run")
    reasons = [
        (verdict, reason, str(count))
        for verdict, by_reason in found.decisions.items()
        for reason, count in sorted(by_reason.items(), key=lambda item: -item[1])
    ]
    if reasons:
        print_table(("decision", "reason", "Macs"), reasons, title="Macs by decision")
    codes: Counter[str] = Counter()
    for by_code in found.findings.values():
        codes.update(by_code)
    if codes:
        counts = [(code, str(count)) for code, count in codes.most_common()]
        print_table(("finding", "Macs"), counts, title="Findings")
    if found.feed_findings:
        feeds = [(one.code.value, one.advisory_id, one.detail) for one in found.feed_findings]
        print_table(("code", "release", "feeds"), feeds, title="Feeds that disagree")
    if found.dead_letters:
        letters = [(code, str(count)) for code, count in found.dead_letters.items()]
        print_table(("code", "inputs"), letters, title="Dead letters")
