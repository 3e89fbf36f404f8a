"""The part of a Mac's last decision that is kept, to notice a different one and to decide again."""

import hashlib
from collections import Counter
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from pipeline.state.device import to_us
from schemas.decisions import Decision, Reason, Severity, Verdict


class LastDecision(NamedTuple):
    """A Mac's last decision: its fingerprint, and the values for the counts and the next decision.

    `recheck_us` is the time at which the Mac must be decided again without an event, in us since
    1970; 0 for never. `severity` is None for a Mac without CVEs; `deadline_us` is 0 without a
    deadline. `recheck_on_telemetry`: a report that brings only telemetry can change the decision.
    `waits_for_capacity`: the end of another job of the site can change it. `findings` are the codes
    of the decision's findings.
    """

    fingerprint: bytes
    verdict: Verdict
    reason: Reason
    recheck_us: int
    site: str | None
    severity: Severity | None
    deadline_us: int
    recheck_on_telemetry: bool = True
    waits_for_capacity: bool = False
    findings: tuple[str, ...] = ()

    @property
    def wants_capacity(self) -> bool:
        """True if `waits_for_capacity`, or if the decision is a hold because the site is full."""
        return self.waits_for_capacity or self.reason is Reason.SITE_FULL


class LastDecisions:
    """The last decision of each Mac, and the counts that follow from them.

    `exposed` is the number of Macs with CVEs by site (empty for none) and severity, `findings` the
    number of Macs with a finding by site and code.
    """

    def __init__(self) -> None:
        self.by_udid: dict[str, LastDecision] = {}
        self.exposed: Counter[tuple[str, str]] = Counter()
        self.findings: Counter[tuple[str, str]] = Counter()

    def put(self, udid: str, last: LastDecision) -> None:
        """Store the Mac's last decision in place of the one before."""
        self._count_exposed(self.by_udid.get(udid), last)
        self.by_udid[udid] = last

    def remove(self, udid: str) -> None:
        """Remove the decision of a record that has become part of a Mac."""
        self._count_exposed(self.by_udid.pop(udid, None), None)

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

    def _count_exposed(self, old: LastDecision | None, new: LastDecision | None) -> None:
        """Move a Mac in the counts from its old decision to its new one."""
        for last, sign in ((old, -1), (new, 1)):
            if last is None:
                continue
            site = last.site or ""
            if last.severity is not None:
                self.exposed[site, last.severity.value] += sign
            for code in last.findings:
                self.findings[site, code] += sign


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
