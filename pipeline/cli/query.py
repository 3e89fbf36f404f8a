"""`drydock query`: serve the reading commands of a fleet on Kafka."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import fail

if TYPE_CHECKING:
    from pipeline.query.view import Trust

TrustedKeys = Annotated[
    Path,
    typer.Option(
        "--keys",
        envvar="DRYDOCK_KEYS_DIR",
        help="The key directory (`drydock keys`), of which only the trusted public keys are read.",
    ),
]


def query(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Directory for the view; for this program alone.")
    ],
    keys: TrustedKeys,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            "--bootstrap",
            metavar="HOST:PORT",
            help="Kafka brokers, separated by commas; default: DRYDOCK_KAFKA_BOOTSTRAP.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            envvar="DRYDOCK_QUERY_LISTEN",
            metavar="HOST:PORT",
            help="Serve here; port 0: a free one.",
        ),
    ] = "127.0.0.1:9474",
    keep_days: Annotated[
        float, typer.Option(envvar="DRYDOCK_QUERY_KEEP_DAYS", min=1, help="Days to keep the log.")
    ] = 30.0,
) -> None:
    """Serve the reading commands of a fleet on Kafka; they ask it with --server URL.

    It reads the topics into a view of its own, in no group, and writes nothing to Kafka. A restart
    continues from its directory; without the directory it reads the topics again. The admin token
    is DRYDOCK_ADMIN_TOKEN, or in the file admin.token of the directory, made at the first start.
    """
    from datetime import timedelta

    from pipeline.embedded.log import StoreError
    from pipeline.query.service import QueryPlan, serve
    from runtime.kafka import SettingsError, kafka_settings
    from runtime.listening import Listen
    from runtime.logs import make_log
    from runtime.trusted_keys import KeysError

    try:
        plan = QueryPlan(
            data_dir=data_dir,
            listen=Listen.parse(listen),
            connection=kafka_settings(bootstrap),
            trust=read_trust(keys),
            token=_token(data_dir),
            keep=timedelta(days=keep_days),
            fast_paths=fast_paths_wanted(),
        )
        serve(plan, make_log())
    except (KeysError, SettingsError, StoreError, ValueError) as error:
        fail(str(error))


def read_trust(keys: Path) -> "Trust":
    """Return the keys that verify records. Raises KeysError, ValueError for a stamp key."""
    from pipeline.config import StampSettings, read_stamps
    from pipeline.query.view import Trust
    from runtime.trusted_keys import KeyRing, KeysError

    ring = KeyRing.load(keys)
    if not ring.control:
        raise KeysError(f"no key in {keys / 'trust' / 'control'}: every policy would be refused")
    return Trust(ring, None if StampSettings().stamp_keys is None else read_stamps())


def _token(data_dir: Path) -> str:
    """Return the admin token; it is made if there is none. Raises ValueError."""
    import os
    import secrets

    from pipeline.cli.readings import TOKEN_VARIABLE
    from pipeline.embedded.server import ADMIN_TOKEN
    from pipeline.gateway.secret_file import read_or_make

    given = os.environ.get(TOKEN_VARIABLE)
    if given is not None:
        if len(given) < 16:
            raise ValueError(f"{TOKEN_VARIABLE} needs at least 16 characters")
        return given
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = read_or_make(data_dir / ADMIN_TOKEN, lambda: secrets.token_urlsafe(32).encode())
    except OSError as error:
        raise ValueError(f"cannot use {data_dir}: {error.strerror}") from error
    return made.decode("ascii").strip()
