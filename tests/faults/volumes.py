"""Small volumes that tests fill, limit and mount read-only: tmpfs, where the process may mount."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Volume:
    """A mounted volume."""

    path: Path

    def fill(self, keep: int = 0) -> None:
        """Take the free bytes with another file, but for `keep` of them."""
        with (self.path / "other-0").open("ab", buffering=0) as other:
            try:
                while True:
                    other.write(bytes(4096))
            except OSError:
                other.truncate(max(other.tell() - keep, 0))

    def take_inodes(self) -> None:
        """Take all free inodes with other files."""
        try:
            for number in range(100_000):
                (self.path / f"other-{number}").touch()
        except OSError:
            return

    def free(self) -> None:
        """Give back what `fill` and `take_inodes` took."""
        for path in self.path.glob("other*"):
            path.unlink()

    def abort(self) -> None:
        """Make an ext4 volume read-only as after an error of its device, open files too."""
        subprocess.run(["mount", "-o", "remount,abort", str(self.path)], check=True)

    def resize(self, size: int) -> None:
        """Give a tmpfs another size."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)


@contextmanager
def small_volume(path: Path, size: int, options: str = "") -> Iterator[Volume]:
    """Mount an empty tmpfs of `size` bytes within the block; skip the test if that is refused."""
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs") as volume:
        yield volume


@contextmanager
def ext4_volume(path: Path, size: int) -> Iterator[Volume]:
    """Mount an empty ext4 of `size` bytes within the block; skip the test if that is refused."""
    image = path.with_suffix(".image")
    with image.open("wb") as made:
        made.truncate(size)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    with _mounted(path, "-o", "loop", str(image)) as volume:
        yield volume


@contextmanager
def _mounted(path: Path, *options: str) -> Iterator[Volume]:
    path.mkdir()
    command = ["mount", *options, str(path)]
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"needs a mount: {found.stderr.decode().strip()}")
    try:
        yield Volume(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes behind this offset of any file fail, as with a quota: EFBIG, not ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
