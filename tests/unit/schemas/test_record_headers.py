"""Records of events have CloudEvents' content type as their header, by topic."""

import pytest

from schemas.topics import (
    ATTEMPTS,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    FEEDS,
    INTERNAL_TOPICS,
    INVENTORY,
    QUERIES,
    STATE,
    TOPICS,
    headers_of,
    jobs_topic,
    queries_topic,
)

EVENT = [("content-type", b"application/cloudevents+json")]


@pytest.mark.parametrize(
    "name", [INVENTORY.name, CONTROL.name, DISPATCH.name, jobs_topic("london"), jobs_topic("a.v1")]
)
def test_record_of_an_event_has_its_content_type(name: str) -> None:
    assert headers_of(name) == EVENT


@pytest.mark.parametrize(
    "name",
    [
        *(one.name for one in (DECISIONS, DEAD_LETTERS, STATE, FEEDS, ATTEMPTS, QUERIES)),
        queries_topic("london"),
        "drydock.inventory.v2",
        "another",
    ],
)
def test_other_records_have_no_header(name: str) -> None:
    assert headers_of(name) == []


def test_a_topic_has_events_only_or_none() -> None:
    for topic in (*TOPICS, *INTERNAL_TOPICS):
        assert topic.headers == tuple(headers_of(topic.name.format(site="london")))
