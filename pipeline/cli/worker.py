"""`drydock worker`: decide for a part of the fleet, on Kafka."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import fail

if TYPE_CHECKING:
    from pipeline.processors.service import WorkerPlan


def worker(
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", help="Directory for a copy of the state; for this worker alone."
        ),
    ],
    keys: Annotated[
        Path,
        typer.Option(
            "--keys",
            envvar="DRYDOCK_KEYS_DIR",
            help="The key directory (`drydock keys`): the key that signs jobs, and trusted keys.",
        ),
    ],
    bootstrap: Annotated[
        str | None,
        typer.Option(
            "--bootstrap",
            metavar="HOST:PORT",
            help="Kafka brokers, separated by commas; default: DRYDOCK_KAFKA_BOOTSTRAP.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            envvar="DRYDOCK_WORKER_LISTEN",
            metavar="HOST:PORT",
            help="Serve /healthz, /readyz and /metrics here.",
        ),
    ] = None,
) -> None:
    """Decide for a part of the fleet, on Kafka.

    It folds events and publishes decisions and signed jobs, until SIGTERM. Start as many workers as
    needed: they share the partitions, and take over those of a worker that dies. The content of
    --data-dir is a cache: remove it when no worker uses it. More settings: DRYDOCK_WORKER_*.
    """
    import asyncio

    from prometheus_client import CollectorRegistry
    from pydantic import ValidationError

    from pipeline.metrics import Metrics
    from pipeline.processors.service import WorkerError, serve_until_signalled
    from runtime.kafka import SettingsError
    from runtime.logs import make_log
    from runtime.trusted_keys import KeysError

    try:
        plan = _plan(data_dir, keys, bootstrap, listen)
        registry = CollectorRegistry()
        with _locked(plan.data_dir):
            asyncio.run(serve_until_signalled(plan, Metrics(registry), make_log()))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        fail(f"DRYDOCK_WORKER_{name}: {first['msg']}")
    except (KeysError, SettingsError, WorkerError, ValueError) as error:
        fail(str(error))


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Lock the data directory during the `with` block. Exit 2 if it is in use or cannot be used."""
    from runtime.folder_lock import locked_folder
    from runtime.sqlite import InUseError

    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(data_dir))
        except InUseError:
            fail(f"another worker works in {data_dir}: give each worker its own --data-dir")
        except OSError as error:
            fail(f"cannot use {data_dir}: {error.strerror or error}")
        yield


def _plan(data_dir: Path, keys: Path, bootstrap: str | None, listen: str | None) -> "WorkerPlan":
    """Return the plan of the worker from options and environment.

    Raises KeysError for the key directory, SettingsError for the Kafka connection, ValidationError
    for another setting, and ValueError if `listen` is not HOST:PORT or no stamp key is set. Exit 2
    for an invalid DRYDOCK_FAST_PATHS.
    """
    from datetime import timedelta

    from pipeline.config import WorkerSettings, read_stamps
    from pipeline.processors.service import WorkerPlan
    from pipeline.signing_keys import WatchedSigningKeys
    from runtime.kafka import kafka_settings
    from runtime.listening import Listen
    from runtime.logs import make_log
    from runtime.trusted_keys import KeysError
    from schemas import logkeys

    settings, log = WorkerSettings(), make_log()
    watched = WatchedSigningKeys(
        keys,
        lambda problem: log.error("keys: correct the directory", **{logkeys.DETAIL: problem}),
    )
    own = watched.current()
    if not own.trust.control:
        raise KeysError(f"no key in {keys / 'trust' / 'control'}: every policy would be refused")
    return WorkerPlan(
        connection=kafka_settings(bootstrap),
        data_dir=data_dir,
        key=own.jobs,
        jobs=own.trust.jobs,
        approvals=own.trust.approvals,
        control=own.trust.control,
        keys=watched.current,
        group=settings.group,
        web=None if listen is None else Listen.parse(listen),
        standbys=settings.standbys,
        session_timeout_s=settings.session_timeout_s,
        stalled_after_s=settings.stalled_after_s,
        refresh=timedelta(minutes=settings.refresh_minutes),
        sweep_every=timedelta(hours=settings.sweep_hours),
        fast_paths=fast_paths_wanted(),
        stamps=read_stamps(),
    )
