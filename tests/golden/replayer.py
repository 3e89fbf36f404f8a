"""The core under the golden record: the only file of the replay that uses product code.

When the core gets another interface, only this file changes: `Replayer` keeps its four methods.
It has no executors: their results and the Macs' reports are recorded inputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.embedded.log import Log
from pipeline.embedded.store import Store
from pipeline.embedded.transaction import Committed
from pipeline.embedded.writer import Writer
from pipeline.processors.dead_letters import SOURCE
from schemas.dead_letters import DeadLetter, make_dead_letter
from schemas.envelope import Event, InvalidEvent, decode
from schemas.signed_payloads import verify_job
from schemas.signing import Signed
from tests.factories.sites import JOBS_KEY, KEYS
from tests.golden.golden_file import Output, canonical


class Replayer:
    """Drydock's core on a store in a temporary folder, with the fixed signing key of the tests.

    Each method returns the outputs of the call in the order of the log.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store.open(folder)
        # A replay that is interrupted begins again, so no write has to survive a power failure.
        self._store._db.execute("PRAGMA synchronous=OFF")
        self._writer = Writer(self._store, JOBS_KEY, KEYS, self._committed)
        self._inputs: set[tuple[str, str]] = set()
        self._letters: list[DeadLetter] = []
        self._seq = 0

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def accept(self, inputs: Sequence[bytes], now: datetime) -> list[Output]:
        """Accept the events one by one; bytes that are no event become dead letters.

        The core that wrote the record decided after each event, today's after each batch.
        """
        events: list[Event] = []
        letters: list[DeadLetter] = []
        for raw in inputs:
            try:
                events.append(decode(raw))
            except InvalidEvent as error:
                letter = make_dead_letter(
                    error, raw, source=SOURCE, origin="", received_at=now, redacted=raw
                )
                letters.append(letter)
        self._inputs |= {(event.source, event.id) for event in events}
        self._writer.accept((), letters, now)
        for event in events:
            self._writer.accept((event,), (), now)
        return self._outputs()

    def advance(self, now: datetime) -> list[Output]:
        """Decide for the Macs whose time has come, until none is left."""
        while self._writer.reconciler.queue.has_due(now):
            self._writer.advance(now)
        return self._outputs()

    def sweep(self, now: datetime) -> list[Output]:
        """Decide for every Mac again."""
        self._writer.reconciler.queue.start_sweep(now)
        while self._writer.reconciler.next_due_at(now) == now:
            self._writer.advance(now)
        return self._outputs()

    def _committed(self, committed: Committed) -> None:
        self._letters += committed.dead_letters

    def _outputs(self) -> list[Output]:
        last = self._store.last_seq()
        found = list(_logged(self._store, self._inputs, self._seq)) if last > self._seq else []
        found += [_dead_letter(one) for one in self._letters]
        self._letters.clear()
        self._seq = last
        return found


def logged_outputs(folder: Path, inputs: Iterable[bytes]) -> list[Output]:
    """Return the decisions and events in a data directory's log, without these inputs."""
    known: set[tuple[str, str]] = set()
    for raw in inputs:
        with suppress(InvalidEvent):
            event = decode(raw)
            known.add((event.source, event.id))
    with Log.open(folder) as log:
        return list(_logged(log, known, 0))


def verified_job_id(envelope: Any) -> str:
    """Return the job id in a DSSE envelope that the signing key of the tests signed.

    Raises SignatureError for another key or other bytes.
    """
    return verify_job(Signed.model_validate(envelope), KEYS.jobs).job_id


def _logged(log: Log, inputs: set[tuple[str, str]], after: int) -> Iterator[Output]:
    for row in log.entries(after=after):
        if row.kind == "decision":
            yield Output("decision", row.body)
        elif (row.source, row.id) not in inputs:
            yield Output("event", row.body)


def _dead_letter(dead: DeadLetter) -> Output:
    # Error texts and origins are prose and may change; the code and the bytes may not.
    kept = {"code": dead.code.value, "sha256": dead.raw_sha256}
    return Output("dead_letter", canonical(kept))
