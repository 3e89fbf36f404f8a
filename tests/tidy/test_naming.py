"""The tree keeps the rules of names and docstrings; each rule finds a planted violation."""

from pathlib import Path

import pytest

from tests.tidy import checks, naming

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return root


@pytest.mark.parametrize(
    "check",
    [naming.rejected_words, naming.bare_clauses, naming.overloaded_methods],
    ids=lambda check: check.__name__,
)
def test_tree_keeps_naming_rule(check: checks.Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        "def tell_ready(): ...",
        "class Standing: ...",
        "def f(told): ...",
        "for heard in x: ...",
        "self.set_aside = 1",
        "unkept_bytes: int = 1",
        "_PATIENCE_S = 1",
        "class ToldResult: ...",
    ],
)
def test_name_with_a_rejected_word_is_found(text: str, tmp_path: Path) -> None:
    assert len(naming.rejected_words(write(tmp_path, "pipeline/x.py", text))) == 1


def test_module_with_a_rejected_word_is_found(tmp_path: Path) -> None:
    assert len(naming.rejected_words(write(tmp_path, "agents/courier.py", ""))) == 1


@pytest.mark.parametrize("text", ["standard = 1", "understand = 1", "toldeo = 1", "besides = 1"])
def test_name_that_only_contains_the_letters_passes(text: str, tmp_path: Path) -> None:
    assert naming.rejected_words(write(tmp_path, "pipeline/x.py", text)) == []


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("What a worker does.", 1),
        ("Whether a gate is closed.", 1),
        ("When it ends.", 1),
        ("Return the time at which it ends.", 0),
        ("Whatever is given, nothing happens.", 0),
    ],
)
def test_docstring_that_opens_with_a_clause_is_found(
    docstring: str, found: int, tmp_path: Path
) -> None:
    write(tmp_path, "schemas/x.py", f'def f():\n    """{docstring}"""\n')
    assert len(naming.bare_clauses(tmp_path)) == found


def classes(count: int, base: str = "") -> str:
    return "".join(f"class C{n}{base}:\n    def take(self): ...\n" for n in range(count))


def test_method_of_six_unrelated_classes_is_found(tmp_path: Path) -> None:
    assert len(naming.overloaded_methods(write(tmp_path, "pipeline/x.py", classes(6)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        classes(5),
        "class Base:\n    def take(self): ...\n" + classes(6, "(Base)"),
        "class Taker(Protocol):\n    def take(self): ...\n    def stop(self): ...\n"
        + classes(6).replace("...", "...\n    def stop(self): ..."),
        classes(6).replace("take", "close"),
    ],
    ids=["five", "one base", "one protocol", "a name of the standard library"],
)
def test_method_of_related_or_few_classes_passes(text: str, tmp_path: Path) -> None:
    assert naming.overloaded_methods(write(tmp_path, "pipeline/x.py", text)) == []
