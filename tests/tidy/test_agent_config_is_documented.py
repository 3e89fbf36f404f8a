"""docs/reference/agent-config.md and examples/agent.yaml agree with the configuration's models."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agents.config.file import parse_agent_config
from agents.config.lint import lint
from agents.config.model import (
    AgentConfig,
    KmfddmConfig,
    MdmServerConfig,
    SiteConfig,
    SiteLimits,
    SshConfig,
    VolumeOwnerConfig,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "agent-config.md"
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]+)` )?\|", re.MULTILINE)
MODELS: dict[str, type[BaseModel]] = {
    "The file": AgentConfig,
    "A site": SiteConfig,
    "An MDM server": MdmServerConfig,
    "A server of declarations": KmfddmConfig,
    "SSH": SshConfig,
    "A volume owner": VolumeOwnerConfig,
    "Limits": SiteLimits,
}


def default_text(field: FieldInfo) -> str:
    """Return the cell with the default; empty if the key must be given or has none."""
    if field.default_factory is dict:
        return "{}"
    if field.default is PydanticUndefined or field.default is None:
        return ""
    if isinstance(field.default, BaseModel):
        return "{}"
    if isinstance(field.default, tuple | frozenset):
        return "[]"
    return f"{field.default:g}"


@pytest.mark.parametrize("heading", MODELS)
def test_table_has_each_key_with_its_default(heading: str) -> None:
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    fields = MODELS[heading].model_fields
    assert ROW.findall(section) == [(name, default_text(field)) for name, field in fields.items()]


def test_example_is_valid_and_has_no_warning() -> None:
    document = parse_agent_config((ROOT / "examples" / "agent.yaml").read_text())
    assert lint(document) == []
