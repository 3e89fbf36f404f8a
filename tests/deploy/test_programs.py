"""The programs accept the arguments and the settings that the chart gives them."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from agents.cli import app as agent
from pipeline.cli.app import app
from pipeline.config import ServerSettings
from runtime.kafka import ENVIRONMENT_PREFIX, KafkaConnection
from tests.deploy.chart import SHAPES, Helm, Object, containers, of_kind, workloads

COMMANDS = typer.main.get_command(app)
AGENT = typer.main.get_command(agent)
# Not a setting: the arguments contain `$(POD_NAME)`.
OURS = {"POD_NAME"}


def argument_complaints(args: list[str], commands: Any) -> Iterator[str]:
    """Yield the errors that the command line would report for these arguments."""
    found = commands
    words = [arg for arg in args if not arg.startswith("-")]
    name: list[str] = []
    while words and hasattr(found, "commands"):
        name.append(words.pop(0))
        found = found.commands.get(name[-1])
    command_name = " ".join(name)
    if found is None:
        yield f"no command {command_name}"
        return
    takes = [each for each in found.params if each.param_type_name == "argument"]
    yield from (f"{command_name} takes no {word}" for word in words[len(takes) :])
    yield from (
        f"{command_name} needs {each.name}" for each in takes[len(words) :] if each.required
    )
    options = {option: each for each in found.params if each not in takes for option in each.opts}
    given = [arg.partition("=")[0] for arg in args if arg.startswith("-")]
    yield from (f"{command_name} has no {option}" for option in given if option not in options)
    yield from (
        f"{command_name} needs {each.opts[0]}"
        for each in found.params
        if each not in takes and _is_required(each) and not set(each.opts) & set(given)
    )


def _is_required(option: Any) -> bool:
    """Return True if the command cannot do without; the agent's subcommands can."""
    return option.required or (option.help or "").endswith("[required]")


def commands_of(objects: list[Object]) -> Iterator[tuple[Any, list[str]]]:
    """Yield the program of each container, as a command line, with its arguments.

    A shell is none: it starts with other words.
    """
    programs = {(): COMMANDS, ("drydock-agent",): AGENT}
    for one in workloads(objects):
        for each in containers(one):
            program = programs.get(tuple(each.get("command", ())))
            if program is not None:
                yield program, each["args"]


@pytest.mark.parametrize("shape", SHAPES)
def test_programs_accept_their_arguments(helm: Helm, shape: str) -> None:
    found = [*commands_of(helm.objects(shape))]
    assert found
    assert [
        complaint for program, args in found for complaint in argument_complaints(args, program)
    ] == []


@pytest.mark.parametrize(
    ("args", "complaints"),
    [
        pytest.param(["topics", "apply", "--sites=a"], [], id="good"),
        pytest.param(["topics", "make"], ["no command topics make"], id="command"),
        pytest.param(["topics", "apply", "--site=a"], ["topics apply has no --site"], id="option"),
        pytest.param(["run"], ["run needs --data-dir"], id="missing"),
        pytest.param(["policy", "publish"], ["policy publish needs file"], id="no-argument"),
        pytest.param(["schemas", "a"], ["schemas takes no a"], id="argument"),
    ],
)
def test_wrong_argument_is_found(args: list[str], complaints: list[str]) -> None:
    assert [*argument_complaints(args, COMMANDS)] == complaints


def test_wrong_argument_of_the_agent_is_found() -> None:
    assert [*argument_complaints(["agent"], AGENT)] == ["no command agent"]
    assert [*argument_complaints(["--site=a"], AGENT)] == [" needs --data-dir"]


@pytest.mark.parametrize("shape", SHAPES)
def test_variables_of_containers_are_known_settings(helm: Helm, shape: str) -> None:
    objects = helm.objects(shape)
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in KafkaConnection.model_fields}
    known |= {f"DRYDOCK_{name.upper()}" for name in ServerSettings.model_fields}
    given = {
        variable["name"]
        for one in workloads(objects)
        for each in containers(one)
        for variable in each.get("env", [])
    }
    for one in of_kind(objects, "ConfigMap"):
        given |= {name for name in one["data"] if name.startswith("DRYDOCK_")}
    assert given - known == OURS


@pytest.mark.parametrize("shape", SHAPES)
def test_connection_settings_are_valid_together(helm: Helm, shape: str) -> None:
    """The programs' own model accepts the settings; values from Secrets are replaced by "x"."""
    objects = helm.objects(shape)
    (settings,) = [
        one for one in of_kind(objects, "ConfigMap") if "-settings" in str(one["metadata"])
    ]
    given = dict(settings["data"])
    for one in workloads(objects):
        for variable in containers(one)[-1]["env"]:
            if variable["name"].startswith(ENVIRONMENT_PREFIX):
                given.setdefault(variable["name"], "x")
    fields = {name.removeprefix(ENVIRONMENT_PREFIX).lower(): value for name, value in given.items()}
    connection = KafkaConnection.model_validate(fields)
    assert connection.uses_sasl == (shape in {"production", "multi-site"})
