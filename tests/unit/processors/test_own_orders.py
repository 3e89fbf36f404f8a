"""Events of jobs that a worker made itself are known by their bytes, once."""

from pipeline.processors.own_orders import OwnOrders


def test_bytes_are_known_once() -> None:
    own = OwnOrders()
    own.add(b"order")
    assert own.take(b"order")
    assert not own.take(b"order")


def test_other_bytes_are_not_known() -> None:
    own = OwnOrders()
    own.add(b"order")
    assert not own.take(b"Order")


def test_the_oldest_are_forgotten_first() -> None:
    own = OwnOrders(most=2)
    for raw in (b"1", b"2", b"3"):
        own.add(raw)
    assert [own.take(raw) for raw in (b"1", b"2", b"3")] == [False, True, True]
