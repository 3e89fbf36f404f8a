"""The list of mutants that no test can kill, because they change nothing that can be observed."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutation.operators import Mutant

FILE: Final = Path(__file__).with_name("equivalents.toml")


@dataclass(frozen=True)
class Equivalent:
    """One entry: a mutant named by its content, and the reason that it changes nothing."""

    path: str
    inside: str
    original: str
    mutated: str
    reason: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The value of `Mutant.key` for this mutant."""
        return self.path, self.inside, self.original, self.mutated


def read(text: str) -> list[Equivalent]:
    """Return the entries of the file. Raises TypeError for a wrong key."""
    return [Equivalent(**entry) for entry in tomllib.loads(text).get("equivalent", [])]


def unmatched(entries: Iterable[Equivalent], mutants: Iterable[Mutant]) -> list[Equivalent]:
    """Return the entries without a mutant: the code or the path has changed since."""
    known = {mutant.key for mutant in mutants}
    return [entry for entry in entries if entry.key not in known]
