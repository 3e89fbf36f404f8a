"""Keys of files in a site cache."""

import pytest

from agents.installers.cache_key import CacheKey, ImageKey, parse_key
from schemas.macos import parse_build


@pytest.mark.parametrize("key", [parse_build("25G72"), ImageKey("0123456789abcdef" * 4)], ids=str)
def test_key_is_read_from_its_text(key: CacheKey) -> None:
    assert parse_key(str(key)) == key


@pytest.mark.parametrize("text", ["", "image-", "image-25G72", "image-" + "G" * 64, "25G72/x"])
def test_other_text_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_key(text)
