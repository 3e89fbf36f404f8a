"""The records of a fleet's topics as a log, read into a temporary directory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.log_options import open_log, progress
from pipeline.cli.output import fail

if TYPE_CHECKING:
    from pipeline.embedded.log import Log


@contextmanager
def open_topics(bootstrap: str | None, keys: Path) -> "Iterator[Log]":
    """Yield the log of all records that the topics have now.

    Exit 2 if Kafka, the keys or the temporary directory cannot be used.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="drydock-replay-") as folder:
        _read(bootstrap, keys, Path(folder))
        with open_log(Path(folder)) as log:
            yield log


def _read(bootstrap: str | None, keys: Path, folder: Path) -> None:
    from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

    from pipeline.cli.query import read_trust
    from pipeline.embedded.log import StoreError
    from pipeline.query.topic_reader import TopicsError, read_to_end
    from pipeline.query.view import View
    from runtime.kafka import SettingsError, kafka_settings
    from runtime.logs import silence_kafka_clients
    from runtime.trusted_keys import KeysError

    silence_kafka_clients()
    try:
        connection = kafka_settings(bootstrap)
        view = View.open(folder, read_trust(keys), fast_paths=fast_paths_wanted())
        try:
            with progress("reading the topics", None) as show:
                asyncio.run(read_to_end(connection, view, lambda done, _: show(done)))
        finally:
            view.close()
    except (KeysError, SettingsError, StoreError, TopicsError, ValueError, OSError) as error:
        fail(str(error))
    except KafkaError as error:
        fail(f"cannot read Kafka at {connection.bootstrap}: {error}")
