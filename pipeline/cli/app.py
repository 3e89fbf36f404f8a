"""The command line with all its commands. Command modules import heavy packages when they run."""

from typing import Annotated

import typer

from agents.cli import app as agent
from agents.config.commands import doctor
from pipeline.cli.advisories import app as advisories
from pipeline.cli.approve import approve
from pipeline.cli.attempts import app as attempts
from pipeline.cli.backup import backup
from pipeline.cli.dead_letters import app as dead_letters
from pipeline.cli.decide import decide
from pipeline.cli.demo import demo
from pipeline.cli.devices import app as devices
from pipeline.cli.explain import explain
from pipeline.cli.feeds import feeds
from pipeline.cli.gateway import gateway
from pipeline.cli.halt import halt
from pipeline.cli.ingest import IngestCommand, ingest
from pipeline.cli.installers import app as installers
from pipeline.cli.keys import app as keys
from pipeline.cli.lists import approvals, findings, halts, jobs, list_devices
from pipeline.cli.output import run_command
from pipeline.cli.policy import app as policy
from pipeline.cli.query import query
from pipeline.cli.replay import replay
from pipeline.cli.restore import restore
from pipeline.cli.resume import resume
from pipeline.cli.run import run
from pipeline.cli.schemas import schemas
from pipeline.cli.status import status
from pipeline.cli.topics import app as topics
from pipeline.cli.worker import worker
from runtime.private_files import use_private_umask

app = typer.Typer(
    name="drydock",
    help="Keep a fleet of Macs patched and enrolled by reacting to events.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("drydock"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Keep a fleet of Macs patched and enrolled by reacting to events."""
    use_private_umask()


# In the order of `drydock --help`.
app.add_typer(agent, name="agent")
app.command()(decide)
app.command()(demo)
app.command()(doctor)
app.command()(explain)
app.add_typer(keys, name="keys")
app.add_typer(policy, name="policy")
app.command()(replay)
app.command(cls=IngestCommand)(ingest)
app.command()(run)
app.command()(gateway)
app.command()(feeds)
app.command()(status)
app.command()(backup)
app.command()(restore)
app.command()(halt)
app.command()(resume)
app.command()(approve)
app.add_typer(advisories, name="advisories")
app.add_typer(attempts, name="attempts")
devices.command("list")(list_devices)
app.add_typer(devices, name="devices")
app.add_typer(jobs, name="jobs")
app.add_typer(approvals, name="approvals")
app.add_typer(halts, name="halts")
app.add_typer(findings, name="findings")
app.add_typer(installers, name="installers")
app.add_typer(dead_letters, name="dead-letters")
app.command()(schemas)
app.add_typer(topics, name="topics")
app.command()(worker)
app.command()(query)


def main() -> None:
    """Run the command that the arguments of this process name, then exit with its code."""
    run_command(app)
