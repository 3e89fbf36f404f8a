"""`drydock ingest`: translate files of payloads to events."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from pipeline.cli.ingest_output import JsonLines, Tables
from pipeline.cli.output import ATTENTION, fail

if TYPE_CHECKING:
    from pipeline.ingest.redaction import Redactor
    from pipeline.ingest.sources import LineTranslator, Translator
    from pipeline.ingest.translation import Translation

_STDIN: Final = Path("-")


class IngestCommand(TyperCommand):
    """The command `ingest`. Its help lists the sources of the table.

    The table imports all translators, so it is loaded for this help only, not for each command.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Replace `{sources}` and `{feeds}` in the help of the parameters, then write the help."""
        from pipeline.ingest.sources import FEED_DIFFS, TRANSLATORS

        *names, last = TRANSLATORS
        sources, feeds = f"{', '.join(names)} or {last}", ", ".join(FEED_DIFFS)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument | TyperOption) and parameter.help:
                parameter.help = parameter.help.replace("{sources}", sources)
                parameter.help = parameter.help.replace("{feeds}", feeds)
        super().format_help(ctx, formatter)


def ingest(
    source: Annotated[
        str,
        typer.Argument(help="{sources}.", metavar="SOURCE"),
    ],
    files: Annotated[
        list[Path], typer.Argument(help="Files of payloads; - is stdin.", metavar="FILE...")
    ],
    previous: Annotated[
        Path | None,
        typer.Option(help="An earlier payload: print only what changed ({feeds})."),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            "--with",
            metavar="SOFA",
            help="For kev: a SOFA feed. A CVE that Apple fixed counts under any vendor's name.",
        ),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line is a payload.")] = False,
    dead_letters: Annotated[
        Path | None, typer.Option(help="Append dead letters to this file, as JSON lines.")
    ] = None,
    redaction_key: Annotated[
        Path | None,
        typer.Option(
            envvar="DRYDOCK_REDACTION_KEY_FILE",
            help="A file of 16 bytes or more: the key for fingerprints of secrets. Without it,"
            " fingerprints are comparable within this run only.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print CloudEvents, one JSON object per line.")
    ] = False,
) -> None:
    """Translate files of payloads to events.

    Events go to stdout, dead letters to stderr. Exit 0: all was translated. 1: there are dead
    letters. 2: a file cannot be read.
    """
    run = _prepare(
        source, files, previous=previous, beside=beside, lines=lines, key_file=redaction_key
    )
    with ExitStack() as stack:
        kept = None
        if dead_letters is not None:
            try:
                kept = stack.enter_context(dead_letters.open("a", encoding="utf-8"))
            except OSError as error:
                fail(f"cannot write {dead_letters}: {error.strerror}")
        printer = JsonLines(kept) if as_json else Tables(kept)
        for file in files:
            for translation in run.translations(file):
                printer.add(translation)
        printer.close()
    if printer.letters:
        raise typer.Exit(ATTENTION)


@dataclass(frozen=True, slots=True)
class _Run:
    """The translation of files: `whole` for a file that is one payload, `by_line` for lines.

    With both, the first line of a file decides.
    """

    source: str
    whole: "Translator | None"
    by_line: "LineTranslator | None"
    redactor: "Redactor"
    received_at: datetime

    def translations(self, file: Path) -> "Iterator[Translation]":
        """Yield the translation of each payload of a file, in order.

        A payload on which our code raises gives a dead letter with code `bug`. Exit 2 if the file
        cannot be read.
        """
        from pipeline.ingest.translation import MAX_PAYLOAD_BYTES

        with ExitStack() as stack:
            try:
                lines = _Lines(_open(file, stack), MAX_PAYLOAD_BYTES)
                whole = self.whole
                if self.by_line is not None and (whole is None or not lines.is_one_document()):
                    yield from self._of_lines(self.by_line, lines, _name(file))
                elif whole is not None:
                    yield self._of_payload(whole, lines.rest(), _name(file))
            except OSError as error:
                fail(f"cannot read {_name(file)}: {error.strerror}")

    def _of_payload(self, translate: "Translator", raw: bytes, origin: str) -> "Translation":
        try:
            return translate(
                raw, origin=origin, received_at=self.received_at, redactor=self.redactor
            )
        except Exception as error:  # noqa: BLE001 - the handler's top: our bug loses no payload
            return self._bug(error, raw, origin)

    def _of_lines(
        self, translate: "LineTranslator", lines: "_Lines", origin: str
    ) -> "Iterator[Translation]":
        read = -1
        while read < lines.read:  # without a line read, the same bug would repeat for ever
            read = lines.read
            try:
                yield from translate(
                    lines, origin=origin, received_at=self.received_at, redactor=self.redactor
                )
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - the handler's top: the next line continues
                yield self._bug(error, lines.current, f"{origin}:{lines.read}")
            else:
                return

    def _bug(self, error: Exception, raw: bytes, origin: str) -> "Translation":
        """Return a translation with one dead letter of code `bug` for an exception of our code.

        Its detail has the function and line that raised.
        """
        from pipeline.ingest.translation import Translation
        from schemas.dead_letters import DeadLetterCode, Problem, make_dead_letter

        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        at = "" if trace is None else f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        bug = Problem(DeadLetterCode.BUG, f"{type(error).__name__}{at}")
        letter = make_dead_letter(
            bug, raw, source=self.source, origin=origin, received_at=self.received_at
        )
        return Translation(dead_letters=(letter,))


@dataclass(slots=True)
class _Lines:
    """The lines of a stream, one in memory at a time.

    A line or document over the limit is cut to one byte more than the limit, so that the translator
    refuses it; the rest of it is skipped.
    """

    stream: BinaryIO
    limit: int
    read: int = 0
    current: bytes = b""
    ahead: bytes | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._read_line()
        if not line:
            raise StopIteration
        tail = line
        while len(tail) > self.limit and not tail.endswith(b"\n"):
            tail = self.stream.readline(self.limit + 1)
        self.read += 1
        self.current = line
        return line

    def is_one_document(self) -> bool:
        """Return True if the first line starts a JSON document that continues on the next line.

        Call it before the first line is read. The first line is not lost.
        """
        self.ahead = self._read_line()
        first = self.ahead.strip()
        return first.startswith((b"{", b"[")) and not first.endswith((b"}", b"]"))

    def rest(self) -> bytes:
        """Return the rest of the stream as one document.

        It has at most one byte more than the limit.
        """
        start = self.ahead or b""
        return start + self.stream.read(max(0, self.limit + 1 - len(start)))

    def _read_line(self) -> bytes:
        line, self.ahead = self.ahead, None
        return self.stream.readline(self.limit + 1) if line is None else line


def _prepare(
    source: str,
    files: list[Path],
    *,
    previous: Path | None,
    beside: Path | None,
    lines: bool,
    key_file: Path | None,
) -> _Run:
    """Return the translation that the options select.

    Exit 2 if they are invalid, or if a file that they name cannot be read.
    """
    from pipeline.ingest.sources import LINE_TRANSLATORS, TRANSLATORS, line_translator

    whole = TRANSLATORS.get(source)
    if whole is None:
        fail(f"unknown source {source!r}; one of: {', '.join(TRANSLATORS)}")
    given = [*files, *(one for one in (previous, beside) if one is not None)]
    if given.count(_STDIN) > 1:
        fail("- can be given once")
    for file in given:
        _check_readable(file)
    if previous is not None and (len(files) != 1 or lines):
        fail("--previous compares with one FILE")
    if beside is not None and source != "kev":
        fail("--with is for kev")
    if previous is not None or beside is not None:
        whole = _since(source, previous, beside)
    by_line = LINE_TRANSLATORS.get(source)
    return _Run(
        source=source,
        whole=None if lines else whole,
        by_line=by_line or (line_translator(whole) if lines else None),
        redactor=_redactor(key_file),
        received_at=datetime.now(UTC),
    )


def _since(source: str, previous: Path | None, beside: Path | None) -> "Translator":
    """Return a translator that gives only the news since the document in `previous`.

    Without `previous`, the whole document is news. The CVEs of the SOFA feed in `beside` count as
    fixed by Apple. Exit 2 if a file cannot be read, `beside` is not a SOFA feed, or the source is
    no feed.
    """
    from pipeline.ingest import sofa
    from pipeline.ingest.sources import FEED_DIFFS, translator_since
    from schemas.feeds import FeedState

    fixed: frozenset[str] = frozenset()
    if beside is not None:
        releases = sofa.diff(
            _whole(beside),
            origin=_name(beside),
            received_at=datetime.now(UTC),
            state=FeedState(source="sofa"),
        )
        if releases.state is None:
            fail(f"{_name(beside)}: {releases.translation.dead_letters[0].detail}")
        fixed = releases.state.cves
    feed = next((one for one in FEED_DIFFS if one == source), None)
    if feed is None:
        fail(f"--previous is for {', '.join(FEED_DIFFS)}")
    return translator_since(feed, None if previous is None else _whole(previous), fixed)


def _whole(file: Path) -> bytes:
    """Return the file, at most one byte more than the limit. Exit 2 if it is unreadable."""
    from pipeline.ingest.translation import MAX_PAYLOAD_BYTES

    try:
        with ExitStack() as stack:
            return _Lines(_open(file, stack), MAX_PAYLOAD_BYTES).rest()
    except OSError as error:
        fail(f"cannot read {_name(file)}: {error.strerror}")


def _redactor(key_file: Path | None) -> "Redactor":
    """Return a redactor with the key in the file, or with a random key without a file.

    Exit 2 if the file cannot be read or its key is too short.
    """
    import secrets

    from pipeline.ingest.redaction import Redactor

    if key_file is None:
        return Redactor(secrets.token_bytes(32))
    try:
        return Redactor(key_file.read_bytes().strip())
    except OSError as error:
        fail(f"cannot read {key_file}: {error.strerror}")
    except ValueError as error:
        fail(f"{key_file}: {error}")


def _open(file: Path, stack: ExitStack) -> BinaryIO:
    return sys.stdin.buffer if file == _STDIN else stack.enter_context(file.open("rb"))


def _check_readable(file: Path) -> None:
    """Exit 2 if a file cannot be read, before anything is printed: no partial output."""
    if file == _STDIN:
        return
    try:
        file.open("rb").close()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}")


def _name(file: Path) -> str:
    return "stdin" if file == _STDIN else str(file)
