"""Read requests to a state with its log: the embedded service, or the view of `drydock query`.

The same functions serve the commands that read a data directory.
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, Final, Protocol

from pydantic import TypeAdapter

from pipeline.embedded.list_selection import ListName, Selection, selected_rows
from pipeline.embedded.log import Log, StoredDeadLetter
from pipeline.embedded.mac_names import UnknownMacError, udid_of
from pipeline.embedded.status import status_of
from pipeline.reconcile.reconciler import Reconciler
from pipeline.replay.explain import Explanation, explain
from pipeline.replay.operator_steps import PutInForce, read_policies


class ReadableState(Protocol):
    """A log, and the state in memory at its end."""

    @property
    def store(self) -> Log:
        """The log."""

    @property
    def reconciler(self) -> Reconciler:
        """The state."""


LETTERS_OF_A_PAGE: Final = 200
Read = Callable[[ReadableState, datetime], Any]


def status(state: ReadableState, now: datetime) -> Any:
    """Return the status of the fleet at `now` as JSON values (`Status.to_json`)."""
    return status_of(state.store, state.reconciler, now).to_json()


def device(name: str) -> Read:
    """Return the request that reads one Mac by UDID, serial number, enrollment id or host name.

    It gives a dict of JSON values with `udid`, `device`, `jobs` and `decision` (None if there is no
    decision); it raises UnknownMacError.
    """

    def read(state: ReadableState, _: datetime) -> Any:
        fleet = state.reconciler.fleet
        udid = udid_of(fleet, name)
        decided = state.store.last_decision(udid)
        return {
            "udid": udid,
            "device": fleet.merged_device(udid).to_wire(),
            "jobs": [entry.to_wire() for entry in fleet.job_histories.get(udid, ())],
            "decision": None if decided is None else json.loads(decided)["decision"],
        }

    return read


def explanation(name: str, at: datetime | None, last_seq: int | None) -> Read:
    """Return the request for the Explanation of one Mac as JSON bytes; it raises UnknownMacError.

    The arguments are those of `pipeline.replay.explain.explain`; `name` may be a host name too.
    `read_explanation` reads the bytes.
    """

    def read(state: ReadableState, _: datetime) -> Any:
        found = explain(state.store, name, at=at, last_seq=last_seq)
        if found is None:
            udid = udid_of(state.reconciler.fleet, name)
            found = explain(state.store, udid, at=at, last_seq=last_seq)
        if found is None:
            raise UnknownMacError(f"the log has no entry of {name!r}")
        return _explanations().dump_json(found)

    return read


def read_explanation(raw: bytes) -> Explanation:
    """Return the Explanation in a response. Raises ValueError for other bytes."""
    return _explanations().validate_json(raw)


def rows(name: ListName, selection: Selection) -> Read:
    """Return the request for the selected rows of a list; it raises SelectionError."""

    def read(state: ReadableState, now: datetime) -> Any:
        return list(selected_rows(name, state.reconciler, now, selection))

    return read


def policies(state: ReadableState, _: datetime) -> Any:
    """Return the policies of the log (`read_policies`) as JSON bytes."""
    return _policies().dump_json(read_policies(state.store))


def read_policies_of(raw: bytes) -> list[PutInForce]:
    """Return the policies in a response. Raises ValueError for other bytes."""
    return _policies().validate_json(raw)


def dead_letters(
    *,
    seq: int | None = None,
    open_only: bool = False,
    code: str | None = None,
    after: int = 0,
    limit: int | None = None,
) -> Read:
    """Return the request for a page of dead letters (`Log.dead_letters`) as JSON bytes.

    A page has at most LETTERS_OF_A_PAGE of them, since each has the bytes of its input.
    """
    size = min(limit or LETTERS_OF_A_PAGE, LETTERS_OF_A_PAGE)

    def read(state: ReadableState, _: datetime) -> Any:
        found = state.store.dead_letters(
            seq=seq, open_only=open_only, code=code, after=after, limit=size
        )
        return _letters().dump_json(found)

    return read


def read_dead_letters(raw: bytes) -> list[StoredDeadLetter]:
    """Return the dead letters in a response. Raises ValueError for other bytes."""
    return _letters().validate_json(raw)


# Built at the first use: building them takes longer than a short command does.
@cache
def _explanations() -> TypeAdapter[Explanation]:
    return TypeAdapter(Explanation)


@cache
def _letters() -> TypeAdapter[list[StoredDeadLetter]]:
    return TypeAdapter(list[StoredDeadLetter])


@cache
def _policies() -> TypeAdapter[list[PutInForce]]:
    return TypeAdapter(list[PutInForce])
