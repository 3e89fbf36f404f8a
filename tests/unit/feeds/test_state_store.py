"""The stored state of a feed: read, unreadable, and from before the first release."""

import pytest
import structlog

from pipeline.feeds.state_store import FeedStateStoreError, _state
from schemas.feeds import FeedState

SILENT = structlog.wrap_logger(structlog.ReturnLogger())


def test_state_is_read_as_it_was_written() -> None:
    state = FeedState(source="kev", listed=3, document_sha256="ab")
    assert _state("kev", state.model_dump_json().encode(), SILENT) == state


def test_unreadable_state_starts_from_an_empty_one() -> None:
    assert _state("kev", b"no JSON", SILENT) == FeedState(source="kev")


@pytest.mark.parametrize("field", ["said_at", "set_aside", "supplements"])
def test_state_from_before_the_first_release_is_refused(field: str) -> None:
    with pytest.raises(FeedStateStoreError, match=r"written before release 0.1.0"):
        _state("kev", f'{{"source": "kev", "{field}": null}}'.encode(), SILENT)
