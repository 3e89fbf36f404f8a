"""Store of one agent: the newest facts about each Mac, and the answers to Drydock's own commands.

An MDM server shows neither its queue nor the answers: its webhooks are the only way back. They go
to the gateway, and come here as events. `drydock run` feeds the store from its log, an agent on
Kafka from the topics (`agents.mdm.reader`); the position of each feed is stored with its events. So
the file can be deleted: it is filled again from the log or the topics.

Events can arrive twice and in any order. An answer can arrive before its command is stored, and for
a command of another agent of the site.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from agents.mdm.commands import RequestType, command_uuid, may_be_ours
from agents.mdm.delivery import (
    IDLE,
    Answer,
    Delivery,
    SentCommand,
    delivery,
)
from agents.mdm.facts import Fact, MacFacts, Name, facts_of
from runtime import sqlite
from schemas.envelope import CommandReportedEvent, Event
from schemas.events.checkin import CommandError

_SCRIPT: Final = """
CREATE TABLE facts (
    udid TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    since_us INTEGER NOT NULL,
    PRIMARY KEY (udid, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE commands (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    udid TEXT NOT NULL,
    server TEXT NOT NULL,
    request_type TEXT NOT NULL,
    sent_us INTEGER NOT NULL,
    push_error TEXT NOT NULL,
    idle_us INTEGER,
    idle_seen_us INTEGER,
    second_idle_us INTEGER,
    confirmed INTEGER NOT NULL,
    closed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX commands_of_mac ON commands (udid);
CREATE INDEX commands_of_order ON commands (name, number);
CREATE TABLE answers (
    uuid TEXT NOT NULL,
    event_id TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    status TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (uuid, event_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE positions (feed TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT;
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, 1)
MAX_AHEAD: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FACTS: Final = "SELECT udid, name, value, at_us, since_us FROM facts"
_ANSWERS: Final = "SELECT uuid, event_id, at_us, status, content FROM answers"
_SET_FACT: Final = """
INSERT INTO facts VALUES (?1, ?2, ?3, ?4, ?4)
ON CONFLICT DO UPDATE SET value = ?3, at_us = ?4,
    since_us = CASE WHEN value = ?3 THEN since_us ELSE ?4 END
WHERE at_us <= ?4
"""
_COUNT_IDLE: Final = """
UPDATE commands SET
    second_idle_us = CASE WHEN idle_us < ?2 THEN coalesce(second_idle_us, ?2) END,
    idle_us = coalesce(idle_us, ?2),
    idle_seen_us = coalesce(idle_seen_us, ?3)
WHERE udid = ?1 AND sent_us < ?2 AND (idle_us IS NULL OR idle_us < ?2)
"""
_BEGIN_IDLE_ANEW: Final = """
UPDATE commands SET idle_us = NULL, idle_seen_us = NULL, second_idle_us = NULL
WHERE udid = ?1 AND uuid <> ?2 AND idle_us <= ?3
"""
_SENT: Final = """
SELECT uuid, name, number, udid, server, request_type, sent_us, push_error, idle_us, idle_seen_us,
    second_idle_us, confirmed, closed
FROM commands
"""


class FindingKind(StrEnum):
    """Kind of an answer that needs attention."""

    DIFFERENT_ANSWER = "different_answer"
    """A second final answer that differs from the first: the server delivered the command twice."""
    REPEATED_ANSWER = "repeated_answer"
    """A second final answer that is equal: the server or the Mac repeated it."""
    LATE_ANSWER = "late_answer"
    """The first final answer after the end of the job, to a command that is not safe to repeat."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer that needs attention. `command` is None for one that another agent sent."""

    kind: FindingKind
    uuid: str
    udid: str
    answer: Answer
    command: SentCommand | None


class QueryAnswer(StrEnum):
    """Kind of the first final answer to a query of the inventory."""

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Applied:
    """Effect of events: the Macs with news about a command, and the answers to report or count."""

    udids: frozenset[str]
    findings: tuple[Finding, ...]
    query_answers: tuple[QueryAnswer, ...] = ()


class AnswerStore:
    """The store in one file. Any thread may call it.

    `on_durable_write` is called around every commit. Opening raises the errors of
    `runtime.sqlite.open_database`, DamagedError also for a row that cannot be read, the methods
    sqlite3.Error.
    """

    def __init__(self, path: Path | str, on_durable_write: sqlite.Hook | None = None) -> None:
        self._db = sqlite.open_database(
            Path(path), _SCHEMA, sqlite.Durability.CACHE, on_durable_write=on_durable_write
        )
        self._lock = threading.Lock()
        try:
            self._check_rows(Path(path))
        except BaseException:
            self._db.close()
            raise

    def _check_rows(self, path: Path) -> None:
        """Raise DamagedError if a row cannot be read: the commands of its Mac would fail for ever.

        The events fill a new store.
        """
        try:
            for udid, *fact in self._db.execute(_FACTS):
                assert isinstance(udid, str)
                _fact(*fact)
            for row in self._db.execute(_SENT):
                _command(row)
            for uuid, *answer in self._db.execute(_ANSWERS):
                assert isinstance(uuid, str)
                _answer(*answer)
            self._db.execute("SELECT feed, position FROM positions").fetchall()
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise sqlite.DamagedError("read", path, f"a row is unreadable: {error}") from error
        except sqlite3.DatabaseError as error:
            if not sqlite.is_damage(error):
                raise
            raise sqlite.DamagedError("read", path, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # --- events in ---

    def add_events(
        self, events: Iterable[Event], now: datetime, positions: Mapping[str, int] | None = None
    ) -> Applied:
        """Fold events and store the new positions of their feeds, in one transaction.

        A time more than MAX_AHEAD after `now` counts as `now`: it would outrank every later one. A
        server's clock that is ahead by less keeps the order of its events. Events of other kinds
        change nothing.
        """
        udids: set[str] = set()
        findings: list[Finding] = []
        query_answers: list[QueryAnswer] = []
        with self._lock, self._db.transaction("answers"):
            for event in events:
                at = event.time if event.time <= now + MAX_AHEAD else now
                for name, value in facts_of(event):
                    text = json.dumps(value)
                    self._db.execute(_SET_FACT, (event.subject, name, text, _us(at)))
                if isinstance(event, CommandReportedEvent):
                    self._add_report(event, at, now, findings, query_answers)
                if event.subject not in udids and self._has_open_command(event.subject):
                    udids.add(event.subject)
            self._db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?)", (positions or {}).items()
            )
        udids |= {finding.udid for finding in findings}
        return Applied(frozenset(udids), tuple(findings), tuple(query_answers))

    def _add_report(
        self,
        event: CommandReportedEvent,
        at: datetime,
        now: datetime,
        findings: list[Finding],
        query_answers: list[QueryAnswer],
    ) -> None:
        """Store an Idle or an answer; add the findings about it, and the answer to a query."""
        data, udid = event.data, event.subject
        if data.status == IDLE:
            self._db.execute(_COUNT_IDLE, (udid, _us(at), _us(now)))
            return
        uuid = (data.command_uuid or "").upper()
        self._db.execute(_BEGIN_IDLE_ANEW, (udid, uuid, _us(at)))
        if not may_be_ours(uuid):
            return
        earlier = self._answers(uuid)
        answer = Answer(event.id, at, data.status, data.error_chain, data.install_actions)
        added = self._db.execute(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)",
            (uuid, event.id, _us(at), data.status, _content(answer)),
        ).rowcount
        if not added or not answer.is_final:
            return
        command = self._command(uuid)
        finals = [one for one in earlier if one.is_final]
        if finals:
            equal = any(one.content == answer.content for one in finals)
            kind = FindingKind.REPEATED_ANSWER if equal else FindingKind.DIFFERENT_ANSWER
            findings.append(Finding(kind, uuid, udid, answer, command))
        elif command is not None and command.is_query:
            is_done = answer.error is None
            query_answers.append(QueryAnswer.ACKNOWLEDGED if is_done else QueryAnswer.FAILED)
        elif command is not None and command.closed and not command.is_safe:
            findings.append(Finding(FindingKind.LATE_ANSWER, uuid, udid, answer, command))

    def _has_open_command(self, udid: str) -> bool:
        query = "SELECT 1 FROM commands WHERE udid = ? AND NOT closed LIMIT 1"
        return self._db.execute(query, (udid,)).fetchone() is not None

    def position(self, feed: str) -> int | None:
        """Return the stored position of a feed, None before the first."""
        with self._lock:
            row = self._db.execute(
                "SELECT position FROM positions WHERE feed = ?", (feed,)
            ).fetchone()
        return None if row is None else int(row[0])

    # --- commands out ---

    def record(self, command: SentCommand) -> None:
        """Store a command; again, with a new time, push error and confirmation.

        A closed one belongs to no job: a query of the inventory.
        """
        with self._lock, self._db.transaction("command"):
            self._db.execute(
                "INSERT INTO commands VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, ?, ?)"
                " ON CONFLICT DO UPDATE SET sent_us = excluded.sent_us,"
                " push_error = excluded.push_error, confirmed = excluded.confirmed",
                (
                    command.uuid,
                    command.order,
                    command.number,
                    command.udid,
                    command.server,
                    command.request_type,
                    _us(command.sent_at),
                    command.push_error,
                    command.confirmed,
                    command.closed,
                ),
            )

    def forget(self, uuid: str) -> None:
        """Delete a command that the server refused: it will not be delivered."""
        with self._lock, self._db.transaction("forget"):
            self._db.execute("DELETE FROM commands WHERE uuid = ?", (uuid,))

    def keep_newest(self, prefix: str, order: str) -> None:
        """Delete the commands whose orders begin with `prefix` and a slash, but not this order.

        Their answers are deleted too.
        """
        given = (f"{prefix}/", f"{prefix}0", order)
        with self._lock, self._db.transaction("newest"):
            self._db.execute(
                "DELETE FROM answers WHERE uuid IN (SELECT uuid FROM commands"
                " WHERE name >= ?1 AND name < ?2 AND name <> ?3)",
                given,
            )
            self._db.execute(
                "DELETE FROM commands WHERE name >= ?1 AND name < ?2 AND name <> ?3", given
            )

    def close_job(self, job_id: str) -> None:
        """Mark the commands of a job as those of an ended one: a later answer is a finding."""
        with self._lock, self._db.transaction("close"):
            self._db.execute(
                "UPDATE commands SET closed = 1 WHERE name >= ? AND name < ?",
                (f"{job_id}/", f"{job_id}0"),
            )

    def prune(self, before: datetime) -> None:
        """Delete closed commands sent before this time, and all answers of before this time."""
        with self._lock, self._db.transaction("prune"):
            self._db.execute("DELETE FROM commands WHERE closed AND sent_us < ?", (_us(before),))
            self._db.execute(
                "DELETE FROM answers WHERE at_us < ? AND uuid NOT IN (SELECT uuid FROM commands)",
                (_us(before),),
            )

    # --- questions ---

    def facts(self, udid: str) -> MacFacts:
        """Return the facts about a Mac; none for an unknown one."""
        with self._lock:
            return self._facts(udid)

    def deliveries(self, order: str, now: datetime) -> list[tuple[SentCommand, Delivery]]:
        """Return the commands of an order with their states at `now`, the first one first."""
        with self._lock:
            query = f"{_SENT} WHERE name = ? ORDER BY number"
            commands = [_command(row) for row in self._db.execute(query, (order,))]
            return [self._with_delivery(one, now) for one in commands]

    def unrecorded_delivery(
        self, order: str, request_type: RequestType, udid: str, now: datetime
    ) -> list[tuple[SentCommand, Delivery]]:
        """Return an order that another agent sent, with its state, by the answers to it.

        Empty without an answer. The command counts as sent at the first one.
        """
        uuid = command_uuid(order)
        with self._lock:
            answers = self._answers(uuid)
            if not answers:
                return []
            sent = SentCommand(
                uuid=uuid,
                order=order,
                number=0,
                udid=udid,
                server="",
                request_type=request_type,
                sent_at=answers[0].at,
            )
            return [self._with_delivery(sent, now)]

    def deliveries_to(self, udid: str, now: datetime) -> list[tuple[SentCommand, Delivery]]:
        """Return all commands to a Mac with their states at `now`, of open and of ended jobs."""
        with self._lock:
            query = f"{_SENT} WHERE udid = ? ORDER BY sent_us, uuid"
            commands = [_command(row) for row in self._db.execute(query, (udid,))]
            return [self._with_delivery(one, now) for one in commands]

    def answers(self, uuid: str) -> Sequence[Answer]:
        """Return the answers to a CommandUUID, oldest first."""
        with self._lock:
            return self._answers(uuid)

    def open_commands(self, server: str) -> int:
        """Return the number of commands of open jobs in a server's queues, at most."""
        query = (
            "SELECT count(*) FROM commands WHERE server = ? AND NOT closed AND NOT EXISTS"
            " (SELECT 1 FROM answers WHERE answers.uuid = commands.uuid AND status <> 'NotNow')"
        )
        with self._lock:
            return int(self._db.execute(query, (server,)).fetchone()[0])

    # --- inside, with the lock ---

    def _facts(self, udid: str) -> MacFacts:
        rows = self._db.execute(f"{_FACTS} WHERE udid = ?", (udid,))
        return MacFacts(dict(_fact(*row) for _, *row in rows))

    def _with_delivery(self, command: SentCommand, now: datetime) -> tuple[SentCommand, Delivery]:
        authenticated_at = self._facts(command.udid).authenticated_at
        return command, delivery(command, self._answers(command.uuid), authenticated_at, now)

    def _command(self, uuid: str) -> SentCommand | None:
        row = self._db.execute(f"{_SENT} WHERE uuid = ?", (uuid,)).fetchone()
        return None if row is None else _command(row)

    def _answers(self, uuid: str) -> list[Answer]:
        rows = self._db.execute(f"{_ANSWERS} WHERE uuid = ? ORDER BY at_us, event_id", (uuid,))
        return [_answer(*row) for _, *row in rows]


def _fact(name: str, value: str, at_us: int, since_us: int) -> tuple[Name, Fact]:
    return Name(name), Fact(json.loads(value), _time(at_us), _time(since_us))


def _content(answer: Answer) -> str:
    errors = [[one.code, one.domain, one.description] for one in answer.errors]
    return json.dumps({"errors": errors, "actions": answer.install_actions})


def _answer(event_id: str, at_us: int, status: str, content: str) -> Answer:
    found = json.loads(content)
    errors = tuple(
        CommandError(code=code, domain=domain, description=text)
        for code, domain, text in found["errors"]
    )
    actions = tuple((key, action, state) for key, action, state in found["actions"])
    return Answer(event_id, _time(at_us), status, errors, actions)


def _command(row: tuple[Any, ...]) -> SentCommand:
    uuid, order, number, udid, server, kind, sent_us, push_error, *times, sure, closed = row
    idle_at, idle_seen_at, second_idle_at = (None if us is None else _time(us) for us in times)
    return SentCommand(
        uuid=uuid,
        order=order,
        number=number,
        udid=udid,
        server=server,
        request_type=RequestType(kind),
        sent_at=_time(sent_us),
        push_error=push_error,
        idle_at=idle_at,
        idle_seen_at=idle_seen_at,
        second_idle_at=second_idle_at,
        confirmed=bool(sure),
        closed=bool(closed),
    )


def _us(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _time(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND
