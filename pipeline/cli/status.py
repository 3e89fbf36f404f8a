"""`drydock status`: the state of a fleet."""

import json
from collections import Counter
from typing import TYPE_CHECKING

from pipeline.cli.log_options import AsJson, format_time, print_table
from pipeline.cli.output import emit, fail_attention
from pipeline.cli.readings import (
    ReadDir,
    Server,
    ServiceReadings,
    TokenFile,
    open_readings,
)

if TYPE_CHECKING:
    from pipeline.embedded.status import Status

_WORST_FIRST = ("exploited", "critical", "high", "medium", "low", "routine")


def status(
    data_dir: ReadDir = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of the fleet; the service may be running.

    Exit 1 if something needs a person: no policy is in force, Drydock itself halted an action,
    exposed Macs are past their deadline, there are dead letters because of a bug, or the service is
    not ready (its volume may be full), has ended without being stopped, or is unknown. Exit 2 if
    there is no data directory, or no service at the URL.
    """
    from importlib.metadata import version

    from pipeline.cli.service_state import ask_service, read_service_state

    with open_readings(data_dir, server, token_file) as readings:
        found = readings.status()
        lag = None
        if isinstance(readings, ServiceReadings):
            lag, service = readings.lag(), ask_service(readings.url)
        else:
            assert data_dir is not None
            service = read_service_state(data_dir)
    own_version = version("drydock")
    problems = [*filter(None, [service.problem]), *found.problems]
    if as_json:
        more = {"service": service.to_json(), "version": own_version, "problems": problems}
        emit(json.dumps(found.to_json() | more | ({} if lag is None else {"lag": lag})))
    else:
        where = "" if service.url is None else f" at {service.url}"
        emit(f"service {service.state.value.replace('_', ' ')}{where}; drydock {own_version}")
        if lag is not None:
            read = f"read at {lag['read_at']}" if lag["read_at"] else "not read yet"
            emit(f"{lag['records']:,} records behind Kafka, {read}")
        _print(found)
    if problems:
        fail_attention("; ".join(problems))


def _print(found: "Status") -> None:
    emit(f"{found.devices} Macs; last input {format_time(found.last_at) or 'never'}")
    _print_in_force(found)
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


def _print_in_force(found: "Status") -> None:
    """Print the policy, halts and strikes in force."""
    policy = found.policy_details
    if policy is None:
        emit("policy none")
    else:
        why = f" ({policy['why']})" if policy["why"] else ""
        emit(f"policy {policy['digest']}, by {policy['by']} since {policy['since']}{why}")
    emit(f"halted: {', '.join(found.halts) or 'nothing'}")
    for halt in found.halt_details:
        until = f", until {halt['until']}" if halt["until"] else ""
        why = halt["why"] or "no reason"
        emit(f"  {halt['scope']} by {halt['by']} since {halt['since']}{until}: {why}")
    for one in found.strikes:
        ended = "" if one["has_effect"] == "yes" else " (its source states something else now)"
        emit(f"struck: {one['scope']} by {one['by']} since {one['since']}: {one['why']}{ended}")
