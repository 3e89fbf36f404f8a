"""`drydock query` and `drydock replay --kafka` hold no producer: their modules import none."""

import ast
from pathlib import Path

import pytest

from tests.tidy import checks
from tests.tidy.test_replay_publishes_nothing import reached_from

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("pipeline.signing_keys",)
PRODUCERS = ("producer", "transactional_id")


def producers_in(path: Path) -> list[str]:
    """Return the names and keyword arguments of a module that make a producer."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [node.id] if isinstance(node, ast.Name) else []
        names += [node.attr] if isinstance(node, ast.Attribute) else []
        found += [name for name in names if any(word in name.lower() for word in PRODUCERS)]
    return found


def test_query_reaches_no_producer_and_no_private_key() -> None:
    known = dict(checks.modules(ROOT))
    reached = reached_from("pipeline.query")
    assert {"pipeline.processors.clients", "pipeline.embedded.read_api"} <= reached.keys()
    for name, imports in reached.items():
        assert [one for one in imports if checks.within(one, KEYS)] == [], name
        # The settings of all clients, of which only the functions for readers are called.
        if name != "runtime.kafka":
            assert producers_in(known[name]) == [], name


@pytest.mark.parametrize(
    "line",
    ["from aiokafka import AIOKafkaProducer", "kafka.KafkaProducer()", "x.producer_options()"],
)
def test_producer_is_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(line)
    assert len(producers_in(path)) == 1
