"""Each check finds a planted violation of its rule, and finds nothing in a clean tree."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tidy import checks


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write these files and return the root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CLEAN = {
    "schemas/ids.py": "import hashlib\nfrom pydantic import Field\n",
    "runtime/logs.py": "import sys\nfrom schemas.ids import x\n",
    "pipeline/__init__.py": "",
    "pipeline/config.py": "import os\nfrom schemas.ids import Field\n",
    "pipeline/state/device.py": "from datetime import datetime, time\nfrom schemas import ids\n",
    "pipeline/decide/decision.py": "from pipeline.state.device import x\nlate = s.now\n",
    "pipeline/decide/rules.py": "from .decision import late\n",
    "pipeline/ingest/sofa.py": "import io\nfrom schemas.ids import x\n",
    "pipeline/embedded/store.py": "import agents.lifecycle, pipeline.decide, runtime.logs\n",
    "pipeline/cli/run.py": "from pipeline.embedded import store\nopen('x')\n",
    "agents/lifecycle.py": "from schemas.ids import x\n",
    "agents/journal.py": "import runtime.logs\nfrom agents import lifecycle\n",
}

WRONG_WAY = [
    ("schemas/x.py", "import pipeline", "schemas.x:1: may not import pipeline"),
    ("schemas/x.py", "import httpx", "schemas.x:1: may not import httpx"),
    ("schemas/x.py", "from agents import a", "schemas.x:1: may not import agents.a"),
    ("schemas/x.py", "import runtime.logs", "schemas.x:1: may not import runtime.logs"),
    ("runtime/x.py", "import pipeline.config", "runtime.x:1: may not import pipeline.config"),
    ("runtime/x.py", "from agents import a", "runtime.x:1: may not import agents.a"),
    ("pipeline/decide/x.py", "import runtime.logs", "may not import runtime.logs"),
    ("agents/lifecycle.py", "import runtime.logs", "may not import runtime.logs"),
    ("pipeline/state/x.py", "import pipeline.decide.y", "may not import pipeline.decide.y"),
    ("pipeline/state/x.py", "from ..decide import y", "may not import pipeline.decide.y"),
    ("pipeline/state/x.py", "from pipeline import decide", "may not import pipeline.decide"),
    ("pipeline/decide/x.py", "import agents", "may not import agents"),
    ("pipeline/decide/x.py", "def f():\n    import pipeline.embedded", ":2: may not import"),
    ("pipeline/ingest/x.py", "import pipeline.state.device", "may not import pipeline.state"),
    ("pipeline/replay/x.py", "import pipeline.processors", "may not import pipeline.processors"),
    ("pipeline/config.py", "import pipeline.state", "may not import pipeline.state"),
    ("pipeline/x.py", "import pipeline.embedded.y", "may not import pipeline.embedded.y"),
    ("agents/x.py", "import pipeline.ingest", "may not import pipeline.ingest"),
    ("agents/lifecycle.py", "import agents.journal", "may not import agents.journal"),
    ("pipeline/other/x.py", "", "pipeline.other.x: this folder has no rule"),
]

PRIVATE_KEYS = [
    ("agents/x.py", "import a.Ed25519PrivateKey", "agents.x:1: PrivateKey"),
    ("agents/x.py", "key = ed25519.generate()", "agents.x:1: .generate"),
    ("runtime/x.py", "def f():\n    load_pem_private_key(x)", "runtime.x:2: private_key"),
    ("schemas/x.py", "getattr(key, 'private_bytes')", "schemas.x:1: private_bytes"),
]

IMPURE = [
    ("schemas/x.py", "import os", "imports os"),
    ("schemas/x.py", "from os import environ", "imports os.environ"),
    ("pipeline/state/x.py", "import time", "imports time"),
    ("pipeline/state/x.py", "import random as r", "imports random"),
    ("pipeline/decide/x.py", "import logging", "imports logging"),
    ("pipeline/decide/x.py", "from structlog import get_logger", "imports structlog.get_logger"),
    ("pipeline/ingest/x.py", "import socket", "imports socket"),
    ("pipeline/ingest/x.py", "import urllib.request", "imports urllib.request"),
    ("pipeline/ingest/x.py", "def f(p):\n    return open(p)", "x:2: calls open()"),
    ("pipeline/ingest/x.py", "import io\nio.open('x')", "calls .open()"),
    ("agents/lifecycle.py", "t = datetime.now(tz=UTC)", "calls .now()"),
    ("agents/lifecycle.py", "t = date.today()", "calls .today()"),
]


WITH_KEYS = [
    ("pipeline/reconcile/x.py", "import sqlite3", "imports sqlite3"),
    ("pipeline/reconcile/x.py", "from asyncio import run", "imports asyncio.run"),
    ("pipeline/reconcile/x.py", "from aiokafka import x", "imports aiokafka.x"),
    ("pipeline/reconcile/x.py", "def f():\n    import cryptography", "x:2: imports cryptography"),
    ("pipeline/reconcile/x.py", "import pipeline.signing_keys", "imports pipeline.signing_keys"),
]
MUTABLE = [
    ("class X:\n    pass", 1),
    ("@dataclass\nclass X:\n    a: int", 1),
    ("@dataclass(frozen=False)\nclass X:\n    a: int", 1),
    ("class X(Struct):\n    a: int", 1),
    ("def f():\n    class X:\n        a = 1", 1),
    ("@dataclass(frozen=True)\nclass X:\n    a: int", 0),
    ("class X(msgspec.Struct, frozen=True):\n    a: int", 0),
    ("class X(NamedTuple):\n    a: int", 0),
    ("class X(StrEnum):\n    A = 'a'", 0),
    ("class XError(ValueError):\n    pass", 0),
]


@pytest.mark.parametrize(("name", "text", "complaint"), WITH_KEYS, ids=lambda part: part[:50])
def test_key_or_storage_in_the_reconcile_loop_is_found(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    (found,) = checks.keyless_reconcile(plant(tmp_path, CLEAN | {name: text}))
    assert complaint in found


@pytest.mark.parametrize(("text", "complaints"), MUTABLE, ids=lambda part: str(part)[:50])
def test_mutable_class_among_the_rules_is_found(tmp_path: Path, text: str, complaints: int) -> None:
    planted = plant(tmp_path, CLEAN | {"pipeline/decide/x.py": text})
    assert len(checks.immutable_rules(planted)) == complaints


def test_clean_tree_has_no_complaints(tmp_path: Path) -> None:
    root = plant(tmp_path, CLEAN)
    assert checks.import_direction(root) == []
    assert checks.no_private_keys(root) == []
    assert checks.purity(root) == []
    assert checks.keyless_reconcile(root) == []
    assert checks.immutable_rules(root) == []
    assert checks.written_once(root) == []
    assert checks.sqlite_openers(root) == []
    assert checks.vague_names(root) == []


@pytest.mark.parametrize(("name", "text", "complaint"), WRONG_WAY, ids=lambda part: str(part)[:50])
def test_import_in_the_wrong_direction_is_found(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    found = checks.import_direction(plant(tmp_path, CLEAN | {name: text}))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(("name", "text", "complaint"), PRIVATE_KEYS, ids=lambda part: part[:50])
def test_private_key_at_a_site_is_found(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    (found,) = checks.no_private_keys(plant(tmp_path, CLEAN | {name: text}))
    assert complaint in found


@pytest.mark.parametrize(("name", "text", "complaint"), IMPURE, ids=lambda part: str(part)[:50])
def test_impure_import_or_call_is_found(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    found = checks.purity(plant(tmp_path, CLEAN | {name: text}))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        pytest.param("tests/kafka/x.py", "import tests.integration.y", 1, id="harness"),
        pytest.param("tests/unit/x.py", "from tests.integration import y", 1, id="unit"),
        pytest.param("tests/property/x.py", "import tests.kafka.brokers", 1, id="broker"),
        pytest.param("tests/integration/x.py", "import tests.integration.y", 0, id="own-folder"),
        pytest.param("tests/chaos/x.py", "import tests.kafka.brokers", 0, id="chaos"),
        pytest.param("tests/unit/x.py", "import tests.factories", 0, id="factories"),
    ],
)
def test_forbidden_import_of_a_test_is_found(
    tmp_path: Path, name: str, text: str, complaints: int
) -> None:
    assert len(checks.harness_imports(plant(tmp_path, {name: text}))) == complaints


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        pytest.param("agents/x.py", "import structlog", 1, id="log"),
        pytest.param("pipeline/x.py", "def f():\n    from structlog import stdlib", 1, id="inside"),
        pytest.param("runtime/logs.py", "import structlog.testing", 0, id="log-module"),
        pytest.param("agents/x.py", "letter = DeadLetter(code=c)", 1, id="dead-letter"),
        pytest.param("pipeline/x.py", "dead_letters.DeadLetter(code=c)", 1, id="dead-letter-path"),
        pytest.param("agents/x.py", "DeadLetter.model_validate_json(b)", 0, id="decoded"),
        pytest.param("schemas/dead_letters.py", "DeadLetter(code=c)", 0, id="constructor"),
    ],
)
def test_work_of_another_module_is_found(
    tmp_path: Path, name: str, text: str, complaints: int
) -> None:
    assert len(checks.written_once(plant(tmp_path, CLEAN | {name: text}))) == complaints


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        pytest.param("agents/x.py", "import sqlite3\ndb = sqlite3.connect(p)", 1, id="connect"),
        pytest.param("agents/x.py", "import sqlite3\nsqlite3.Connection(p)", 1, id="class"),
        pytest.param("agents/x.py", "from sqlite3 import connect", 1, id="name"),
        pytest.param("agents/x.py", "def f():\n    from sqlite3 import dbapi2", 1, id="inside"),
        pytest.param("agents/x.py", "import sqlite3 as s\ns.connect(p)", 1, id="alias"),
        pytest.param("agents/x.py", "import sqlite3.dbapi2", 1, id="module"),
        pytest.param("agents/x.py", "import sqlite3\ns = sqlite3\ns.connect(p)", 1, id="value"),
        pytest.param("agents/x.py", "import sqlite3\nE = (OSError, sqlite3.Error)", 0, id="errors"),
        pytest.param("runtime/sqlite.py", "import sqlite3\nsqlite3.connect(p)", 0, id="opener"),
    ],
)
def test_sqlite_file_opened_by_another_module_is_found(
    tmp_path: Path, name: str, text: str, complaints: int
) -> None:
    assert len(checks.sqlite_openers(plant(tmp_path, CLEAN | {name: text}))) == complaints


@pytest.mark.parametrize("name", ["agents/utils.py", "pipeline/common/x.py", "schemas/base.py"])
def test_vague_module_name_is_found(tmp_path: Path, name: str) -> None:
    assert len(checks.vague_names(plant(tmp_path, CLEAN | {name: ""}))) == 1


FAST_TEST = "from pipeline.x.fast.y import f\n@given(z)\ndef test_f(): ...\n"
FAST_FILES = {
    "pipeline/x/fast/__init__.py": "",
    "pipeline/x/fast/y.py": "",
    "tests/property/fast/test_y.py": FAST_TEST,
    "docs/explanation/fast-paths.md": "| f | `pipeline/x/fast/y.py:f` |\n",
}
NO_TEST = "pipeline.x.fast.y: no property test in tests/property/fast/test_y.py"
NO_ROW = "pipeline.x.fast.y: no row in docs/explanation/fast-paths.md"


@pytest.mark.parametrize(
    ("changed", "complaints"),
    [
        pytest.param({}, [], id="complete"),
        pytest.param({"tests/property/fast/test_y.py": ""}, [NO_TEST], id="no-test"),
        pytest.param(
            {"tests/property/fast/test_y.py": FAST_TEST.replace("@given", "@example")},
            [NO_TEST],
            id="no-property",
        ),
        pytest.param(
            {"tests/property/fast/test_y.py": FAST_TEST.replace("x.fast", "w.fast")},
            [NO_TEST],
            id="test-of-another-module",
        ),
        pytest.param(
            {"docs/explanation/fast-paths.md": "`pipeline/x/fast/y.py`"}, [NO_ROW], id="no-row"
        ),
        pytest.param(
            {"pipeline/x/compact/z.py": ""},
            [
                "pipeline.x.compact.z: no property test in tests/property/fast/test_z.py",
                "pipeline.x.compact.z: no row in docs/explanation/fast-paths.md",
            ],
            id="neither",
        ),
    ],
)
def test_fast_path_without_a_test_or_a_row_is_found(
    tmp_path: Path, changed: dict[str, str], complaints: list[str]
) -> None:
    assert checks.fast_paths_compared(plant(tmp_path, FAST_FILES | changed)) == complaints


def function_of(lines: int, keyword: str = "def") -> str:
    """Return a class with a method of this many lines."""
    body = "        x = 1\n" * (lines - 2)
    return f"class C:\n    @d\n    {keyword} f(\n    ) -> None:\n{body}"


@pytest.mark.parametrize("folder", ["schemas", "pipeline/cli", "agents", "tests/unit"])
@pytest.mark.parametrize(
    ("lines", "keyword", "complaints"),
    [
        pytest.param(60, "def", [], id="longest"),
        pytest.param(61, "def", [61], id="one-too-many"),
        pytest.param(61, "async def", [61], id="async"),
    ],
)
def test_function_over_sixty_lines_is_found(
    tmp_path: Path, folder: str, lines: int, keyword: str, complaints: list[int]
) -> None:
    root = plant(tmp_path, {f"{folder}/x.py": function_of(lines, keyword)})
    name = folder.replace("/", ".") + ".x"
    assert checks.long_functions(root) == [
        f"{name}:3: f has {count} lines, 60 are allowed" for count in complaints
    ]


PYPROJECT = """
[build-system]
requires = ["hatchling==1"]
[project]
dependencies = ["alpha>=1"]
optional-dependencies = { server = ["beta[x]==2"] }
[dependency-groups]
build = ["hatchling==1"]
dev = [{ include-group = "build" }, "gamma"]
"""
ROWS = ("hatchling", "alpha", "beta", "gamma")


@pytest.mark.parametrize(
    ("rows", "complaints"),
    [
        pytest.param(ROWS, [], id="all"),
        pytest.param(ROWS[1:], ["hatchling is missing"], id="missing"),
        pytest.param((*ROWS, "delta"), ["delta is not in pyproject"], id="too-many"),
        pytest.param((*ROWS, "beta"), ["beta is there twice"], id="twice"),
    ],
)
def test_missing_or_extra_row_of_a_dependency_is_found(
    tmp_path: Path, rows: tuple[str, ...], complaints: list[str]
) -> None:
    table = "\n".join(f"| `{row}` | why |" for row in rows)
    root = plant(tmp_path, {"pyproject.toml": PYPROJECT, "docs/dependencies.md": table})
    assert checks.dependencies_explained(root) == [
        f"docs/dependencies.md: {one}" for one in complaints
    ]


def test_pin_that_dev_lock_lacks_is_found(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "requirements/agent.lock": "a==1\nc==2\n",
            "requirements/server.lock": "a==1 ; python_version > '3'\nb==2 \\\n    --hash=x\n",
            "requirements/dev.lock": "a==1 \\\nb==3\nc==1\n",
        },
    )
    assert checks.locks_agree(root) == [
        "requirements/dev.lock: c==2 of agent.lock is missing",
        "requirements/dev.lock: b==2 of server.lock is missing",
    ]


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        pytest.param("[a](b.md) [c](b.md#two-words) [d](#own-title)\n# Own title", 0, id="good"),
        pytest.param("`[a](gone.md)` [b](https://example.org/x)", 0, id="code-and-web"),
        pytest.param("[a](gone.md)", 1, id="no-file"),
        pytest.param("[a](b.md#three)", 1, id="no-heading"),
        pytest.param("[a](#nowhere)", 1, id="no-own-heading"),
    ],
)
def test_broken_link_is_found(tmp_path: Path, text: str, complaints: int) -> None:
    root = plant(tmp_path, {"docs/a.md": text, "docs/b.md": "# Two words\n"})
    assert len(checks.links_resolve(sorted(root.rglob("*.md")))) == complaints


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        pytest.param("```\ndrydock run --data-dir D\n```\n`.venv/bin/drydock run`", 0, id="known"),
        pytest.param("the drydock yard; `drydock --help`", 0, id="prose-and-option"),
        pytest.param("`drydock sail`", 1, id="unknown-in-a-span"),
        pytest.param("```sh\n$ drydock sail\n```", 1, id="unknown-in-a-block"),
    ],
)
def test_unknown_command_in_code_is_found(text: str, complaints: int) -> None:
    assert len(checks.commands_exist(text, {"run"})) == complaints


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        pytest.param("| `drydock run` | x |\n| `drydock halt --all` | y |", [], id="both"),
        pytest.param("| `drydock run` | x |", ["drydock halt: in no table"], id="missing"),
        pytest.param(
            "| `drydock run` | `drydock halt` |", ["drydock halt: in no table"], id="cell"
        ),
        pytest.param(
            "| `drydock run` |\n| `drydock halt` |\n| `drydock sail` |",
            ["drydock sail: no such command"],
            id="unknown",
        ),
    ],
)
def test_missing_or_unknown_command_in_a_table_is_found(text: str, complaints: list[str]) -> None:
    assert checks.commands_listed(text, {"run", "halt"}) == complaints


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        pytest.param("see ../shared/data, /usr/bin/env, https://example.org/work/x", 0, id="good"),
        pytest.param("uv pip compile --no-emit-" + "index-url", 0, id="no-index"),
        pytest.param("in /" + "work/main", 1, id="work"),
        pytest.param("'/" + "root/.cache'", 1, id="root"),
        pytest.param("dir=/" + "tmp/x", 1, id="tmp"),
        pytest.param("/" + "home/someone/x", 1, id="home"),
        pytest.param("--" + "index-url x", 1, id="index-option"),
        pytest.param("https://py" + "pi.org/simple", 1, id="index"),
    ],
)
def test_machine_path_or_package_index_is_found(tmp_path: Path, text: str, complaints: int) -> None:
    root = plant(tmp_path, {"a.txt": text})
    assert len(checks.machine_free([root / "a.txt"])) == complaints


def test_only_existing_tracked_files_are_listed(tmp_path: Path) -> None:
    root = plant(tmp_path, {"kept.md": "", "gone.md": "", "new.md": ""})
    run: Callable[..., object] = subprocess.run
    run(["git", "init", "-q"], cwd=root, check=True)
    run(["git", "add", "kept.md", "gone.md"], cwd=root, check=True)
    (root / "gone.md").unlink()
    assert checks.tracked_files(root) == [root / "kept.md"]
