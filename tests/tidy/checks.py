"""Rules of the tree itself: each rule takes a root folder, or files, and returns its complaints."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

Check = Callable[[Path], list[str]]
FilesCheck = Callable[[Iterable[Path]], list[str]]

PACKAGES: Final = ("schemas", "runtime", "pipeline", "agents")
# Packages that a site installs.
SITE_PACKAGES: Final = ("schemas", "runtime", "agents")

# The packages that each package may import besides itself. The longest matching name counts.
# `pipeline.embedded` serves the gateway's HTTP application, so it imports it.
_ATTEMPT: Final = (
    *("schemas", "agents.mac", "agents.preflight"),
    *("agents.journal_entry", "agents.attempt_steps"),
)
MAY_IMPORT: Final[dict[str, tuple[str, ...]]] = {
    "schemas": (),
    "runtime": ("schemas",),
    "pipeline": ("schemas", "runtime"),
    "pipeline.state": ("schemas",),
    "pipeline.policy": (
        "schemas",
        "runtime.located_yaml",
        "runtime.yaml_model",
        "pipeline.state.hardware_table",
    ),
    "pipeline.decide": ("schemas", "pipeline.state", "pipeline.policy"),
    "pipeline.reconcile": (
        "schemas",
        "pipeline.state",
        "pipeline.policy",
        "pipeline.decide",
        "pipeline.trust.identity",
        "pipeline.fleet_counts",
    ),
    "pipeline.ingest": ("schemas",),
    "pipeline.trust": ("schemas", "pipeline.ingest.sources", "pipeline.ingest.translation"),
    "pipeline.config": ("schemas", "pipeline.ingest.sources", "pipeline.trust.stamps"),
    "pipeline.fleet_counts": ("schemas",),
    "pipeline.metric_texts": (),
    "pipeline.metrics": ("schemas", "runtime", "pipeline.fleet_counts", "pipeline.metric_texts"),
    "pipeline.payload_signing": ("schemas",),
    "pipeline.http_connections": ("schemas", "runtime"),
    "pipeline.server_process": ("schemas", "runtime", "pipeline.http_connections"),
    "pipeline.signing_keys": ("schemas", "runtime"),
    "pipeline.provisioning": ("schemas", "runtime"),
    "pipeline.gateway": (
        "schemas",
        "runtime",
        "pipeline.ingest",
        "pipeline.trust",
        "pipeline.config",
        "pipeline.metrics",
        "pipeline.http_connections",
        "pipeline.payload_signing",
        "pipeline.server_process",
    ),
    "pipeline.feeds": (
        "schemas",
        "runtime",
        "pipeline.ingest",
        "pipeline.trust",
        "pipeline.gateway.endpoint",
        "pipeline.gateway.records",
        "pipeline.config",
        "pipeline.server_process",
    ),
    "pipeline.processors": (
        "schemas",
        "runtime",
        "pipeline.state",
        "pipeline.policy",
        "pipeline.decide",
        "pipeline.reconcile",
        "pipeline.trust",
        "pipeline.config",
        "pipeline.metrics",
        "pipeline.payload_signing",
    ),
    "pipeline.embedded": (
        "schemas",
        "runtime",
        "pipeline.state",
        "pipeline.policy",
        "pipeline.decide",
        "pipeline.reconcile",
        "pipeline.ingest",
        "pipeline.trust",
        "pipeline.gateway",
        "pipeline.feeds",
        "pipeline.config",
        "pipeline.metrics",
        "pipeline.http_connections",
        "pipeline.payload_signing",
        "pipeline.server_process",
        "pipeline.signing_keys",
        "pipeline.replay",
        "agents",
    ),
    # Without a publisher: a replay must not publish.
    "pipeline.replay": (
        "schemas",
        "pipeline.state",
        "pipeline.policy",
        "pipeline.decide",
        "pipeline.reconcile",
        "pipeline.embedded.log",
        "pipeline.embedded.store",
    ),
    # Without a producer: it only reads.
    "pipeline.query": (
        "schemas",
        "runtime",
        "pipeline.state",
        "pipeline.reconcile",
        "pipeline.trust.stamps",
        "pipeline.processors.broadcast",
        "pipeline.processors.clients",
        "pipeline.processors.withdrawals",
        "pipeline.embedded.log",
        "pipeline.embedded.log_retention",
        "pipeline.embedded.names",
        "pipeline.embedded.read_api",
        "pipeline.embedded.reads",
        "pipeline.embedded.store",
        "pipeline.embedded.transaction",
        "pipeline.gateway.authentication",
        "pipeline.gateway.endpoint",
        "pipeline.gateway.logins",
        "pipeline.server_process",
    ),
    "pipeline.demo": ("schemas", "runtime", "pipeline", "agents"),
    "pipeline.cli": ("schemas", "runtime", "pipeline", "agents"),
    "agents": ("schemas", "runtime"),
    "agents.journal_entry": ("schemas", "agents.mac"),
    "agents.attempt_steps": ("schemas", "agents.mac", "agents.journal_entry"),
    "agents.watching": _ATTEMPT,
    "agents.lifecycle": (*_ATTEMPT, "agents.first_order", "agents.watching"),
    "agents.first_order": ("schemas", "agents.mac", "agents.preflight"),
    "agents.destructive_lock": ("schemas", "agents.preflight", "agents.verification"),
}
SCHEMAS_LIBRARIES: Final = frozenset({"cryptography", "msgspec", "pydantic", "pydantic_core"})

PURE: Final = (
    "schemas",
    "runtime.located_yaml",
    "runtime.yaml_model",
    "pipeline.state",
    "pipeline.policy",
    "pipeline.decide",
    "pipeline.reconcile",
    "pipeline.fleet_counts",
    "pipeline.ingest",
    "pipeline.trust",
    "agents.attempt_steps",
    "agents.destructive_lock",
    "agents.first_order",
    "agents.installers.catalog",
    "agents.journal_entry",
    "agents.lifecycle",
    "agents.mdm.declarations",
    "agents.mdm.delivery",
    "agents.mdm.facts",
    "agents.mdm.observation",
    "agents.mdm.status_report",
    "agents.preflight",
    "agents.ssh.facts_table",
    "agents.ssh.fetching",
    "agents.ssh.images",
    "agents.ssh.listing",
    "agents.ssh.mac_facts",
    "agents.ssh.observation",
    "agents.ssh.offers",
    "agents.ssh.orders",
    "agents.ssh.progress",
    "agents.ssh.report",
    "agents.ssh.update_output",
    "agents.verification",
)
IMPURE_MODULES: Final = frozenset(
    {"asyncio", "fileinput", "getpass", "glob", "http", "httpx", "importlib", "kafka", "logging"}
    | {"multiprocessing", "os", "pathlib", "platform", "random", "requests", "secrets", "select"}
    | {"shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "sys"}
    | {"tempfile", "threading", "time", "urllib.request", "uuid"}
)
# Beside IMPURE_MODULES, which `pipeline.reconcile` may not import either.
KEYS_AND_STORAGE: Final = (
    *("aiokafka", "asyncio", "cryptography", "faust", "kafka", "sqlite3"),
    *("pipeline.payload_signing", "pipeline.signing_keys"),
)
IMMUTABLE_BASES: Final = frozenset({"NamedTuple", "Enum", "StrEnum", "IntEnum", "Protocol"})
# A descriptor has the function that it decorates, set once when its class is made.
DESCRIPTORS: Final = frozenset({"pipeline.decide.fast.cached.cached"})
IMPURE_CALLS: Final = frozenset({"open", "input", "print", "breakpoint", "__import__"})
CLOCK_CALLS: Final = frozenset({"now", "utcnow", "today"})

# Tasks of one module for all others: the imports and the constructors that only it may use.
ONLY_IMPORTED_IN: Final = {"structlog": "runtime.logs"}
ONLY_CONSTRUCTED_IN: Final = {
    "DeadLetter": "schemas.dead_letters",
    "JobIssuedEvent": "pipeline.decide.job_events",
    "JobSupersededEvent": "pipeline.decide.job_events",
}

# The only module that opens SQLite files, and the names of sqlite3 for the others.
SQLITE_MODULE: Final = "runtime.sqlite"
SQLITE_ERRORS: Final = frozenset(
    {"Error", "DatabaseError", "IntegrityError", "OperationalError", "SQLITE_FULL"}
)

VAGUE: Final = frozenset({"utils", "util", "helpers", "helper", "common", "base", "misc"})

# A module in such a folder exists only for speed or for little memory.
FAST_FOLDERS: Final = frozenset({"fast", "compact"})
FAST_TESTS: Final = "tests/property/fast"
FAST_PAGE: Final = "docs/explanation/fast-paths.md"

# From `def` to the last line, docstring included; decorators do not count.
MAX_FUNCTION_LINES: Final = 60


def tracked_files(root: Path) -> list[Path]:
    """Return the files that git tracks and that exist."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True
    ).stdout
    paths = [root / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def modules(root: Path, packages: Iterable[str] = PACKAGES) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and file of every module of the packages."""
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = list(path.relative_to(root).with_suffix("").parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each import of a module, also inside its functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def within(name: str, places: Iterable[str]) -> bool:
    """Return True if a dotted name is one of the places or inside one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def import_direction(root: Path) -> list[str]:
    """Return each import that MAY_IMPORT does not permit.

    Imports go one way: schemas <- state <- decide <- shells, and schemas <- runtime <- shells and
    agents. Agents never import the pipeline.
    """
    complaints = []
    for name, path in modules(root):
        rule = max((place for place in MAY_IMPORT if within(name, [place])), key=len)
        is_folder = name.count(".") >= (1 if path.name == "__init__.py" else 2)
        if rule == "pipeline" and is_folder:
            complaints.append(f"{name}: this folder has no rule in MAY_IMPORT")
        for line, imported in imports_of(name, path):
            top = imported.partition(".")[0]
            if top in PACKAGES:
                if not within(imported, [rule, *MAY_IMPORT[rule]]) or _is_deeper(rule, imported):
                    complaints.append(f"{name}:{line}: may not import {imported}")
            elif rule == "schemas" and top not in sys.stdlib_module_names | SCHEMAS_LIBRARIES:
                complaints.append(f"{name}:{line}: may not import {imported}")
    return complaints


def _is_deeper(rule: str, imported: str) -> bool:
    """Return True if the rule is `pipeline` itself and the import is a folder with its own rule."""
    return rule == "pipeline" and within(imported, [p for p in MAY_IMPORT if p.count(".") == 1])


# Names of `cryptography` that create, load or write private keys, also in texts and comments.
_PRIVATE_KEY: Final = re.compile(r"PrivateKey|private_key|private_bytes|\.generate\b")


def no_private_keys(root: Path) -> list[str]:
    """Return each line of a site's packages that creates, loads, writes or names a private key."""
    return [
        f"{name}:{number}: {found[0]}: a site has no private keys"
        for name, path in modules(root, SITE_PACKAGES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := _PRIVATE_KEY.search(line))
    ]


def purity(root: Path) -> list[str]:
    """Return each use of a clock, randomness, environment, logging or I/O in the pure core."""
    complaints = []
    for name, path in modules(root):
        if not within(name, PURE):
            continue
        for line, imported in imports_of(name, path):
            if within(imported, IMPURE_MODULES):
                complaints.append(f"{name}:{line}: imports {imported}")
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
                complaints.append(f"{name}:{node.lineno}: calls {node.func.id}()")
            if isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS:
                complaints.append(f"{name}:{node.lineno}: calls .{node.func.attr}()")
            if isinstance(node.func, ast.Attribute) and node.func.attr == "open":
                complaints.append(f"{name}:{node.lineno}: calls .open()")
    return complaints


def keyless_reconcile(root: Path) -> list[str]:
    """Return each import of storage, a broker, a scheduler or keys in the reconcile loop.

    A shell passes the function that signs, and makes the changes durable.
    """
    return [
        f"{name}:{line}: imports {imported}"
        for name, path in modules(root)
        if within(name, ["pipeline.reconcile"])
        for line, imported in imports_of(name, path)
        if within(imported, KEYS_AND_STORAGE)
    ]


def immutable_rules(root: Path) -> list[str]:
    """Return each class of `pipeline.decide` whose instances may change: rules have no state.

    Immutable are NamedTuples, enums, exceptions, and classes that are declared `frozen=True`.
    """
    return [
        f"{name}:{node.lineno}: {node.name} is mutable"
        for name, path in modules(root)
        if within(name, ["pipeline.decide"])
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ClassDef)
        and f"{name}.{node.name}" not in DESCRIPTORS
        and not _is_immutable(node)
    ]


def _is_immutable(node: ast.ClassDef) -> bool:
    declared = [*node.keywords]
    for decorator in node.decorator_list:
        declared += decorator.keywords if isinstance(decorator, ast.Call) else []
    is_frozen = any(one.arg == "frozen" and ast.unparse(one.value) == "True" for one in declared)
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    return is_frozen or any(base in IMMUTABLE_BASES or base.endswith("Error") for base in bases)


def harness_imports(root: Path) -> list[str]:
    """Return each import of integration tests from elsewhere, and of a broker from unit tests."""
    complaints = []
    for path in sorted((root / "tests").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        forbidden = [] if within(name, ["tests.integration"]) else ["tests.integration"]
        if within(name, ["tests.unit", "tests.property"]):
            forbidden += ["tests.kafka", "tests.e2e", "tests.chaos", "tests.bench"]
        complaints += [
            f"{name}:{line}: may not import {imported}"
            for line, imported in imports_of(name, path)
            if within(imported, forbidden)
        ]
    return complaints


def written_once(root: Path) -> list[str]:
    """Return each import and each constructor call that belongs to another module."""
    complaints = []
    for name, path in modules(root):
        complaints += [
            f"{name}:{line}: only {place} imports {library}"
            for line, imported in imports_of(name, path)
            for library, place in ONLY_IMPORTED_IN.items()
            if within(imported, [library]) and name != place
        ]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                place = ONLY_CONSTRUCTED_IN.get(called, name)
                if name != place:
                    complaints.append(f"{name}:{node.lineno}: only {place} constructs {called}")
    return complaints


def sqlite_openers(root: Path) -> list[str]:
    """Return each use of sqlite3 outside its module but for the handling of errors.

    Each store opens its file through `runtime.sqlite`: with a version, a lock and WAL.
    """
    complaints = []
    for name, path in modules(root):
        if name == SQLITE_MODULE:
            continue
        tree = ast.parse(path.read_bytes())
        for line, imported in imports_of(name, path):
            if imported.startswith("sqlite3."):
                complaints.append(f"{name}:{line}: imports {imported}")
        errors = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in SQLITE_ERRORS
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.alias) and node.name == "sqlite3" and node.asname:
                complaints.append(f"{name}:{node.lineno}: imports sqlite3 as {node.asname}")
            if isinstance(node, ast.Name) and node.id == "sqlite3" and id(node) not in errors:
                complaints.append(f"{name}:{node.lineno}: uses sqlite3 for more than its errors")
    return complaints


def vague_names(root: Path) -> list[str]:
    """Return each module whose name is too vague to state its one reason to change."""
    return [
        f"{name}: names no reason to change"
        for name, _ in modules(root)
        if VAGUE & set(name.split("."))
    ]


def fast_paths_compared(root: Path) -> list[str]:
    """Return each module in a folder of FAST_FOLDERS without a property test, and without a row.

    The test compares the module with its plain form: `test_<module>.py` in FAST_TESTS, which
    imports it. The row is in a table of FAST_PAGE, with the path of the module.
    """
    complaints = []
    page = root / FAST_PAGE
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    listed = {file for line in lines if line[:1] == "|" for file in _CODE_PATH.findall(line)}
    for name, path in modules(root):
        if FAST_FOLDERS.isdisjoint(name.split(".")[:-1]):
            continue
        test = root / FAST_TESTS / f"test_{path.stem}.py"
        text = test.read_text(encoding="utf-8") if test.exists() else ""
        if "@given(" not in text or f"from {name} import" not in text:
            complaints.append(f"{name}: no property test in {FAST_TESTS}/{test.name}")
        if str(path.relative_to(root)) not in listed:
            complaints.append(f"{name}: no row in {FAST_PAGE}")
    return complaints


_CODE_PATH: Final = re.compile(r"`([\w/]+\.py)\b")


def long_functions(root: Path) -> list[str]:
    """Return each function with more than MAX_FUNCTION_LINES lines, docstring included."""
    complaints = []
    for name, path in modules(root, (*PACKAGES, "tests")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    complaints.append(
                        f"{name}:{node.lineno}: {node.name} has {lines} lines,"
                        f" {MAX_FUNCTION_LINES} are allowed"
                    )
    return complaints


def direct_dependencies(root: Path) -> set[str]:
    """Return the names of all direct dependencies in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    asked: list[object] = [
        *project.get("build-system", {}).get("requires", []),
        *project["project"].get("dependencies", []),
    ]
    for group in project["project"].get("optional-dependencies", {}).values():
        asked += group
    for group in project.get("dependency-groups", {}).values():
        asked += group
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in asked if isinstance(line, str))
    return {match[0] for match in names if match}


def dependencies_explained(root: Path) -> list[str]:
    """Return each difference of docs/dependencies.md from the direct dependencies: one row each."""
    text = (root / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    asked = direct_dependencies(root)
    complaints = [f"docs/dependencies.md: {name} is missing" for name in sorted(asked - set(rows))]
    complaints += [
        f"docs/dependencies.md: {name} is not in pyproject" for name in sorted(set(rows) - asked)
    ]
    twice = sorted({name for name in rows if rows.count(name) > 1})
    return complaints + [f"docs/dependencies.md: {name} is there twice" for name in twice]


def pins(lock: Path) -> set[str]:
    """Return every `name==version` of a lock file."""
    return set(re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", lock.read_text(), re.MULTILINE))


def locks_agree(root: Path) -> list[str]:
    """Return each pin of server.lock and agent.lock that dev.lock lacks.

    With all of them `make test` tests the versions that are installed, and runs `make demo`.
    """
    folder = root / "requirements"
    present = pins(folder / "dev.lock")
    return [
        f"requirements/dev.lock: {pin} of {name} is missing"
        for name in ("agent.lock", "server.lock")
        for pin in sorted(pins(folder / name) - present)
    ]


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_resolve(files: Iterable[Path]) -> list[str]:
    """Return each relative link in a Markdown file to a missing file or heading."""
    complaints = []
    for path in files:
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(path.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            to = (path.parent / name) if name else path
            if not to.exists():
                complaints.append(f"{path.name}: {target}: no such file")
            elif anchor and anchor not in _anchors(to.read_text()):
                complaints.append(f"{path.name}: {target}: no such heading")
    return complaints


def commands_exist(text: str, known: Collection[str]) -> list[str]:
    """Return each `drydock COMMAND` in the code of a text that is not in `known`."""
    shown = "\n".join(re.findall(r"```.*?```|`[^`\n]*`", text, re.DOTALL))
    named = set(re.findall(r"(?<![\w./-])(?:\.venv/bin/)?drydock ([a-z][a-z-]*)", shown))
    return [f"drydock {name}: no such command" for name in sorted(named - set(known))]


def commands_listed(text: str, known: Collection[str]) -> list[str]:
    """Return each difference of the first cells of a text's tables from the known commands."""
    named = set(re.findall(r"^\| `drydock ([a-z][a-z-]*)", text, re.MULTILINE))
    complaints = [f"drydock {name}: in no table" for name in sorted(set(known) - named)]
    return complaints + [f"drydock {name}: no such command" for name in sorted(named - set(known))]


# The patterns are joined from parts, so that they do not match this file.
_MACHINE: Final = re.compile(rb"(?<![\w.:/-])/(?:work|root|tmp|home/\w+)/")
_INDEX: Final = re.compile(b"py" + b"pi.org|python" + b"hosted|--" + b"index-url")


def machine_free(files: Iterable[Path]) -> list[str]:
    """Return each line of these files with a path of one machine or a package index."""
    complaints = []
    for path in files:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if _MACHINE.search(line):
                complaints.append(f"{path.name}:{number}: a path of one machine")
            if _INDEX.search(line.replace(b"--no-emit-" + b"index-url", b"")):
                complaints.append(f"{path.name}:{number}: a package index")
    return complaints
