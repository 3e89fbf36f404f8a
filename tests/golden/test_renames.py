"""The map of renames: a line that disagrees with the record or the tree is refused."""

from pathlib import Path

import pytest

from tests.golden import renames
from tests.golden.golden_file import Output, canonical
from tests.golden.renames import Rename, Renames

RECORD = canonical(
    {
        "decision": {"reason": "job_open", "job_id": "j-1", "gates": [{"gate": "fresh"}]},
        "inputs": {"ledger": [{"guessed": True, "site": "london"}], "site": "fresh"},
    }
)
CODE = """
LIMIT = 3
class Mac:
    name: str
    def __init__(self) -> None:
        self._seen = 0
    def look(self, depth):
        near = depth
        def inner(): ...
async def run(): ...
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "mac.py").write_text(CODE)
    return tmp_path


def test_fields_and_values_are_renamed_at_their_path_only() -> None:
    names = Renames.of(
        [
            Rename("field", "inputs.ledger.site", "place"),
            Rename("field", "inputs.ledger", "history"),
            Rename("value", "decision.gates.gate=fresh", "recent"),
        ]
    )
    assert names.apply(Output("decision", RECORD)).body == canonical(
        {
            "decision": {"reason": "job_open", "job_id": "j-1", "gates": [{"gate": "recent"}]},
            "inputs": {"history": [{"guessed": True, "place": "london"}], "site": "fresh"},
        }
    )


@pytest.mark.parametrize("kind", ["event", "dead_letter"])
def test_events_and_dead_letters_have_no_renames(kind: str) -> None:
    names = Renames.of([Rename("field", "inputs.ledger", "history")])
    output = Output(kind, RECORD)  # type: ignore[arg-type]
    assert names.apply(output) == output


CORRECT_LINES = [
    Rename("field", "inputs.ledger.guessed", "inferred"),
    Rename("name", "pipeline/gone.py:Gone", "-"),
    Rename("name", "pipeline/old.py", "pipeline/mac.py"),
    Rename("name", "pipeline/old.py:A", "pipeline/mac.py:Mac"),
    Rename("name", "pipeline/old.py:B", "pipeline/mac.py:Mac.look"),
    Rename("name", "pipeline/old.py:C", "pipeline/mac.py:Mac.name"),
    Rename("name", "pipeline/old.py:D", "pipeline/mac.py:Mac._seen"),
    Rename("name", "pipeline/old.py:E", "pipeline/mac.py:Mac.look.depth"),
    Rename("name", "pipeline/old.py:F", "pipeline/mac.py:LIMIT"),
    Rename("name", "pipeline/old.py:G", "pipeline/mac.py:run"),
    Rename("name", "pipeline/old.py:H", "pipeline/mac.py:Mac.look.inner"),
    Rename("value", "decision.gates.gate=fresh", "recent"),
]


def test_correct_map_has_no_complaints(tree: Path) -> None:
    assert renames.complaints(CORRECT_LINES, [RECORD], tree) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (Rename("field", "inputs.ledger.nonsense", "x"), "is not in the record"),
        (Rename("value", "decision.reason=fresh", "x"), "is not in the record"),
        (Rename("value", "decision.job_id=j-1", "j-2"), "job ids have no renames"),
        (Rename("field", "decision.reason", "why"), "fields of a decision have no renames"),
        (Rename("field", "inputs.site", "inputs.site"), "is no rename"),
        (Rename("name", "a.py:A", "pipeline/mac.py:Max"), "there is no pipeline/mac.py:Max"),
        (Rename("name", "a.py:A", "pipeline/mac.py:near"), "there is no pipeline/mac.py:near"),
        (Rename("name", "a.py:A", "pipeline/max.py"), "there is no pipeline/max.py"),
        (Rename("name", "a.py:A", "pipeline:Mac"), "there is no pipeline:Mac"),
        (Rename("name", "pipeline/mac.py:Mac", "-"), "is not gone"),
    ],
)
def test_wrong_line_is_refused(line: Rename, complaint: str, tree: Path) -> None:
    found = renames.complaints([line], [RECORD], tree)
    assert [one for one in found if complaint in one], found


def test_repeated_old_name_and_wrong_order_are_refused(tree: Path) -> None:
    assert renames.complaints([CORRECT_LINES[3], CORRECT_LINES[3]], [RECORD], tree) == [
        "name pipeline/old.py:A: is there twice"
    ]
    assert renames.complaints([CORRECT_LINES[3], CORRECT_LINES[2]], [RECORD], tree) == [
        "the lines are not sorted by kind and old name"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name\ta.py:A\tb.py:B\n",
        "kind\told\tnew\nname\ta.py:A\n",
        "kind\told\tnew\nname\ta.py:A\t\n",
        "kind\told\tnew\nclass\ta.py:A\tb.py:B\n",
    ],
    ids=["empty", "no header", "too few columns", "empty column", "unknown kind"],
)
def test_malformed_map_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "renames.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"renames\.tsv"):
        renames.read(tmp_path / "renames.tsv")


def test_map_is_read_as_written(tmp_path: Path) -> None:
    text = "\n".join(["kind\told\tnew", *("\t".join(line) for line in CORRECT_LINES), ""])
    (tmp_path / "renames.tsv").write_text(text)
    assert renames.read(tmp_path / "renames.tsv") == CORRECT_LINES
