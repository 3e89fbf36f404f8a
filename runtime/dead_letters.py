"""The log line of a dead letter."""

from runtime.logs import Log
from schemas import logkeys as key
from schemas.dead_letters import DeadLetter, DeadLetterCode


def log_dead_letter(log: Log, letter: DeadLetter) -> None:
    """Log one stored dead letter: as an error if its code is `bug`, else as a warning."""
    fields = {key.ERROR_CODE: letter.code, key.SOURCE: letter.source, key.DETAIL: letter.detail}
    is_bug = letter.code is DeadLetterCode.BUG
    (log.error if is_bug else log.warning)("input dead-lettered", **fields)
