"""The table of translators by source. The command line and the gateway use these names."""

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
    """The function that translates one whole payload. Pure; it raises nothing for any bytes."""

    def __call__(
        self, raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        """Return the events and dead letters of this payload.

        `origin` is the payload's source for a reader of its dead letters, such as a file's path. An
        event without a time of its own is dated `received_at`.
        """


class LineTranslator(Protocol):
    """The function that translates a file line by line, with one line in memory at a time.

    It reads the next line only when the caller asks for the next translation, so that the caller
    can count which line a translation belongs to.
    """

    def __call__(
        self, lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Iterator[Translation]:
        """Yield one translation for each line that is not blank, in order.

        The origin of a dead letter is `origin:N`, where N counts all lines from 1.
        """


def translator_since(
    source: FeedSource, previous: bytes | None, fixed: frozenset[str] = frozenset()
) -> Translator:
    """Return a translator of a feed's news since `previous`, the bytes of an earlier document.

    Without `previous`, the whole document is news, as it is if `previous` cannot be read; then the
    dead letters of `previous` are in the result too. `fixed` are the CVEs that Apple's releases are
    known to fix; only `kev` uses them. The translator ignores its redactor: feeds are public.
    """
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


# One entry for each source: first the advisory feeds, then the sources of devices.
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

# Sources whose files are read line by line, so that a file may have any size.
LINE_TRANSLATORS: Final[Mapping[str, LineTranslator]] = {"osquery": osquery.translate_lines}


def line_translator(translate: Translator) -> LineTranslator:
    """Return a translator of lines, which yields `translate` of each line as one payload.

    Blank lines are skipped. The origin of a line is `origin:N`, where N counts all lines from 1.
    """

    def translator(
        lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Iterator[Translation]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield translate(
                    line, origin=f"{origin}:{number}", received_at=received_at, redactor=redactor
                )

    return translator
