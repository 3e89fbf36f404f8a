"""The log that `drydock run` writes verifies: also for events with a sender."""

from pathlib import Path

from pipeline.embedded.log import Log
from pipeline.embedded.service import Service
from pipeline.replay.verify import verify
from tests import factories
from tests.factories.sites import JOBS_KEY, KEYS


def test_log_with_events_of_two_senders_and_one_id_verifies(tmp_path: Path) -> None:
    one = factories.reported().model_copy(update={"sender": "events"})
    other = one.model_copy(update={"sender": "another"})
    service = Service.open(tmp_path, now=factories.NOW, signer=JOBS_KEY, trust=KEYS)
    for event in (one, other, one):
        service.accept((event,), (), factories.NOW)
    service.close()
    with Log.open(tmp_path) as log:
        assert [row.source for row in log.entries(kind="event")] == [
            f"{sender} {one.source}" for sender in ("events", "another")
        ]
        report = verify(log, state=log)
    assert (report.difference, report.events) == (None, 2)
