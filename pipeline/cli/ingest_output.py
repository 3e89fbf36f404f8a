"""The output of `drydock ingest`: JSON lines, or tables for people."""

import sys
from datetime import UTC
from typing import IO, TYPE_CHECKING, Final

from pipeline.cli.output import emit
from runtime.printable import printable

if TYPE_CHECKING:
    from pipeline.ingest.translation import Translation
    from schemas.dead_letters import DeadLetter
    from schemas.envelope import Event

_ROWS_SHOWN: Final = 1_000


class JsonLines:
    """Events on stdout as they are read; dead letters on stderr, or in a file if one is given.

    `letters` is the number of dead letters so far.
    """

    def __init__(self, dead_letter_file: IO[str] | None) -> None:
        self._dead_letter_file = sys.stderr if dead_letter_file is None else dead_letter_file
        self.letters = 0

    def add(self, translation: "Translation") -> None:
        """Print the events and the dead letters of a translation."""
        from schemas.envelope import encode

        for event in translation.events:
            emit(encode(event))
        for letter in translation.dead_letters:
            self.letters += 1
            self._dead_letter_file.write(letter.model_dump_json(exclude_none=True) + "\n")

    def close(self) -> None:
        """Flush stdout."""
        sys.stdout.flush()


class Tables:
    """Tables of the first events and of the first dead letters, with counts.

    `events` and `letters` are the numbers so far. Dead letters are also written to the
    `dead_letter_file`, if one is given.
    """

    def __init__(self, dead_letter_file: IO[str] | None) -> None:
        self._dead_letter_file = dead_letter_file
        self._events: list[tuple[str, ...]] = []
        self._letters: list[tuple[str, ...]] = []
        self.events = 0
        self.letters = 0

    def add(self, translation: "Translation") -> None:
        """Count a translation, write its dead letters to the file, and keep the first rows."""
        for event in translation.events:
            self.events += 1
            if len(self._events) < _ROWS_SHOWN:
                self._events.append(_event_row(event))
        for letter in translation.dead_letters:
            self.letters += 1
            if self._dead_letter_file is not None:
                self._dead_letter_file.write(letter.model_dump_json(exclude_none=True) + "\n")
            if len(self._letters) < _ROWS_SHOWN:
                self._letters.append(_letter_row(letter))

    def close(self) -> None:
        """Print the tables and the counts: events on stdout, dead letters on stderr.

        Without dead letters nothing is printed about them.
        """
        if self._events:
            _print_table(("time", "event", "subject", "data"), self._events, to_stderr=False)
        emit(_count(self.events, "event", len(self._events)))
        if self._letters:
            _print_table(("code", "origin", "where", "detail"), self._letters, to_stderr=True)
            shown = _count(self.letters, "dead letter", len(self._letters))
            sys.stderr.write(printable(shown) + "\n")


def _event_row(event: "Event") -> tuple[str, ...]:
    at = event.time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    kind = event.type.removeprefix("drydock.").removesuffix(".v1")
    return at, kind, event.subject, _summary(event)


def _summary(event: "Event") -> str:
    from schemas.events.advisory import AdvisorySnapshot

    data = event.data
    if isinstance(data, AdvisorySnapshot):
        exploited = ", ".join(data.exploited_cves[:4]) + (
            ", ..." if len(data.exploited_cves) > 4 else ""
        )
        parts: tuple[str, ...] = (
            " ".join(str(build) for build in data.builds),
            _count(len(data.cves), "CVE", len(data.cves)),
            f"exploited {exploited}" if exploited else "",
            data.severity or "",
            "" if data.device_ids is None else _devices(data.device_ids),
        )
    else:
        names = ("serial", "os_version", "build", "model", "status", "command_uuid")
        parts = tuple(str(getattr(data, name, None) or "") for name in names)
    return "; ".join(one for one in parts if one)


def _devices(device_ids: tuple[str, ...]) -> str:
    shown = ", ".join(device_ids[:3])
    more = f" and {len(device_ids) - 3} more" if len(device_ids) > 3 else ""
    return f"for {shown or 'no device'}{more}"


def _letter_row(letter: "DeadLetter") -> tuple[str, ...]:
    return letter.code.value, letter.origin, letter.where, letter.detail


def _count(total: int, noun: str, shown: int) -> str:
    text = f"{total} {noun}{'' if total == 1 else 's'}"
    return text if shown == total else f"{text}, the first {shown} shown"


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]], *, to_stderr: bool) -> None:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli.printable_console import printable_console
    from schemas.ids import clean_text

    table = Table(*head, box=SIMPLE)
    for row in rows:
        # As Text: a payload must not be read as markup. clean_text removes control characters.
        table.add_row(*(Text(clean_text(cell), overflow="fold") for cell in row))
    printable_console(stderr=to_stderr).print(table)
