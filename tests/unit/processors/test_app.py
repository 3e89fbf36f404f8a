"""The Faust application as a worker makes it."""

from pathlib import Path
from typing import Any

import faust
import pytest

from pipeline.processors.app import SUBSCRIBED, make_app
from pipeline.server_process import Listen
from schemas.connection import KafkaConnection

# Nothing is consumed here.
NOBODY: Any = None


def an_app(folder: Path, web: Listen | None = None) -> faust.App:
    return make_app(
        KafkaConnection(),
        NOBODY,
        group="workers",
        standbys=1,
        session_timeout_s=30.0,
        web=web,
        folder=folder,
    )


@pytest.mark.parametrize("web", [None, Listen("127.0.0.1", 18080)], ids=["no pages", "pages"])
def test_reads_all_input_topics_with_and_without_pages(web: Listen | None, tmp_path: Path) -> None:
    app = an_app(tmp_path, web)
    names = {name for topic in app.topics for name in topic.topics}
    assert names == {topic.name for topic in SUBSCRIBED}
    assert app.conf.web_enabled is (web is not None)


def test_leaves_the_folder_it_was_started_in_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_in, data_dir = tmp_path / "cwd", tmp_path / "data"
    started_in.mkdir()
    data_dir.mkdir()
    monkeypatch.chdir(started_in)
    an_app(data_dir)._create_directories()
    assert [*started_in.iterdir()] == []
    assert (data_dir / "faust").is_dir()
