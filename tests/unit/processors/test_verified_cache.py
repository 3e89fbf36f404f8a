"""The cache of verified job events: each is found once, by its bytes."""

from pipeline.processors.fast.verified_cache import VerifiedCache


def test_added_bytes_are_found_once() -> None:
    cache = VerifiedCache()
    cache.add(b"order")
    assert cache.pop(b"order")
    assert not cache.pop(b"order")


def test_other_bytes_are_not_found() -> None:
    cache = VerifiedCache()
    cache.add(b"order")
    assert not cache.pop(b"Order")


def test_the_oldest_are_dropped_first() -> None:
    cache = VerifiedCache(max_size=2)
    for raw in (b"1", b"2", b"3"):
        cache.add(raw)
    assert [cache.pop(raw) for raw in (b"1", b"2", b"3")] == [False, True, True]
