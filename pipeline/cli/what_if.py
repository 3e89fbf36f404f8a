"""The output of `drydock replay --policy`: decisions that another policy would change."""

from collections.abc import Iterator
from typing import Any

from pipeline.cli.log_options import console, format_time, print_table
from pipeline.replay.counterfactual import COMPARED, ChangeKind, CounterfactualDiff, DecisionChange
from schemas.decisions import Decision

_SHOWN_CHANGES = 50
_KINDS = tuple(ChangeKind)


def diff_lines(diff: CounterfactualDiff) -> Iterator[dict[str, Any]]:
    """Yield one JSON object per changed decision, then one with the sums."""
    yield from map(_change_wire, diff.changes)
    yield _summary_wire(diff)


def print_diff(diff: CounterfactualDiff) -> None:
    """Print the sums by site and action, then by Mac, then the first changed decisions."""
    out = console()
    out.print(
        f"{diff.decisions:,} recorded decisions and {diff.macs:,} Macs at the end compared:"
        f" {len(diff.changes):,} decisions of {len(diff.by_mac):,} Macs differ"
    )
    if not diff.changes:
        return
    sums = [
        (site, action, *_numbers(counts))
        for (site, action), counts in diff.by_site_and_action.items()
    ]
    print_table(("site", "action", *_KINDS), sums, "\nBy site and action")
    names = {
        change.alternative.udid: change.alternative.serial or change.alternative.udid
        for change in diff.changes
    }
    macs = [(names[udid], *_numbers(counts)) for udid, counts in diff.by_mac.items()]
    print_table(("mac", *_KINDS), macs[:_SHOWN_CHANGES], "\nBy Mac")
    _print_rest(len(macs), "Macs")
    rows = [_change_row(change) for change in diff.changes[:_SHOWN_CHANGES]]
    columns = (
        "entry",
        "at",
        "mac",
        "site",
        "change",
        "recorded",
        "under this policy",
        "differs in",
    )
    print_table(columns, rows, "\nDecisions")
    _print_rest(len(diff.changes), "decisions")


def _print_rest(total: int, what: str) -> None:
    if total > _SHOWN_CHANGES:
        console().print(f"... and {total - _SHOWN_CHANGES:,} more {what}; --json prints them all")


def _numbers(counts: dict[ChangeKind, int]) -> tuple[str, ...]:
    return tuple(str(counts.get(kind, 0)) for kind in _KINDS)


def _change_row(change: DecisionChange) -> tuple[str, ...]:
    return (
        "end" if change.seq is None else str(change.seq),
        format_time(change.at),
        change.alternative.serial or change.alternative.udid,
        change.site or "-",
        change.kind.value,
        _describe(change.recorded, change.fields),
        _describe(change.alternative, change.fields),
        ", ".join(change.fields),
    )


def _describe(decision: Decision | None, fields: tuple[str, ...]) -> str:
    """Return a decision in a few words; `no policy` for None.

    Its method and its times are included if they are among `fields`.
    """
    if decision is None:
        return "no policy"
    words = [decision.decision.value]
    if decision.action is not None:
        words.append(decision.action.value)
    if decision.method is not None and "method" in fields:
        words.append(f"by {decision.method.value}")
    if decision.target is not None:
        words.append(str(decision.target.version))
    words.append(f"({decision.reason.value})")
    if "deadline_at" in fields:
        words.append(f"due {format_time(decision.deadline_at) or 'never'}")
    if "next_eligible_at" in fields and decision.next_eligible_at is not None:
        words.append(f"next {format_time(decision.next_eligible_at)}")
    return " ".join(words)


def _side(decision: Decision | None) -> dict[str, Any] | None:
    return None if decision is None else decision.model_dump(mode="json", include=set(COMPARED))


def _change_wire(change: DecisionChange) -> dict[str, Any]:
    return {
        "change": change.kind.value,
        "seq": change.seq,
        "at": change.at.isoformat(),
        "udid": change.alternative.udid,
        "serial": change.alternative.serial,
        "site": change.site,
        "action": change.action,
        "fields": list(change.fields),
        "then": _side(change.recorded),
        "under": _side(change.alternative),
    }


def _summary_wire(diff: CounterfactualDiff) -> dict[str, Any]:
    return {
        "policy_digest": diff.policy_digest,
        "decisions": diff.decisions,
        "macs": diff.macs,
        "changes": len(diff.changes),
        "by_site_and_action": [
            {"site": site, "action": action, **counts}
            for (site, action), counts in diff.by_site_and_action.items()
        ],
        "by_mac": diff.by_mac,
    }
