"""`drydock run`: the embedded form in one process."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import fail
from pipeline.cli.sender_options import InsecureLoopback, Senders

if TYPE_CHECKING:
    from pydantic import ValidationError

    from pipeline.config import FeedsSettings
    from pipeline.embedded.simulation import SimulatedMacs

ListenAt = Annotated[str, typer.Option(help="HOST:PORT; port 0: a free one.")]
PolicyFile = Annotated[
    Path | None, typer.Option(help="Put this policy in force; default: the last one.")
]
Simulate = Annotated[
    int | None,
    typer.Option(min=1, help="Act on this many simulated Macs in the data directory."),
]
Config = Annotated[
    Path | None,
    typer.Option(help="Act on the Macs of the sites in this file; the others are in dry run."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Touch no Mac: the default without --config, --simulate."),
]
SofaFeed = Annotated[str | None, typer.Option(metavar="URL|FILE", help="A SOFA feed to poll.")]
GdmfFeed = Annotated[
    str | None, typer.Option(metavar="URL|FILE", help="Apple's lookup service to poll.")
]
KevFeed = Annotated[str | None, typer.Option(metavar="URL|FILE", help="CISA's catalogue to poll.")]


def run(  # noqa: PLR0913, PLR0917 - a command's options
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Directory for all state.")],
    policy: PolicyFile = None,
    listen: ListenAt = "127.0.0.1:8080",
    simulate: Simulate = None,
    config: Config = None,
    dry_run: DryRun = False,
    sofa: SofaFeed = None,
    gdmf: GdmfFeed = None,
    kev: KevFeed = None,
    senders: Senders = None,
    insecure_loopback: InsecureLoopback = False,
) -> None:
    """Serve one fleet from one data directory, without Kafka.

    It takes webhooks, decides, and issues jobs. It can be killed at any moment: after a restart it
    continues, and no job is done twice. Secrets of senders come from the environment
    (DRYDOCK_NANOMDM_HMAC_KEY and others, docs/embedded.md); without any, requests are refused.
    Keys are made at the first start.
    Without --config it is a dry run: no real Mac is touched.
    """
    if dry_run + (simulate is not None) + (config is not None) > 1:
        fail("--dry-run acts on no Mac, --simulate on simulated, --config on real ones: choose one")
    from pydantic import ValidationError

    from agents.config.commands import read_config
    from agents.config.servers import ServerConfigError
    from agents.journal import JournalError
    from pipeline.config import ServerSettings
    from pipeline.embedded.log import StoreError
    from pipeline.embedded.server import ServicePlan, serve
    from pipeline.policy.file import PolicyError
    from runtime.listening import Listen
    from runtime.logs import make_log
    from runtime.sqlite import OpenError
    from runtime.trusted_keys import KeysError

    try:
        plan = ServicePlan(
            data_dir,
            Listen.parse(listen),
            _policy_text(policy, simulated=simulate is not None),
            None if simulate is None else _simulated(data_dir, simulate),
            None if config is None else read_config(config).config,
            _feeds(sofa, gdmf, kev),
            fast_paths=fast_paths_wanted(),
            insecure_loopback=insecure_loopback,
            senders=senders,
        )
        serve(plan, ServerSettings(), make_log())
    except PolicyError as error:
        fail(f"{policy or 'the policy'}: {error}")
    except ValidationError as error:
        _fail_settings(error)
    except (StoreError, JournalError, KeysError, OpenError, ServerConfigError, ValueError) as error:
        fail(str(error))


def _policy_text(policy: Path | None, *, simulated: bool) -> str | None:
    """Return the text of the policy file; without a file, the demo's policy for simulated Macs.

    None without both: the stored policy stays in force. Exit 2 if the file cannot be read.
    """
    if policy is not None:
        try:
            return policy.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"cannot read {policy}: {error}")
    if simulated:
        from pipeline.demo.scenario import policy_text

        return policy_text()
    return None


def _feeds(sofa: str | None, gdmf: str | None, kev: str | None) -> "FeedsSettings | None":
    """Return the settings of the feeds that are named; None if none is named.

    A feed that is not named is not polled: a first run makes no request to it. Raises pydantic's
    ValidationError for an invalid setting.
    """
    if not (sofa or gdmf or kev):
        return None
    from pipeline.config import FeedsSettings
    from pipeline.feeds.poller import NO_FEED

    return FeedsSettings(sofa=sofa or NO_FEED, gdmf=gdmf or NO_FEED, kev=kev or NO_FEED)


def _simulated(data_dir: Path, count: int) -> "Callable[[datetime], SimulatedMacs]":
    """Return the function that opens `count` simulated Macs of the data directory."""
    from pipeline.demo.scenario import releases
    from pipeline.embedded.simulation import SimulatedMacs

    sites = ("london", "tokyo", "new-york")
    return lambda now: SimulatedMacs.open(data_dir, count, sites, releases(), now)


def _fail_settings(error: "ValidationError") -> NoReturn:
    first = error.errors(include_url=False, include_input=False)[0]
    name = "_".join(str(part) for part in first["loc"]).upper()
    fail(f"DRYDOCK_{name}: {first['msg']}")
