"""The Faust application of a worker."""

from pathlib import Path
from typing import Any

import faust
import pytest

from pipeline.processors.app import SUBSCRIBED, make_app
from runtime.kafka import KafkaConnection
from runtime.listening import Listen

# No record is consumed in these tests.
NO_HANDLER: Any = None


def an_app(folder: Path, web: Listen | None = None) -> faust.App:
    return make_app(
        KafkaConnection(),
        NO_HANDLER,
        group="workers",
        standbys=1,
        session_timeout_s=30.0,
        web=web,
        folder=folder,
    )


@pytest.mark.parametrize("web", [None, Listen("127.0.0.1", 18080)], ids=["no pages", "pages"])
def test_app_reads_all_input_topics_with_and_without_pages(
    web: Listen | None, tmp_path: Path
) -> None:
    app = an_app(tmp_path, web)
    names = {name for topic in app.topics for name in topic.topics}
    assert names == {topic.name for topic in SUBSCRIBED}
    assert app.conf.web_enabled is (web is not None)


def test_app_creates_no_folder_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_dir, data_dir = tmp_path / "cwd", tmp_path / "data"
    working_dir.mkdir()
    data_dir.mkdir()
    monkeypatch.chdir(working_dir)
    an_app(data_dir)._create_directories()
    assert [*working_dir.iterdir()] == []
    assert (data_dir / "faust").is_dir()
