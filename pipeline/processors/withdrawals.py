"""The check of a withdrawal of a job: a worker signs it like the job itself. Pure."""

from schemas.dead_letters import DeadLetterCode, Problem
from schemas.envelope import Event, JobSupersededEvent
from schemas.signed_payloads import PublicKeys
from schemas.signed_records import WITHDRAWAL_RECORD, verify_record
from schemas.signing import SignatureError


def withdrawal_problem(event: Event, raw: bytes, keys: PublicKeys) -> Problem | None:
    """Return the problem of a withdrawal that none of `keys` signed; None for any other event."""
    if not isinstance(event, JobSupersededEvent):
        return None
    try:
        verify_record(raw, WITHDRAWAL_RECORD, keys)
    except SignatureError as error:
        return Problem(DeadLetterCode.UNSIGNED, str(error), "$.signature")
    return None
