"""The mutants of a module, the list of equivalent mutants, and the outcome of a run."""

import subprocess
from pathlib import Path

import pytest

from tests.mutation import equivalents
from tests.mutation.__main__ import sample
from tests.mutation.modules import EXCLUDED, MODULES
from tests.mutation.operators import Mutant, mutants
from tests.mutation.progress import Progress
from tests.mutation.running import Fate, Tree

ROOT = Path(__file__).resolve().parents[2]

CHANGES = [
    ("a = b < c", {"pass", "a = b <= c", "a = b >= c"}),
    ("a = b is c", {"pass", "a = b is not c"}),
    ("a = b and c", {"pass", "a = b or c", "a = b", "a = c"}),
    ("a = not b", {"pass", "a = b"}),
    ("a = b + 1", {"pass", "a = b - 1", "a = b + 2"}),
    ("a += b", {"pass", "a -= b"}),
    ("a = True", {"pass", "a = False"}),
    ("a = 'code'", {"pass", "a = 'codeX'"}),
    ("a = 'a text for people'", {"pass"}),
    ("a = min(b)", {"pass", "a = max(b)"}),
    ("a: Literal[1] = b", {"pass"}),
    ("call(b)", {"pass"}),
    ("log.info('code', n=1)", set()),
    ("if b:\n    self._log.info('code')", set()),
    ("assert b < c", set()),
    ("a: int", set()),
    ("class A(Struct, frozen=True):\n    pass", set()),
    ("def f():\n    call(b)\n    return None", {"pass"}),
    ("import b", set()),
    ("'A docstring.'", set()),
]


@pytest.mark.parametrize(("text", "changed"), CHANGES, ids=[text for text, _ in CHANGES])
def test_statement_has_exactly_these_mutants(text: str, changed: set[str]) -> None:
    assert {mutant.mutated for part in mutants("m.py", text) for mutant in part} == changed


FUNCTION = """\
@cache(size=1)
def double(value: int) -> int:
    \"\"\"Return twice the value.\"\"\"
    if value:
        return value * 2
    return 0
"""


def named(original: str, mutated: str, text: str = FUNCTION) -> Mutant:
    [mutant] = [
        mutant
        for part in mutants("double.py", text)
        for mutant in part
        if (mutant.original, mutant.mutated) == (original, mutated)
    ]
    return mutant


def test_a_mutant_names_its_statement_without_those_inside_it() -> None:
    assert named("if value:", "if not value:").lines == range(4, 5)
    assert named("return value * 2", "return None").lines == range(5, 6)
    assert named("return value * 2", "return None").inside == "if value:"
    assert named("if value:", "if not value:").inside == "def double(value: int) -> int:"


def test_a_mutant_changes_one_statement_of_the_module() -> None:
    mutant = named("return 0", "return 1")
    assert mutant.source().splitlines()[-1] == "    return 1"
    assert mutant.source().replace("return 1", "return 0") == FUNCTION
    assert named("return 0", "pass").source().splitlines()[-1] == "    pass"


def test_a_sample_has_one_mutant_of_each_statement_and_depends_only_on_its_seed() -> None:
    statements = mutants("double.py", FUNCTION)
    drawn = sample(statements, 3, "1:double.py")
    assert [mutant.line for mutant in drawn] == [4, 5, 6]
    draws = [sample(statements, 2, f"{seed}") for seed in range(20)]
    assert draws == [sample(statements, 2, f"{seed}") for seed in range(20)]
    assert len({tuple(mutant.key for mutant in drawn) for drawn in draws}) > 1


def test_each_equivalent_mutant_of_the_list_exists() -> None:
    known = [
        mutant
        for path in MODULES
        for part in mutants(path, (ROOT / path).read_text())
        for mutant in part
    ]
    entries = equivalents.read(equivalents.FILE.read_text())
    assert equivalents.unmatched(entries, known) == []
    assert all(entry.reason for entry in entries)
    assert len({entry.key for entry in entries}) == len(entries)


def test_an_entry_without_a_mutant_is_reported() -> None:
    entry = equivalents.Equivalent(
        "double.py", "def double(value: int) -> int:", "return 0", "return 1", "any number"
    )
    moved = mutants("double.py", "\n\n" + FUNCTION)
    changed = mutants("double.py", FUNCTION.replace("return 0", "return 7"))
    assert equivalents.unmatched([entry], [mutant for part in moved for mutant in part]) == []
    assert equivalents.unmatched([entry], [m for part in changed for m in part]) == [entry]


def test_the_test_paths_of_all_modules_exist() -> None:
    named = [path for tests in MODULES.values() for path in tests] + list(EXCLUDED)
    assert [path for path in named if not (ROOT / path.partition("::")[0]).exists()] == []


def test_a_larger_sample_of_a_seed_contains_the_smaller_one() -> None:
    statements = mutants("double.py", FUNCTION)
    keys = [{each.key for each in sample(statements, count, "1")} for count in (1, 2, 3)]
    assert keys[0] < keys[1] < keys[2]


def test_a_stopped_run_continues_with_the_fates_of_the_same_tree(tmp_path: Path) -> None:
    first, second = named("return 0", "return 1"), named("return value * 2", "return None")
    file = tmp_path / "fates.jsonl"
    progress = Progress(file, "tree 1")
    progress.add(first, Fate.SURVIVED)
    progress.add(second, Fate.KILLED)
    with file.open("a") as stopped:
        stopped.write('{"mutant": ["double.py", ')
    progress = Progress(file, "tree 1")
    assert progress.fates == {first.key: Fate.SURVIVED, second.key: Fate.KILLED}
    progress.add(named("return 0", "return None"), Fate.HUNG)
    assert len(Progress(file, "tree 1").fates) == 3


def test_a_changed_tree_keeps_only_the_survivors_and_not_their_fates(tmp_path: Path) -> None:
    first, second = named("return 0", "return 1"), named("return value * 2", "return None")
    file = tmp_path / "fates.jsonl"
    progress = Progress(file, "tree 1")
    progress.add(first, Fate.SURVIVED)
    progress.add(second, Fate.KILLED)
    for digest in ("tree 2", "tree 3"):
        progress = Progress(file, digest)
        assert progress.fates == {}
        assert [progress.is_survivor(each) for each in (first, second)] == [True, False]
    progress.add(first, Fate.KILLED)
    assert not Progress(file, "tree 4").is_survivor(first)


DOUBLE = """\
LEAST = 0
MOST = 9


def double(value: int) -> int:
    if value < -1000:
        return LEAST
    while value > 1000:
        value -= 1
    return value * 2


def unused() -> int:
    return 1
"""
TESTS = """\
from double import LEAST, MOST, double


def test_doubles():
    assert double(1002) == 2000
    assert LEAST < 10


def test_reads_a_constant_only():
    assert MOST == 9
"""


@pytest.mark.slow
def test_each_fate_of_a_mutant_is_detected(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "double.py").write_text(DOUBLE)
    (root / "test_double.py").write_text(TESTS)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    tree = Tree(root, tmp_path / "copy", test_s=2)
    record = tree.record(["test_double.py"], ["double.py"])
    fates = {
        ("return value * 2", "return value / 2"): Fate.KILLED,
        ("return value * 2", "return None"): Fate.KILLED,
        ("LEAST = 0", "LEAST = 1"): Fate.SURVIVED,
        ("MOST = 9", "MOST = 10"): Fate.KILLED,
        ("LEAST = 0", "pass"): Fate.BROKEN,
        ("return LEAST", "return None"): Fate.UNTESTED,
        ("return 1", "return 2"): Fate.UNTESTED,
        ("value -= 1", "value += 1"): Fate.HUNG,
    }
    for (original, mutated), fate in fates.items():
        mutant = named(original, mutated, DOUBLE)
        assert (mutated, tree.fate(mutant, record)) == (mutated, fate)
    hasty = Tree(root, tmp_path / "copy", start_s=2)
    assert hasty.fate(named("value -= 1", "value += 1", DOUBLE), record) == Fate.HUNG
    assert (root / "double.py").read_text() == DOUBLE == tree.read("double.py")
