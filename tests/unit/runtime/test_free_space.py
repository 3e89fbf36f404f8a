"""A volume has room only beside its reserve."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.free_space import RESERVE_BYTES, SpaceReserve

MIB = 1024 * 1024


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The figures of the volume, which the test sets."""
    figures = SimpleNamespace(f_blocks=400 * 256, f_bavail=20 * 256, f_frsize=4096, f_flag=0)
    monkeypatch.setattr(os, "statvfs", lambda _: figures)
    return figures


def test_room_ends_at_the_reserve(volume: Any) -> None:
    space = SpaceReserve(Path("data"))
    assert RESERVE_BYTES == 16 * MIB
    assert space.shortage() is None
    assert space.shortage(4 * MIB) is None
    assert space.shortage(4 * MIB + 1) is not None
    volume.f_bavail = 16 * 256
    assert space.shortage() is None
    volume.f_bavail -= 1
    assert "is full" in (space.shortage() or "")


def test_small_volume_keeps_a_quarter_free(volume: Any) -> None:
    volume.f_blocks, volume.f_bavail = 8 * 256, 2 * 256
    assert SpaceReserve(Path("data")).shortage() is None
    assert SpaceReserve(Path("data")).shortage(1) is not None


def test_read_only_volume_has_no_room(volume: Any) -> None:
    volume.f_flag = os.ST_RDONLY
    assert "read-only" in (SpaceReserve(Path("data")).shortage() or "")


def test_volume_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert "cannot read" in (SpaceReserve(tmp_path / "gone").shortage() or "")
