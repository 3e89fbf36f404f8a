"""The commit-msg hook accepts messages in STYLE's form and names each fault of others."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tools.commit_message import faults

ROOT = Path(__file__).resolve().parents[3]
LONGEST = "decide: " + "x" * 64


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("decide: hold updates while a job is open", id="subject"),
        pytest.param("decide, state: fold before deciding\n\nWhy; and how.\n", id="two-areas"),
        pytest.param("pipeline/cli: split a command", id="folder"),
        pytest.param(LONGEST, id="longest"),
        pytest.param("\n# Comment; of git.\ndecide: x\n# More.\n", id="comments"),
        pytest.param(
            "decide: x\n# ------------------------ >8 ------------------------\ndiff; a\nb\n",
            id="verbose-diff",
        ),
        pytest.param("Merge branch 'x'; of y", id="merge"),
        pytest.param('Revert "decide: x"', id="revert"),
        pytest.param("fixup! decide: x", id="fixup"),
        pytest.param("# Nothing.\n", id="empty"),
    ],
)
def test_message_in_form_has_no_faults(message: str) -> None:
    assert faults(message) == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        pytest.param("hold updates while a job is open", "area: what changed", id="no-area"),
        pytest.param("Decide: hold updates", "area: what changed", id="capital"),
        pytest.param("decide:hold updates", "area: what changed", id="no-space"),
        pytest.param("decide: ", "area: what changed", id="no-change"),
        pytest.param("feat(decide): hold updates", "area: what changed", id="other-form"),
        pytest.param(LONGEST + "x", "73 characters, 72 are allowed", id="too-long"),
        pytest.param("decide: hold; state: fold", "two commits", id="two-changes"),
        pytest.param("decide: hold updates.", "full stop", id="full-stop"),
        pytest.param("decide: hold updates\nwhy\n", "not empty", id="no-empty-line"),
    ],
)
def test_fault_is_named(message: str, fault: str) -> None:
    (found,) = faults(message)
    assert fault in found


def test_every_fault_is_named() -> None:
    assert len(faults("Hold; and fold." + "x" * 60 + ".\nwhy")) == 5


@pytest.mark.parametrize(
    ("message", "status"), [("decide: x", 0), ("x; y", 1)], ids=["good", "bad"]
)
def test_hook_exits_with_1_for_a_fault(tmp_path: Path, message: str, status: int) -> None:
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_text(message)
    script = ROOT / "tools" / "commit_message.py"
    ran = subprocess.run(
        [sys.executable, script, path], capture_output=True, check=False, text=True
    )
    assert ran.returncode == status
    assert ("commit message: " in ran.stderr) is bool(status)


def test_hook_runs_at_commit_msg_and_the_others_do_not() -> None:
    config = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")
    assert "commit-msg" in config["default_install_hook_types"]
    (repository,) = config["repos"]
    stages = {
        hook["entry"]: hook.get("stages", config["default_stages"]) for hook in repository["hooks"]
    }
    assert stages.pop(".venv/bin/python tools/commit_message.py") == ["commit-msg"]
    assert all(stage == ["pre-commit"] for stage in stages.values())
