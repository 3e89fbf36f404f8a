"""The part of a Mac's last decision that is kept, to notice a different one and to decide again."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from pipeline.state.compact.seen_days import DAY_US
from pipeline.state.device import to_us
from schemas.decisions import Decision, Reason, Severity, Verdict
from schemas.jobs import Action

# The bits of `LastDecision.waits_for`; stored, so a new action gets the next bit.
_BITS: Final = {
    Action.UPDATE: 1,
    Action.UPGRADE: 2,
    Action.REINSTALL: 4,
    Action.REIMAGE: 8,
    Action.REENROLL: 16,
    Action.RESTART: 32,
    Action.ACTIVATE: 64,
}


class LastDecision(NamedTuple):
    """A Mac's last decision: its fingerprint, and the values for the counts and the next decision.

    `recheck_us` is the time at which the Mac must be decided again without an event, in us since
    1970; 0 for never. `severity` is None for a Mac without CVEs; `deadline_us` is 0 without a
    deadline. `recheck_on_telemetry`: a report that brings only telemetry can change the decision.
    `waits_for`: the actions for which capacity of the site can change it, as `action_bits`.
    `findings` are the codes of the decision's findings.

    `exposed_us` is the time of the first release whose CVEs the Mac has, in us since 1970, 0 for
    none; `exploited` are those of its CVEs that are known to be exploited. They are only counted,
    and are not stored: `Reconciler.restore` works them out again.
    """

    fingerprint: bytes
    verdict: Verdict
    reason: Reason
    recheck_us: int
    site: str | None
    severity: Severity | None
    deadline_us: int
    recheck_on_telemetry: bool = True
    waits_for: int = 0
    findings: tuple[str, ...] = ()
    exposed_us: int = 0
    exploited: tuple[str, ...] = ()

    @property
    def waiting_actions(self) -> tuple[Action, ...]:
        """The actions for which capacity of the site can change the decision."""
        return tuple(action for action, bit in _BITS.items() if self.waits_for & bit)

    @property
    def wants_capacity(self) -> bool:
        """True if capacity of the site can change the decision."""
        return bool(self.waits_for)


def last_of(decision: Decision) -> LastDecision:
    """Return what a decision record shows of a last decision: without timers and exposure."""
    deadline = decision.deadline_at
    return LastDecision(
        b"",
        decision.decision,
        decision.reason,
        0,
        decision.site,
        decision.severity if decision.cves else None,
        0 if deadline is None else to_us(deadline),
        recheck_on_telemetry=False,
        findings=shared_codes(decision.findings),
    )


def action_bits(actions: Iterable[Action]) -> int:
    """Return these actions as the sum of their bits."""
    return sum(_BITS[action] for action in actions)


class LastDecisions:
    """The last decision of each Mac, and the counts that follow from them.

    `decided` is the number of Macs by site (empty for none), verdict and reason; `exposed` that of
    Macs with CVEs by site and severity; `exposed_days` the same also by the day of `exposed_us`,
    counted from 1970; `exploited` the number of Macs by their exploited CVEs, one key for all CVEs
    of a Mac; `findings` the number of Macs with a finding by site and code. Each change of a
    decision changes a few counts: no Mac is visited to count.
    """

    def __init__(self) -> None:
        self.by_udid: dict[str, LastDecision] = {}
        self.exposed: Counter[tuple[str, str]] = Counter()
        self.findings: Counter[tuple[str, str]] = Counter()
        self.decided: Counter[tuple[str, Verdict, Reason]] = Counter()
        self.exposed_days: Counter[tuple[str, str, int]] = Counter()
        self.exploited: Counter[tuple[str, ...]] = Counter()

    def put(self, udid: str, last: LastDecision) -> None:
        """Store the Mac's last decision in place of the one before."""
        self._count(self.by_udid.get(udid), last)
        self.by_udid[udid] = last

    def remove(self, udid: str) -> None:
        """Remove the decision of a record that has become part of a Mac."""
        self._count(self.by_udid.pop(udid, None), None)

    def count_overdue(self, now: datetime) -> Counter[str]:
        """Return the number of exposed Macs past their deadline, by site; visits every Mac.

        The key is an empty string for Macs without a site.
        """
        now_us = to_us(now)
        return Counter(
            last.site or ""
            for last in self.by_udid.values()
            if last.severity is not None and 0 < last.deadline_us <= now_us
        )

    def _count(self, old: LastDecision | None, new: LastDecision | None) -> None:
        """Move a Mac in the counts from its old decision to its new one."""
        for last, sign in ((old, -1), (new, 1)):
            if last is None:
                continue
            site = last.site or ""
            self.decided[site, last.verdict, last.reason] += sign
            if last.severity is not None:
                self.exposed[site, last.severity.value] += sign
                day = last.exposed_us // DAY_US
                _add(self.exposed_days, (site, last.severity.value, day), sign)
            if last.exploited:
                _add(self.exploited, last.exploited, sign)
            for code in last.findings:
                self.findings[site, code] += sign


_Key = TypeVar("_Key")


def _add(counts: Counter[_Key], key: _Key, sign: int) -> None:
    """Add to a count, and drop it at zero: new keys come with each release."""
    counts[key] += sign
    if not counts[key]:
        del counts[key]


@lru_cache(maxsize=1024)
def shared_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Return an equal tuple of finding codes, the same object for most Macs: there are few."""
    return codes


def fingerprint(decision: Decision) -> bytes:
    """Return a 16-byte hash of the decision without its gates and evidence.

    The details of gates, such as free disk space, and the evidence change without a change of the
    decision, so they are excluded.
    """
    # Joined by hand: pydantic's JSON takes four times as long. The separators are safe because no
    # text of a decision has control characters.
    target, deadline, next_at = decision.target, decision.deadline_at, decision.next_eligible_at
    text = "\x1f".join(
        [
            decision.udid,
            decision.serial or "",
            decision.site or "",
            decision.decision,
            decision.action or "",
            decision.method or "",
            "" if target is None else f"{target.version} {target.build}",
            decision.reason,
            *decision.advisory_ids,
            "\x1e",
            *decision.cves,
            "\x1e",
            *decision.exploited_cves,
            "\x1e",
            "" if deadline is None else str(to_us(deadline)),
            "" if next_at is None else str(to_us(next_at)),
            decision.severity or "",
            "erases" if decision.erases else "",
            decision.job_id or "",
            decision.intent or "",
            "" if decision.generation is None else str(decision.generation),
            decision.supersedes or "",
            *decision.findings,
        ]
    )
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
