"""Each code has one sentence for people, and the pages of docs/reference are made from them."""

from collections.abc import Iterable, Mapping

import pytest

from pipeline.decide.gates import GATES
from schemas import sentences
from schemas.decisions import Reason
from schemas.findings import FeedFindingCode, FindingCode
from schemas.jobs import Method
from schemas.results import ErrorCode
from tools.reference_pages import FOLDER, pages

TABLES = [
    pytest.param(sentences.REASONS, Reason, id="reasons"),
    pytest.param(sentences.FINDINGS, FindingCode, id="findings"),
    pytest.param(sentences.FEED_FINDINGS, FeedFindingCode, id="findings of feeds"),
    pytest.param(sentences.METHODS, Method, id="methods"),
    pytest.param(sentences.ERRORS, ErrorCode, id="errors"),
    pytest.param(sentences.GATES, [*(row.name for row in GATES), "follow_up"], id="gates"),
]


@pytest.mark.parametrize(("table", "codes"), TABLES)
def test_each_code_has_one_sentence(table: Mapping[str, str], codes: Iterable[str]) -> None:
    assert list(table) == list(codes)
    for sentence in table.values():
        assert sentence[0].isupper() or sentence.startswith("`")
        assert sentence.endswith(".")
        assert len(sentence) <= 80


@pytest.mark.parametrize("name", pages())
def test_the_page_is_made_from_the_tables(name: str) -> None:
    """If it fails: PYTHONPATH=. python tools/reference_pages.py"""
    assert (FOLDER / name).read_text("utf-8") == pages()[name]
