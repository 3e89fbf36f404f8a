"""The command `drydock-agent`, also part of `drydock` as `drydock agent`.

Exit 2 if the agent cannot start or continue, with the reason in one line on stderr.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.config.commands import check, doctor, read_config, try_mac
from runtime.command_output import fail, run_command
from runtime.private_files import use_private_umask

if TYPE_CHECKING:
    from agents.clock import Clock
    from agents.site_access import SiteAccess
    from runtime.listening import Listen

app = typer.Typer(
    name="drydock-agent",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Needed unless there is a subcommand, so typer cannot require them, and the help has its mark.
Site = Annotated[
    str | None, typer.Option(help="The site whose jobs this agent carries out. [required]")
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Directory for its state; for this agent alone. [required]"),
]
Bootstrap = Annotated[
    str | None,
    typer.Option(help="Kafka brokers, separated by commas; default: DRYDOCK_KAFKA_BOOTSTRAP."),
]
Keys = Annotated[
    Path | None,
    typer.Option(help="The folder with `trust/`; default: `keys` in the data directory."),
]
Name = Annotated[
    str | None,
    typer.Option(
        envvar="DRYDOCK_AGENT_NAME",
        help="Lasting name of this agent in the site's group; default: one kept in the data"
        " directory.",
    ),
]
DrainS = Annotated[
    float, typer.Option(min=0, help="Seconds after SIGTERM in which it hands over its jobs.")
]
SessionS = Annotated[
    float,
    typer.Option(min=1, help="Seconds without a heartbeat after which other agents take its jobs."),
]
Slots = Annotated[
    int, typer.Option(min=1, help="Jobs at once at the site's Macs, over all its agents.")
]
Address = Annotated[
    str, typer.Option(help="HOST:PORT of /metrics, /healthz and /readyz; empty for none.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="The configuration of sites; without this site in it, the site is in dry run."
    ),
]
Simulate = Annotated[
    str | None,
    typer.Option(help="Act on the simulated Macs of the server at this HOST:PORT."),
]


def _print_version(wanted: bool) -> None:
    """Print the version of the installed wheel, then end."""
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("drydock-agent")
    except PackageNotFoundError:
        installed = version("drydock")
    typer.echo(installed)
    raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback(invoke_without_command=True)
def agent(  # noqa: PLR0913, PLR0917 - a command's options
    context: typer.Context,
    site: Site = None,
    data_dir: DataDir = None,
    bootstrap: Bootstrap = None,
    keys: Keys = None,
    name: Name = None,
    slots: Slots = 50,
    drain_s: DrainS = 30.0,
    session_s: SessionS = 30.0,
    listen: Address = "127.0.0.1:9464",
    config: Config = None,
    simulate: Simulate = None,
    version: Version = False,  # noqa: ARG001 - its callback prints it
) -> None:
    """Carry out the jobs of a site, on Kafka.

    Each job is verified, then its Mac is acted on once, then the results are published. The agent
    can be killed at any moment: another agent of the site, or the same one after a restart, looks
    at each Mac and continues. Without --config, or if the file does not have the site, it is a dry
    run: every job is withheld and no Mac is touched. Exit 2 if it cannot start or continue.
    """
    use_private_umask()
    if context.invoked_subcommand is not None:
        return
    if site is None or data_dir is None:
        context.fail(f"Missing option '{'--site' if site is None else '--data-dir'}'.")
    from pydantic import TypeAdapter, ValidationError

    from agents.service import AgentError, AgentPlan, serve
    from runtime.kafka import SettingsError, kafka_settings
    from runtime.logs import make_log
    from schemas.ids import SiteField

    try:
        TypeAdapter(SiteField).validate_python(site)
        TypeAdapter(SiteField).validate_python(name or site)
    except ValidationError:
        fail("--site and --name: use small letters, digits and hyphens, at most 63 characters")
    if config is not None and simulate is not None:
        fail("--config acts on real Macs and --simulate on simulated ones: choose one")
    access, clock = _access(simulate)
    try:
        plan = AgentPlan(
            site=site,
            data_dir=data_dir,
            connection=kafka_settings(bootstrap),
            keys=keys,
            name=name,
            slots=slots,
            drain_s=drain_s,
            session_s=session_s,
            listen=_address(listen) if listen else None,
            access=access,
            config=None if config is None else read_config(config).config,
            clock=clock,
        )
        serve(plan, make_log())
    except (AgentError, SettingsError) as error:
        fail(str(error))


def _address(text: str) -> "Listen":
    """Return the address HOST:PORT; an empty host is 127.0.0.1.

    Exit 2 if the text has another form or the port is above 65535.
    """
    from runtime.listening import Listen

    try:
        return Listen.parse(text, empty_host="127.0.0.1")
    except ValueError as error:
        fail(f"{error}, such as 127.0.0.1:9464")


def _access(simulate: str | None) -> "tuple[SiteAccess | None, Clock]":
    """Return the access to the site's Macs, and the clock of the agent.

    With `simulate` (HOST:PORT) both belong to the server of simulated Macs; exit 2 if the text has
    another form, or if the server cannot be reached. Without `simulate` they are None (a dry run)
    and the system's clock.
    """
    from agents.clock import WallClock

    if simulate is None:
        return None, WallClock()
    from agents.simulated.client import SimulatedFleetClient, SimulatedFleetError
    from agents.site_access import SiteAccess

    server = _address(simulate)
    try:
        macs = SimulatedFleetClient(server.host, server.port)
        return SiteAccess.simulated(macs.mac_for), macs.clock()
    except SimulatedFleetError as error:
        fail(str(error))


app.command()(check)
app.command("try")(try_mac)
app.command()(doctor)


def main() -> None:
    """Run the agent with the arguments of this process, then exit with its code."""
    run_command(app)
