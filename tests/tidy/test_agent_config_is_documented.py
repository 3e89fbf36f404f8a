"""The pages and examples of the configuration files agree with the files' models."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agents.config.file import parse_agent_config
from agents.config.lint import lint
from agents.config.model import (
    ActivationConfig,
    AgentConfig,
    KmfddmConfig,
    MdmServerConfig,
    SiteConfig,
    SiteLimits,
    SshConfig,
    VolumeOwnerConfig,
)
from pipeline.gateway.senders_config import (
    SenderConfig,
    SenderLimits,
    SendersConfig,
    parse_senders,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "reference"
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]+)` )?\|", re.MULTILINE)
MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("agent-config", "The file"): AgentConfig,
    ("agent-config", "A site"): SiteConfig,
    ("agent-config", "An MDM server"): MdmServerConfig,
    ("agent-config", "A server of declarations"): KmfddmConfig,
    ("agent-config", "SSH"): SshConfig,
    ("agent-config", "An activation"): ActivationConfig,
    ("agent-config", "A volume owner"): VolumeOwnerConfig,
    ("agent-config", "Limits"): SiteLimits,
    ("senders", "The file"): SendersConfig,
    ("senders", "A sender"): SenderConfig,
    ("senders", "Limits of a sender"): SenderLimits,
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
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return f"{field.default:g}"


@pytest.mark.parametrize(("page", "heading"), MODELS)
def test_table_has_each_key_with_its_default(page: str, heading: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    fields = MODELS[page, heading].model_fields
    assert ROW.findall(section) == [(name, default_text(field)) for name, field in fields.items()]


def test_example_is_valid_and_has_no_warning() -> None:
    document = parse_agent_config((ROOT / "examples" / "agent.yaml").read_text())
    assert lint(document) == []


def test_example_of_senders_is_valid() -> None:
    config, _ = parse_senders((ROOT / "examples" / "senders.yaml").read_text())
    assert config.senders
