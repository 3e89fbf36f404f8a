"""Letting go of a producer whose records are still under way."""

import threading

from kafka.errors import KafkaTimeoutError  # type: ignore[import-untyped]

from agents.producers import close_in_background

WAIT_LIMIT_S = 10.0


class StuckProducer:
    """A producer that needs time to close, and raises in the end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked_s = 0.0
        self.thread: threading.Thread | None = None

    def close(self, timeout: float) -> None:
        self.thread = threading.current_thread()
        self.asked_s = timeout
        assert self.may_end.wait(WAIT_LIMIT_S)
        raise KafkaTimeoutError("records are under way")


def test_closing_in_the_background_does_not_wait() -> None:
    producer = StuckProducer()
    close_in_background(producer)  # returns, although `close` does not yet
    producer.may_end.set()
    while producer.thread is None:
        threading.Event().wait(0.01)
    producer.thread.join(WAIT_LIMIT_S)
    assert not producer.thread.is_alive()
    # With none at all kafka-python raises before it has stopped anything.
    assert producer.asked_s > 0
