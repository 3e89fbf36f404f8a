"""Close of a producer while its records are under way."""

import threading

from kafka.errors import KafkaTimeoutError  # type: ignore[import-untyped]

from agents.producers import close_in_background

WAIT_LIMIT_S = 10.0


class StuckProducer:
    """A producer whose `close` takes time and then raises."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked_s = 0.0
        self.thread: threading.Thread | None = None

    def close(self, timeout: float) -> None:
        self.thread = threading.current_thread()
        self.asked_s = timeout
        assert self.may_end.wait(WAIT_LIMIT_S)
        raise KafkaTimeoutError("records are under way")


def test_close_in_background_returns_before_the_producer_is_closed() -> None:
    producer = StuckProducer()
    close_in_background(producer)  # returns while `close` is still running
    producer.may_end.set()
    while producer.thread is None:
        threading.Event().wait(0.01)
    producer.thread.join(WAIT_LIMIT_S)
    assert not producer.thread.is_alive()
    # With a timeout of 0 kafka-python raises before it stops its thread.
    assert producer.asked_s > 0
