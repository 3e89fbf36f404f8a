"""Makes inputs and due work durable: one transaction for all that one call changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.embedded.store import Store
from pipeline.embedded.stored_state import StoredState, read_state
from pipeline.embedded.transaction import (
    Committed,
    quarantine_rows,
    reconciler_of,
    save_changes,
)
from pipeline.payload_signing import sign_job
from pipeline.reconcile.changes import SOURCE, Changes, Input, Rejection
from pipeline.reconcile.reconciler import Reconciler
from runtime.trusted_keys import KeyRing
from schemas.dead_letters import DeadLetter, Problem, encode_dead_letter, make_dead_letter
from schemas.envelope import Event, JobIssuedEvent, encode
from schemas.ids import logged_source
from schemas.jobs import Job, JobIssued

SLICE_SIZE: Final = 50
_ORIGIN: Final = "embedded"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Counts of one accepted input and of all that followed from it.

    `folded` are the given events that were new, `duplicates` those that were in the log already.
    `dead_letters`, `decisions` and `jobs` are all that the transaction stored, also for events that
    followed; `jobs` are the jobs issued. Of a broadcast event that concerns more Macs than one
    slice, the decisions for the others follow in later transactions.
    """

    folded: int
    duplicates: int
    dead_letters: int
    decisions: int
    jobs: int


class Writer:
    """The reconciler and the store with its durable state: memory never differs from the disk.

    `on_commit` is called with each transaction after it is durable. At most `slice_size` Macs that
    a broadcast event, a timer or a sweep concerns are decided in one transaction; requests are
    served between two.
    """

    def __init__(
        self,
        store: Store,
        signer: Ed25519PrivateKey,
        trust: KeyRing,
        on_commit: Callable[[Committed], None],
        *,
        sweep_every: timedelta | None = None,
        slice_size: int = SLICE_SIZE,
        fast_paths: bool = True,
    ) -> None:
        self._store = store
        self._signer = signer
        self._trust = trust
        self._on_commit = on_commit
        self._sweep_every = sweep_every
        self._slice_size = slice_size
        self._fast_paths = fast_paths
        self._loaded = StoredState()
        self.reconciler: Reconciler = self._load()

    def set_keys(self, signer: Ed25519PrivateKey, trust: KeyRing) -> None:
        """Sign new jobs with `signer`, and verify jobs and approvals with `trust`, from now on."""
        self._signer, self._trust = signer, trust
        self.reconciler.set_keys(jobs=trust.jobs, approvals=trust.approvals)

    @property
    def journals_are_doubtful(self) -> bool:
        """True if the list of journals that may lack orders could not be read at the start."""
        return self._loaded.journals_are_doubtful

    def quarantine(self, now: datetime, others: Sequence[DeadLetter] = ()) -> None:
        """Take the rows that could not be read out of the state tables, as dead letters.

        `others` are dead letters to store with them. Raises StoreError if the write fails.
        """
        if not self._loaded.unreadable and not others:
            return
        with self._store.transaction("quarantine"):
            letters = [*quarantine_rows(self._store, self._loaded, now), *others]
            self._put_dead_letters(letters, now)
        self._loaded.unreadable.clear()
        self._report(Committed(now, (), (), tuple(letters), ()))

    def accept(
        self,
        events: Sequence[Event],
        dead_letters: Sequence[DeadLetter],
        now: datetime,
        *,
        settings: Mapping[str, bytes] | None = None,
        replayed: Sequence[int] = (),
    ) -> Accepted:
        """Make an input and all that follows from it durable, and return the counts of both.

        Raises StoreError if the write fails; then nothing of the input is accepted. An event that
        was logged before changes nothing. An event that admission rejects, or on which our code
        raises, becomes a dead letter with its bytes; the other events are accepted. `dead_letters`
        are stored as given, `settings` by name, in the same transaction. `replayed` are the numbers
        of dead letters to mark as replayed.
        """
        with self._reload_on_failure(now):
            new, duplicates = self._split_duplicates(events)
            changes = self.reconciler.apply(new, now)
            self.reconciler.decide_marked(now, self._slice_size, changes)
            with self._store.transaction("accept"):
                for name, setting in (settings or {}).items():
                    self._store.put_setting(name, setting)
                for seq in replayed:
                    self._store.mark_replayed(seq, now)
                committed = self._save(changes, [*dead_letters], duplicates, now)
        self._report(committed)
        return Accepted(
            folded=len(changes.inputs),
            duplicates=len(duplicates),
            dead_letters=len(committed.dead_letters),
            decisions=len(committed.decisions),
            jobs=sum(isinstance(event, JobIssuedEvent) for event in committed.events),
        )

    def advance(self, now: datetime) -> None:
        """Do due work of the reconciler for one slice of Macs, and make it durable.

        Raises StoreError if the write fails. Nothing is written if nothing changed.
        """
        with self._reload_on_failure(now):
            changes = self.reconciler.advance(now, self._slice_size)
            if changes.is_empty:
                return
            with self._store.transaction("advance"):
                committed = self._save(changes, [], [], now)
        self._report(committed)

    def _load(self) -> Reconciler:
        def sign(job: Job) -> JobIssued:
            return sign_job(job, self._signer, fast_paths=self._fast_paths)

        self._loaded = read_state(self._store)
        return reconciler_of(
            self._loaded,
            sign=sign,
            trust=self._trust,
            sweep_every=self._sweep_every,
            fast_paths=self._fast_paths,
        )

    @contextmanager
    def _reload_on_failure(self, now: datetime) -> Iterator[None]:
        """Load the reconciler again from the disk if the block raises, and raise again.

        The marks are lost, so that a sweep follows.
        """
        try:
            yield
        except Exception:
            self.reconciler = self._load()
            self.reconciler.queue.start_sweep(now)
            raise

    def _split_duplicates(self, events: Sequence[Event]) -> tuple[list[Input], list[Event]]:
        """Return the events that are new, as inputs, and those that the log or the batch has.

        An event that admission rejects counts as new: each arrival of it is a dead letter.
        """
        new: list[Input] = []
        duplicates: list[Event] = []
        seen: set[tuple[str, str]] = set()
        for event in events:
            name = (logged_source(event.sender, event.source), event.id)
            known = name in seen or self._store.has_event(*name)
            if known and self.reconciler.reject_reason(event) is None:
                duplicates.append(event)
            else:
                new.append(Input(event, encode(event, fast_paths=self._fast_paths)))
                seen.add(name)
        return new, duplicates

    def _save(
        self,
        changes: Changes,
        dead_letters: list[DeadLetter],
        duplicates: list[Event],
        now: datetime,
    ) -> Committed:
        """Write all changes and dead letters in the open transaction; return them."""
        events = save_changes(self._store, self.reconciler, changes, now)
        dead_letters += [_dead_letter(one, now) for one in changes.rejections]
        self._put_dead_letters(dead_letters, now)
        return Committed(
            now,
            tuple(events),
            tuple(changes.decisions),
            tuple(dead_letters),
            tuple(duplicates),
        )

    def _put_dead_letters(self, letters: Sequence[DeadLetter], now: datetime) -> None:
        for letter in letters:
            self._store.put_dead_letter(
                now,
                code=letter.code.value,
                source=letter.source,
                origin=letter.origin,
                body=encode_dead_letter(letter),
            )

    def _report(self, committed: Committed) -> None:
        if (
            committed.events
            or committed.dead_letters
            or committed.decisions
            or committed.duplicates
        ):
            self._on_commit(committed)


def _dead_letter(rejection: Rejection, now: datetime) -> DeadLetter:
    """Return the dead letter of an input, or of a Mac for which deciding raised."""
    event, udid = rejection.event, rejection.udid
    return make_dead_letter(
        Problem(rejection.code, rejection.detail),
        rejection.raw,
        source=SOURCE if event is None else event.source,
        origin=_ORIGIN if udid is None else udid,
        received_at=now if event is None else event.receivedat or now,
        redacted=rejection.raw,
        sender=None if event is None else event.sender,
    )
