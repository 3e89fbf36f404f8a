"""The fates found so far, in a file, so that a run that was stopped continues."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.mutation.operators import Mutant
from tests.mutation.running import Fate

SURVIVORS: Final = (Fate.SURVIVED, Fate.UNTESTED)
Key = tuple[str, str, str, str]


class Progress:
    """The fates of one state of the tree: one JSON object a line, after the tree's digest.

    The fates of another state are dropped; only its survivors are kept, to be run again.
    """

    def __init__(self, file: Path, digest: str) -> None:
        """Read the file, or begin a new one if it belongs to another state of the tree."""
        self._file = file
        self._fates: dict[Key, Fate] = {}
        self._survivors: dict[Key, None] = {}
        rows = _rows(file)
        header = rows[0] if rows else {"digest": "", "survivors": []}
        fates = {tuple(row["mutant"]): Fate(row["fate"]) for row in rows[1:]}
        self._survivors = dict.fromkeys(tuple(each) for each in header["survivors"])
        if header["digest"] == digest:
            self._fates = fates
            return
        found = self._survivors.keys() - fates.keys()
        found |= {key for key, fate in fates.items() if fate in SURVIVORS}
        self._survivors = dict.fromkeys(sorted(found))
        self._append_line({"digest": digest, "survivors": sorted(found)}, mode="w")

    @property
    def fates(self) -> Mapping[Key, Fate]:
        """The fates by the mutants' keys."""
        return self._fates

    def is_survivor(self, mutant: Mutant) -> bool:
        """Return True if the mutant survived at the last run of it, also in another state."""
        return self._fates.get(mutant.key) in SURVIVORS or mutant.key in self._survivors

    def add(self, mutant: Mutant, fate: Fate) -> None:
        """Append a fate to the file."""
        self._fates[mutant.key] = fate
        self._append_line({"mutant": mutant.key, "fate": fate}, mode="a")

    def _append_line(self, row: Mapping[str, object], *, mode: str) -> None:
        with self._file.open(mode) as file:
            file.write(json.dumps(row) + "\n")


def _rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of the file, and cut off a last one whose writing was stopped."""
    lines = file.read_text().splitlines() if file.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        file.write_text("".join(f"{line}\n" for line in lines[:-1]))
        return [json.loads(line) for line in lines[:-1]]
