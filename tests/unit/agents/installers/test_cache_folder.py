"""The files of a site cache stay within the budget, and needed ones stay."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.installers.cache_folder import (
    BudgetFullError,
    CachedFile,
    CacheFolder,
    VolumeFullError,
)
from agents.installers.cache_key import CacheKey
from agents.installers.transfer import discard, partial_path
from runtime.free_space import SpaceReserve
from schemas.macos import Build, parse_build

BUILDS = [parse_build(f"25G{number}") for number in range(1, 7)]
BUDGET = 100
SHA256 = "a" * 64


class Cache:
    """A cache whose needs the test sets."""

    def __init__(self, folder: Path, budget: int = BUDGET) -> None:
        self.needed: set[Build] = set()
        self.order: dict[str, int] = {}
        self.evicted: list[CacheKey] = []
        reserve = SpaceReserve(folder, 0)
        self.folder = CacheFolder(reserve, budget, lambda: self.order, self.give_up)

    def give_up(self, build: CacheKey, file: CachedFile | None) -> bool:
        if build in self.needed:
            return False
        if file is not None:
            self.evicted.append(build)
        return True

    def add(self, build: Build, size: int) -> None:
        target = self.folder.target(build, SHA256)
        self.folder.make_room(target, size)
        discard(target)  # as a finished transfer, which renames the unfinished file
        target.write_bytes(bytes(size))
        self.order[target.name] = len(self.order) + 1

    def begin(self, build: Build, size: int, written: int) -> None:
        target = self.folder.target(build, SHA256)
        self.folder.make_room(target, size)
        partial_path(target).write_bytes(bytes(min(written, size)))

    def builds(self) -> set[CacheKey]:
        return {one.key for one in self.folder.complete()}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "begin", "need", "free"]),
        st.sampled_from(BUILDS),
        st.integers(1, BUDGET + 20),
        st.integers(0, BUDGET),
    ),
    max_size=25,
)


@given(steps=STEPS)
def test_budget_holds_and_needed_files_stay(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Build, int, int]]
) -> None:
    cache = Cache(tmp_path_factory.mktemp("cache"))
    for step, build, size, written in steps:
        before = cache.builds()
        try:
            match step:
                case "add":
                    cache.add(build, size)
                case "begin":
                    cache.begin(build, size, written)
                case "need":
                    cache.needed.add(build)
                case _:
                    cache.needed.discard(build)
        except BudgetFullError:
            # Nothing is left that could be deleted.
            others = {one for one in cache.builds() if one != build}
            assert size > BUDGET or others <= cache.needed
        assert cache.folder.used_bytes() <= BUDGET
        assert before & cache.needed <= cache.builds()


def test_file_that_was_not_used_for_the_longest_time_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for build in BUILDS[:3]:
        cache.add(build, 30)
    cache.order[cache.folder.target(BUILDS[0], SHA256).name] = 9
    cache.add(BUILDS[3], 30)
    assert cache.evicted == [BUILDS[1]]
    assert cache.builds() == {BUILDS[0], BUILDS[2], BUILDS[3]}


def test_unfinished_file_that_no_job_needs_goes_before_a_complete_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.add(BUILDS[0], 40)
    cache.begin(BUILDS[1], 50, 50)
    cache.add(BUILDS[2], 60)
    assert cache.evicted == []
    assert cache.builds() == {BUILDS[0], BUILDS[2]}


def test_bytes_that_are_there_already_need_no_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.needed = {BUILDS[0], BUILDS[1]}
    cache.add(BUILDS[0], 40)
    cache.begin(BUILDS[1], 60, 30)
    cache.begin(BUILDS[1], 60, 60)
    assert cache.folder.used_bytes() == BUDGET


def test_volume_without_room_is_reported_after_the_evictions(tmp_path: Path) -> None:
    cache = Cache(tmp_path, budget=10**18)
    (tmp_path / f"{BUILDS[0]}.{SHA256}.pkg").write_bytes(b"x")
    with pytest.raises(VolumeFullError, match="full"):
        cache.add(BUILDS[1], 10**17)
    assert cache.evicted == [BUILDS[0]]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "25G1.pkg", f"x.{SHA256}.pkg", "cache.sqlite"):
        (tmp_path / name).write_bytes(b"x")
    cache = Cache(tmp_path)
    cache.add(BUILDS[0], 100)
    assert cache.evicted == []
    assert (tmp_path / "notes.txt").exists()
