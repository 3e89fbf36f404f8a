"""What is kept of an answer: enough to know whether the next one differs, and when to ask again."""

import hashlib
from typing import NamedTuple

from pipeline.state.device import to_us
from schemas.decisions import Decision, Reason, Severity, Verdict


class LastDecision(NamedTuple):
    """The last answer for a Mac, as little of it as is needed to know when to ask again.

    `recheck_on_telemetry`: a report that brings telemetry only can change it;
    `waits_for_capacity`: the end of another job of the site can.
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

    @property
    def wants_capacity(self) -> bool:
        """Whether the end of another job of the site can change it."""
        return self.waits_for_capacity or self.reason is Reason.SITE_FULL


def fingerprint(decision: Decision) -> bytes:
    """Names an answer, in 16 bytes. Gates are left out, their figures move while the answer stands,
    and the evidence, which an erase is ordered with but not by.

    Not by pydantic's JSON, which takes four times as long: no text here has control characters.
    """
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
