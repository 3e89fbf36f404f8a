"""`drydock restore`: a back-up becomes a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import DataDir


def restore(
    source: Annotated[Path, typer.Argument(help="The folder or archive of `drydock backup`.")],
    data_dir: DataDir,
) -> None:
    """Put a back-up into an empty folder, after all its files are checked.

    The next start of the service knows that its database is older than the Macs: it checks each Mac
    before an order and withdraws approvals. Exit 2 if the folder is not empty or the back-up is not
    whole; then nothing is restored.
    """
    from pipeline.cli.log_options import format_time
    from pipeline.embedded.backup import BackupError, restore

    try:
        made = restore(source, data_dir)
    except BackupError as error:
        fail(str(error))
    emit(f"{data_dir}: {made.last_seq} log entries of {format_time(made.made_at)}")
    for purpose, keyid in sorted(made.signing_keys.items()):
        emit(
            f"{purpose} were signed with the key {keyid}: copy its files to {data_dir / 'keys'}, or"
            " the next start makes a new key"
        )
    emit(f"check the log with `drydock replay --verify --data-dir {data_dir}`")
