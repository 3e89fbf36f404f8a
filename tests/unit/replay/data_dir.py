"""A log of the driver, written as the data directory that commands read."""

from pathlib import Path

from pipeline.embedded.names import event_names, record_names
from pipeline.embedded.store import Store
from pipeline.replay.log import read_record
from schemas.envelope import decode
from tests.unit.replay.driver import MemoryLog


def write(log: MemoryLog, folder: Path) -> None:
    """Write the log as a data directory."""
    store = Store.open(folder)
    with store.transaction("test"):
        for row in log.rows:
            if row.kind == "event":
                store.append_event(
                    row.at,
                    source=row.source,
                    identity=row.id,
                    kind=row.type,
                    key=row.key,
                    body=row.body,
                    names=event_names(decode(row.body)),
                )
            else:
                store.append_decision(row.at, row.key, row.body, record_names(read_record(row)))
        for digest, body in log.blobs.items():
            store.put_blob(digest, "content", body)
        store.put_devices(log.kept_devices.items())
        store.put_job_histories(log.kept_job_histories.items())
    store.close()
