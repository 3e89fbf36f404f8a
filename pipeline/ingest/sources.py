"""Which translator reads which source. The names are the command line's and the gateway's."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol

from pipeline.ingest import jamf, micromdm, munki, nanomdm, osquery
from pipeline.ingest.feed_diff import translate_since
from pipeline.ingest.feed_review import FEED_DIFFS
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation
from schemas.feeds import FeedSource


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


def translator_since(
    source: FeedSource, previous: bytes | None, fixed: frozenset[str] = frozenset()
) -> Translator:
    """The translator of what a feed says anew since an earlier document of it. `fixed` are CVEs
    that Apple's releases are known to fix. Feeds are public: the redactor has nothing to do."""
    diff = FEED_DIFFS[source]

    def translator(
        raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        del redactor
        return translate_since(
            diff,
            raw,
            previous,
            source=source,
            origin=origin,
            received_at=received_at,
            fixed=fixed,
        )

    return translator


# One entry a source: advisory feeds, then what tells of Macs.
TRANSLATORS: Final[Mapping[str, Translator]] = {
    "sofa": translator_since("sofa", None),
    "gdmf": translator_since("gdmf", None),
    "kev": translator_since("kev", None),
    "nanomdm": nanomdm.translate,
    "micromdm": micromdm.translate,
    "jamf": jamf.translate,
    "osquery": osquery.translate,
    "munki": munki.translate,
}

# Sources whose files are read line by line, however large they are.
LINE_TRANSLATORS: Final[Mapping[str, LineTranslator]] = {"osquery": osquery.translate_lines}


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
