"""Transcripts in pages: commands with the output that a reader sees.

A block ```console has a command after `$ `, then lines of its output. `...` alone matches any
lines, and within a line for any text. Runs of spaces count as one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n\$ (.+)\n((?:.*\n)*?)```$", re.MULTILINE)
_ANY = "..."


@dataclass(frozen=True)
class Transcript:
    """A command and the lines of its output."""

    command: str
    lines: tuple[str, ...]

    def missing_line(self, output: str) -> str | None:
        """Return the first line that the output does not have at its place; None if it has all."""
        found = [_closed_up(line) for line in output.splitlines() if line.strip()]
        place, skips = 0, False
        for line in self.lines:
            if line == _ANY:
                skips = True
                continue
            pattern = re.compile(".*".join(map(re.escape, _closed_up(line).split(_ANY))))
            ends = len(found) if skips else place + 1
            here = next((n for n in range(place, ends) if _has(pattern, found, n)), None)
            if here is None:
                return line
            place, skips = here + 1, False
        return None if skips or place == len(found) else f"no end before {found[place]!r}"


def transcripts(page: Path) -> Iterator[Transcript]:
    """Yield the transcripts of a page, in order."""
    for command, output in _BLOCK.findall(page.read_text(encoding="utf-8")):
        yield Transcript(command, tuple(output.splitlines()))


def failures(
    page: Path, sources: Mapping[str, Sequence[str]], run: Callable[[list[str]], str]
) -> list[tuple[str, str]]:
    """Return each command whose output differs, with the first line that it lacks.

    `sources` has the arguments for the page's placeholders, such as `$AT`; `run` runs `drydock`
    with arguments and returns its output.
    """
    found = []
    for one in transcripts(page):
        program, *words = one.command.split()
        assert program == "drydock", one.command
        arguments = [argument for word in words for argument in sources.get(word, (word,))]
        missing = one.missing_line(run(arguments))
        if missing is not None:
            found.append((one.command, missing))
    return found


def _has(pattern: re.Pattern[str], found: Sequence[str], place: int) -> bool:
    return place < len(found) and pattern.fullmatch(found[place]) is not None


def _closed_up(line: str) -> str:
    return " ".join(line.split())
