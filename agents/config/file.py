"""Configuration files of sites: YAML to an AgentConfig, or all problems with line and column."""

from pathlib import Path
from typing import NamedTuple

from agents.config.model import AgentConfig
from runtime.located_yaml import Located
from runtime.yaml_file import read_yaml_text
from runtime.yaml_model import YamlFileError, read_model


class AgentConfigError(YamlFileError):
    """The text is no valid configuration; `problems` are in the order of their lines."""

    KIND = "configuration"


class AgentConfigDocument(NamedTuple):
    """A valid configuration, and `root`, which has the location of each value."""

    config: AgentConfig
    root: Located


def read_agent_config(path: Path) -> AgentConfig:
    """Return the configuration of a file.

    Raises UnreadableFileError if it cannot be read as text, and AgentConfigError with all problems
    if the text is not valid. No secret is read.
    """
    return parse_agent_config(read_yaml_text(path)).config


def parse_agent_config(text: str) -> AgentConfigDocument:
    """Return the configuration of a YAML text. Raises AgentConfigError with all problems."""
    try:
        return AgentConfigDocument(*read_model(text, AgentConfig))
    except YamlFileError as error:
        raise AgentConfigError(error.problems) from None
