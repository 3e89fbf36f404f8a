"""The files of a site cache, within a budget of bytes and a reserve of the volume.

A complete file is `<key>.<SHA-256>.pkg`, an unfinished one has `.partial` behind it. Files that
an open job needs are never deleted to make room. Of the others, unfinished files go first, then the
complete ones that were not used for the longest time.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agents.installers.cache_key import CacheKey, parse_key
from agents.installers.transfer import discard, partial_bytes
from runtime.free_space import SpaceReserve

_NAME: Final = re.compile(r"([0-9A-Za-z-]+)\.([0-9a-f]{64})\.pkg", re.ASCII)
_PARTIAL: Final = ".partial"


class BudgetFullError(Exception):
    """The files that open jobs need leave no room in the budget; the message is one line."""


class VolumeFullError(Exception):
    """The volume has no room for the file; the message is one line."""


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A complete file. Its SHA-256 is that of its name, once it was compared."""

    path: Path
    key: CacheKey
    sha256: str

    def size_bytes(self) -> int:
        """Return its size, 0 if it is gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


class CacheFolder:
    """The files of one folder. `order_of_use` has a number for each name, lower for older use.

    `give_up` is asked before the complete file of a key, or its unfinished one (None), is deleted
    to make room. It returns False if an open job needs it.
    """

    def __init__(
        self,
        reserve: SpaceReserve,
        budget_bytes: int,
        order_of_use: Callable[[], Mapping[str, int]],
        give_up: Callable[[CacheKey, CachedFile | None], bool],
    ) -> None:
        self.folder = reserve.folder
        self.budget_bytes = budget_bytes
        self._reserve = reserve
        self._order_of_use = order_of_use
        self._give_up = give_up

    def target(self, key: CacheKey, sha256: str) -> Path:
        """Return the path of a complete file."""
        return self.folder / f"{key}.{sha256}.pkg"

    def complete(self) -> tuple[CachedFile, ...]:
        """Return the complete files, those not used for the longest time first."""
        order = self._order_of_use()
        found = [self._file(path) for path in self.folder.iterdir()]
        files = [one for one in found if one is not None]
        return tuple(sorted(files, key=lambda one: (order.get(one.path.name, 0), one.path.name)))

    def find(self, key: CacheKey) -> CachedFile | None:
        """Return the complete file of a key, the one used last if there are two."""
        return next((one for one in reversed(self.complete()) if one.key == key), None)

    def used_bytes(self) -> int:
        """Return the size of all complete and unfinished files."""
        sizes = (one.size_bytes() for one in self.complete())
        return sum(sizes) + sum(partial_bytes(one) for one in self._unfinished())

    def delete(self, file: CachedFile) -> None:
        """Delete a complete file."""
        file.path.unlink(missing_ok=True)

    def make_room(self, target: Path, size_bytes: int) -> None:
        """Delete files until the rest of the target's `size_bytes` fits.

        Raises BudgetFullError or VolumeFullError if the files that open jobs need leave no room;
        files that went do not come back.
        """
        if size_bytes > self.budget_bytes:
            raise BudgetFullError(
                f"{target.name} has {size_bytes} bytes, the budget is {self.budget_bytes}"
            )
        for other in self._unfinished():
            key = _key_of(other)
            if other != target and (key is None or self._give_up(key, None)):
                discard(other)
        evictable = [one for one in self.complete() if one.path != target]
        while True:
            rest = max(size_bytes - partial_bytes(target), 0)
            has_budget = self.used_bytes() + rest <= self.budget_bytes
            shortage = self._reserve.shortage(rest)
            if has_budget and shortage is None:
                return
            if not evictable:
                break
            file = evictable.pop(0)
            if self._give_up(file.key, file):
                self.delete(file)
        if not has_budget:
            raise BudgetFullError(
                f"{target.name} needs {rest} more bytes: the budget of {self.budget_bytes} is full"
                " of installers that open jobs need"
            )
        raise VolumeFullError(str(shortage))

    def fetched_bytes(self, target: Path) -> int:
        """Return the bytes that an unfinished file has."""
        return partial_bytes(target)

    def shortage(self) -> str | None:
        """Return the reason for which the volume has no room at all, None if it has some."""
        return self._reserve.shortage()

    def _unfinished(self) -> list[Path]:
        return [
            path.with_name(path.name.removesuffix(_PARTIAL))
            for path in self.folder.iterdir()
            if path.name.endswith(_PARTIAL)
        ]

    def _file(self, path: Path) -> CachedFile | None:
        match = _NAME.fullmatch(path.name)
        key = _key_of(path)
        return None if match is None or key is None else CachedFile(path, key, match[2])


def _key_of(path: Path) -> CacheKey | None:
    try:
        return parse_key(path.name.partition(".")[0])
    except ValueError:
        return None
