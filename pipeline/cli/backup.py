"""`drydock backup`: a copy of a data directory, also while its service runs."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import emit, fail
from pipeline.cli.service_client import AsJson, DataDir, read_from_service

if TYPE_CHECKING:
    from pipeline.embedded.backup import FetchJournal


def backup(
    target: Annotated[
        Path, typer.Argument(help="A new folder, or an archive: NAME.tar, .tar.gz or .tgz.")
    ],
    data_dir: DataDir,
    as_json: AsJson = False,
) -> None:
    """Copy database, journals and public keys together; the service may be running.

    The private keys and the tokens of keys/ are not copied: keep them elsewhere. `drydock restore`
    puts the copy back. Exit 2 if the copy cannot be made; then there is none.
    """
    from agents.journal import JournalError
    from pipeline.embedded.backup import BackupError, back_up
    from pipeline.embedded.log import FILE, StoreError
    from runtime.trusted_keys import KeysError

    if not (data_dir / FILE).is_file():
        fail(f"no {FILE} in {data_dir}: is this a data directory of Drydock?")
    try:
        with _journal_source(data_dir) as fetch_journal:
            made = back_up(data_dir, target, datetime.now(UTC), fetch_journal)
    except (BackupError, StoreError, JournalError, KeysError) as error:
        fail(str(error))
    if as_json:
        emit(json.dumps({"target": str(target), "log": made.last_seq, "sites": made.sites}))
        return
    journals = f"{len(made.sites)} journals" if len(made.sites) != 1 else "1 journal"
    emit(f"{target}: {made.last_seq} log entries, {journals}, public keys; no private keys")


@contextmanager
def _journal_source(data_dir: Path) -> "Iterator[FetchJournal]":
    """Yield the function that copies journals: by the running service, else from the files.

    The data directory is locked as long as no service has it, so none starts meanwhile.
    """
    import base64

    from pipeline.embedded.backup import copy_closed_journal
    from pipeline.embedded.log import InUseError
    from pipeline.embedded.store import Store

    try:
        store = Store.open(data_dir)
    except InUseError:
        yield lambda site: base64.b64decode(
            read_from_service(data_dir, f"/v1/journals/{site}")["journal"]
        )
        return
    with closing(store):
        yield lambda site: copy_closed_journal(data_dir, site)
