"""A worker whose clock differs from the brokers' clock reports it. A real broker."""

from datetime import UTC, datetime, timedelta

import pytest

from tests import factories
from tests.kafka.broker_fixtures import empty_kafka, kafka, leaky_clients
from tests.kafka.workers import Workers, eventually, workers

__all__ = ["empty_kafka", "kafka", "leaky_clients", "workers"]
HOUR = timedelta(hours=1)
SKEW = "drydock_clock_skew_seconds"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.mark.parametrize("ahead", [2 * HOUR, -2 * HOUR], ids=["ahead", "behind"])
def test_clock_of_a_worker_differs(ahead: timedelta, workers: Workers) -> None:
    # The clock of the worker does not move: its difference decreases until the test sets it again.
    workers.set_clock(datetime.now(UTC) + ahead)
    worker = workers.start()
    workers.wait_caught_up()
    eventually(lambda: abs(worker.metric(SKEW) - ahead.total_seconds()) < 60, "measured")
    assert abs(worker.health()["clock_skew_s"] - ahead.total_seconds()) < 60
    assert "clock differs from the brokers' clock" in worker.log.read_text()
    workers.set_clock(datetime.now(UTC))
    workers.send([factories.policy_changed(), *factories.enrolled("MAC-1")])
    eventually(lambda: abs(worker.metric(SKEW)) < 60, "measured again")
