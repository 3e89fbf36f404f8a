"""The dashboards of the chart: as the code makes them, and each query returns data of a service."""

import json
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.deploy.chart import CHART, ROOT, Helm, load, named
from tests.deploy.test_alerts import unknown_metrics
from tests.drydock_process import running
from tests.factories.sofa import feed, line, release
from tests.observe.monitoring import missing_programs, prometheus
from tests.waiting import wait_until
from tools.dashboards import dashboards

FOLDER: Final = CHART / "files" / "dashboards"
FILES: Final = sorted(FOLDER.glob("*.json"))
SITE: Final = "london"
CVE: Final = "CVE-2026-10001"
_WITHIN_S: Final = 90.0


def queries(file: Path) -> list[tuple[str, str]]:
    """Return title and query of each panel."""
    panels: list[dict[str, Any]] = json.loads(file.read_text())["panels"]
    return [(panel["title"], one["expr"]) for panel in panels for one in panel["targets"]]


def test_dashboards_are_those_of_the_code() -> None:
    committed = {file.name: file.read_text() for file in FILES}
    assert committed == dashboards(), "run `PYTHONPATH=. python tools/dashboards.py`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_panels_name_metrics_that_exist(file: Path) -> None:
    assert {title for title, query in queries(file) if unknown_metrics(query)} == set()


def test_chart_has_every_dashboard_unchanged(helm: Helm) -> None:
    found = named(load(helm.text("production")), "ConfigMap", "-dashboards")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["data"] == {file.name: file.read_text() for file in FILES}


@pytest.fixture
def _programs() -> None:
    """Skip the test if Prometheus is missing; in CI it fails."""
    lacking = missing_programs()
    if lacking is not None:
        pytest.skip(lacking)


def without_data(client: httpx.Client) -> set[tuple[str, str]]:
    """Return dashboard and title of each panel whose query has no result."""
    return {
        (file.stem, title)
        for file in FILES
        for title, query in queries(file)
        if not _result(client, query.replace("$site", SITE))
    }


def _result(client: httpx.Client, query: str) -> list[Any]:
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_programs")
def test_each_panel_has_data_of_a_running_service(tmp_path: Path) -> None:
    document = tmp_path / "sofa.json"
    document.write_bytes(feed(line("Tahoe 26", release("26.2", exploited=(CVE,)), release("26.1"))))
    options = ("--policy", str(ROOT / "examples" / "policy.yaml"), "--simulate", "30")
    with (
        running(tmp_path / "data", *options, "--sofa", str(document)) as service,
        prometheus(tmp_path / "prometheus", service.url.removeprefix("http://")) as client,
    ):
        wait_until(lambda: _is_scraped(client), _WITHIN_S, "the first scrape")
        wait_until(lambda: without_data(client) == set(), _WITHIN_S, "data for each panel")


def _is_scraped(client: httpx.Client) -> bool:
    try:
        return bool(_result(client, "sum(drydock_devices) > 0"))
    except httpx.TransportError:
        return False
