"""Invariant I9: a replay cannot publish a job, because its modules import no publisher."""

import subprocess
import sys
from pathlib import Path

from tests.tidy import checks

ROOT = Path(__file__).resolve().parents[2]
PUBLISHERS = (
    "agents",
    "aiokafka",
    "boto3",
    "faust",
    "http",
    "httpx",
    "kafka",
    "pipeline.embedded",
    "pipeline.gateway",
    "pipeline.processors",
    "socket",
    "sqlite3",
    "starlette",
    "subprocess",
    "urllib.request",
    "uvicorn",
)
# A replay verifies signatures; it must not import code that signs.
SIGNERS = ("cryptography", "pipeline.payload_signing", "pipeline.signing_keys")
VERIFIERS = ("schemas.signed_payloads", "schemas.signing")


def reached_from(start: str) -> dict[str, set[str]]:
    """Return the imports of each project module that a package imports, directly or not."""
    known = dict(checks.modules(ROOT))
    found: dict[str, set[str]] = {}
    waiting = [name for name in known if checks.within(name, [start])]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = {imported for _, imported in checks.imports_of(name, known[name])}
        for imported in found[name]:
            waiting += [one for one in (imported, imported.rpartition(".")[0]) if one in known]
    return found


def test_replay_reaches_no_publisher() -> None:
    reached = reached_from("pipeline.replay")
    assert "pipeline.replay.verify" in reached
    assert "pipeline.reconcile.reconciler" in reached
    for name, imports in reached.items():
        assert [one for one in imports if checks.within(one, PUBLISHERS)] == [], name


def test_replay_reaches_no_signer() -> None:
    for name, imports in reached_from("pipeline.replay").items():
        if checks.within(name, VERIFIERS):
            continue  # only these two use cryptography: to verify
        assert [one for one in imports if checks.within(one, SIGNERS)] == [], name


def test_replay_loads_no_publisher() -> None:
    """The running program has not loaded a publisher by an import inside a function either."""
    program = (
        "import sys, pipeline.replay.verify, pipeline.replay.counterfactual,"
        " pipeline.replay.explain; print(*sorted(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True
    )
    loaded = ran.stdout.split()
    ours = [
        name for name in loaded if checks.within(name, ["agents", "pipeline", "runtime", "schemas"])
    ]
    assert "pipeline.replay.verify" in ours
    assert [name for name in ours if checks.within(name, PUBLISHERS)] == []
    assert [name for name in loaded if checks.within(name, ["kafka", "aiokafka", "faust"])] == []
