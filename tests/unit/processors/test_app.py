"""The Faust application as a worker makes it."""

from typing import Any

import pytest

from pipeline.processors.app import SUBSCRIBED, make_app
from pipeline.server_process import Listen
from schemas.connection import KafkaConnection

# Nothing is consumed here.
NOBODY: Any = None


@pytest.mark.parametrize("web", [None, Listen("127.0.0.1", 18080)], ids=["no pages", "pages"])
def test_reads_all_input_topics_with_and_without_pages(web: Listen | None) -> None:
    app = make_app(
        KafkaConnection(), NOBODY, group="workers", standbys=1, session_timeout_s=30.0, web=web
    )
    names = {name for topic in app.topics for name in topic.topics}
    assert names == {topic.name for topic in SUBSCRIBED}
    assert app.conf.web_enabled is (web is not None)
