"""The partition of a key, which must equal that of Kafka's own clients."""

import pytest

from schemas.topics import partition_of


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        ("21", -973932308),
        ("abc", 479470107),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ],
)
def test_keys_are_hashed_like_kafkas_java_client(key: str, murmur2: int) -> None:
    """The numbers are from UtilsTest.testMurmur2 in org.apache.kafka.common.utils."""
    assert partition_of(key, 1 << 31) == murmur2 & 0x7FFFFFFF


@pytest.mark.parametrize("key", ["", "x", "é", "5A0C7D9E-0000-4000-8000-000000000000"])
def test_key_of_any_length_has_a_valid_partition(key: str) -> None:
    assert 0 <= partition_of(key, 8) < 8
    assert partition_of(key, 1) == 0
