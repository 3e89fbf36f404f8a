"""Which translator reads which source. The names are the command line's and the gateway's."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol

from pipeline.ingest import gdmf, jamf, kev, micromdm, munki, nanomdm, osquery, sofa
from pipeline.ingest.outcome import Translation
from pipeline.ingest.redaction import Redactor


class Translator(Protocol):
    """One whole payload to events. Pure; raises nothing for any bytes."""

    def __call__(
        self, raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        """The payload's translation."""


class LineTranslator(Protocol):
    """Lines to one translation each, holding one line at a time. Takes the next line only when
    it is asked for the next translation, so that who reads can tell which line it was."""

    def __call__(
        self, lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Iterator[Translation]:
        """A translation a line."""


class DiffTranslator(Protocol):
    """One whole payload to the events that tell it from the one before it."""

    def __call__(
        self, raw: bytes, *, origin: str, received_at: datetime, previous: bytes | None
    ) -> Translation:
        """The payload's translation."""


def _feed(translate: Callable[..., Translation]) -> Translator:
    """A feed as a source: feeds are public, so the redactor has nothing to do."""

    def translator(
        raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        del redactor
        return translate(raw, origin=origin, received_at=received_at)

    return translator


# One entry a source: advisory feeds, then what tells of Macs.
TRANSLATORS: Final[Mapping[str, Translator]] = {
    "sofa": _feed(sofa.translate),
    "gdmf": _feed(gdmf.translate),
    "kev": _feed(kev.translate),
    "nanomdm": nanomdm.translate,
    "micromdm": micromdm.translate,
    "jamf": jamf.translate,
    "osquery": osquery.translate,
    "munki": munki.translate,
}

# Sources that can tell what changed since an earlier payload.
DIFF_TRANSLATORS: Final[Mapping[str, DiffTranslator]] = {
    "sofa": sofa.translate,
    "kev": kev.translate,
}

# Sources whose files are read line by line, however large they are.
LINE_TRANSLATORS: Final[Mapping[str, LineTranslator]] = {"osquery": osquery.translate_lines}


def since(source: str, previous: bytes) -> Translator:
    """The translator of what changed since an earlier payload. KeyError: the source cannot tell."""
    translate = DIFF_TRANSLATORS[source]

    def translator(
        raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        del redactor
        return translate(raw, origin=origin, received_at=received_at, previous=previous)

    return translator


def one_a_line(translate: Translator) -> LineTranslator:
    """A translator of lines that are each one payload. Blank lines are none."""

    def translator(
        lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Iterator[Translation]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield translate(
                    line, origin=f"{origin}:{number}", received_at=received_at, redactor=redactor
                )

    return translator
