"""Write the dashboards of the chart, `deploy/helm/drydock/files/dashboards/*.json`.

usage: PYTHONPATH=. python tools/dashboards.py (from the root of the project)

Each query is of metrics that `drydock run` and a fleet on Kafka both have; a test runs each against
a Prometheus that scrapes a running service.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FOLDER: Final = (
    Path(__file__).resolve().parents[1] / "deploy" / "helm" / "drydock" / "files" / "dashboards"
)
_PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH: Final = 24
_BOTTOM: Final = LegendPlacement.BOTTOM
_LIST: Final = LegendDisplayMode.LIST


class Graph(NamedTuple):
    """A panel of a dashboard: its title, a query, the legend of its lines, and its unit.

    With `is_number` it shows the newest value of each line, else all values over time.
    """

    title: str
    query: str
    legend: str = ""
    unit: str = "short"
    is_number: bool = False


class Page(NamedTuple):
    """A dashboard: its title, the panels, and whether one site is selected (`$site`)."""

    title: str
    graphs: Sequence[Graph]
    has_site: bool = False


_LATENCY: Final = "sum by (le) (rate(drydock_{}_latency_seconds_bucket[5m]))"

PAGES: Final[dict[str, Page]] = {
    "fleet-exposure": Page(
        "Drydock: fleet exposure",
        (
            Graph("Macs", "sum(drydock_devices)", is_number=True),
            Graph(
                "Macs with an exploited CVE",
                'sum(drydock_exposed_devices{severity="exploited"})',
                is_number=True,
            ),
            Graph("Macs past their deadline", "sum(drydock_overdue_devices)", is_number=True),
            Graph(
                "Exposed Macs by severity",
                "sum by (severity) (drydock_exposed_devices)",
                "{{severity}}",
            ),
            Graph(
                "Macs with an exploited CVE, by site",
                'sum by (site) (drydock_exposed_devices{severity="exploited"})',
                "{{site}}",
            ),
            Graph("Exposed Macs by age", "sum by (age) (drydock_exposure_age_devices)", "{{age}}"),
            Graph(
                "Exploited CVEs by Macs",
                "topk(20, sum by (cve) (drydock_exploited_cve_devices))",
                "{{cve}}",
            ),
            Graph(
                "Macs past their deadline, by site",
                "sum by (site) (drydock_overdue_devices)",
                "{{site}}",
            ),
        ),
    ),
    "held": Page(
        "Drydock: what is held and why",
        (
            Graph("Held Macs", 'sum(drydock_decided_devices{decision="hold"})', is_number=True),
            Graph(
                "Waiting for an approval",
                'sum(drydock_decided_devices{reason="awaiting_approval"})',
                is_number=True,
            ),
            Graph(
                "A person is needed",
                'sum(drydock_decided_devices{reason=~"retries_exhausted|needs_person"})',
                is_number=True,
            ),
            Graph(
                "Held Macs by reason",
                'sum by (reason) (drydock_decided_devices{decision="hold"}) > 0',
                "{{reason}}",
            ),
            Graph("Macs by verdict", "sum by (decision) (drydock_decided_devices)", "{{decision}}"),
            Graph(
                "Macs without a job, by reason",
                'topk(5, sum by (reason) (drydock_decided_devices{decision="nothing"}))',
                "{{reason}}",
            ),
            Graph("Findings by code", "sum by (code) (drydock_device_findings)", "{{code}}"),
            Graph(
                "Changed decisions by reason",
                "sum by (reason) (increase(drydock_decisions_total[15m]))",
                "{{reason}}",
            ),
        ),
    ),
    "jobs": Page(
        "Drydock: jobs",
        (
            Graph("Open jobs", "sum(drydock_jobs_open)", is_number=True),
            Graph(
                "Open for more than 3 days",
                'sum(drydock_open_job_age_jobs{age=~"7d|older"})',
                is_number=True,
            ),
            Graph("Open jobs by action", "sum by (action) (drydock_jobs_open)", "{{action}}"),
            Graph("Open jobs by age", "sum by (age) (drydock_open_job_age_jobs)", "{{age}}"),
            Graph(
                "Attempts by outcome",
                "sum by (outcome) (increase(drydock_job_attempts_total[1h]))",
                "{{outcome}}",
            ),
            Graph(
                "Starts by method",
                'sum by (method) (increase(drydock_job_attempts_total{outcome="started"}[1h]))',
                "{{method}}",
            ),
            Graph(
                "Failures by error code",
                "sum by (error_code) (increase(drydock_job_failures_total[1h]))",
                "{{error_code}}",
            ),
            Graph(
                "Time until success, 9 of 10 jobs",
                "histogram_quantile(0.9, sum by (le, action) "
                "(rate(drydock_job_duration_seconds_bucket[1h])))",
                "{{action}}",
                "s",
            ),
        ),
    ),
    "pipeline": Page(
        "Drydock: pipeline",
        (
            Graph("Ready programs", "sum(drydock_ready)", is_number=True),
            Graph(
                "Versions", "sum by (version) (drydock_build_info)", "{{version}}", is_number=True
            ),
            Graph(
                "Events",
                "sum by (topic, outcome) (rate(drydock_events_total[5m]))",
                "{{topic}} {{outcome}}",
                "ops",
            ),
            Graph(
                "Requests by source and outcome",
                "sum by (source, outcome) (rate(drydock_gateway_requests_total[5m]))",
                "{{source}} {{outcome}}",
                "ops",
            ),
            Graph(
                "Event to decision, 99 of 100",
                f"histogram_quantile(0.99, {_LATENCY.format('decision')})",
                unit="s",
            ),
            Graph(
                "Event to job, 99 of 100",
                f"histogram_quantile(0.99, {_LATENCY.format('job')})",
                unit="s",
            ),
            Graph("Waiting records", "sum by (topic) (drydock_lag_records)", "{{topic}}"),
            Graph("Partitions", "sum by (state) (drydock_partitions)", "{{state}}"),
            Graph(
                "Dead letters",
                "sum by (code) (increase(drydock_dead_letters_total[1h]))",
                "{{code}}",
            ),
            Graph(
                "HTTP responses by status",
                "sum by (status) (rate(drydock_http_requests_total[5m]))",
                "{{status}}",
                "ops",
            ),
            Graph(
                "Age of the newest good document",
                "time() - max by (source) (drydock_feed_last_good_timestamp_seconds > 0)",
                "{{source}}",
                "s",
            ),
            Graph(
                "Age of the document's own date",
                "time() - max by (source) (drydock_feed_document_timestamp_seconds > 0)",
                "{{source}}",
                "s",
            ),
        ),
    ),
    "site": Page(
        "Drydock: site",
        (
            Graph(
                "Macs by verdict",
                'sum by (decision) (drydock_decided_devices{site="$site"})',
                "{{decision}}",
            ),
            Graph(
                "Exposed Macs by severity",
                'sum by (severity) (drydock_exposed_devices{site="$site"})',
                "{{severity}}",
            ),
            Graph(
                "Held Macs by reason",
                'sum by (reason) (drydock_decided_devices{decision="hold", site="$site"}) > 0',
                "{{reason}}",
            ),
            Graph("Past their deadline", 'sum(drydock_overdue_devices{site="$site"})'),
            Graph(
                "Open jobs by action",
                'sum by (action) (drydock_jobs_open{site="$site"})',
                "{{action}}",
            ),
            Graph(
                "Attempts by outcome",
                'sum by (outcome) (increase(drydock_job_attempts_total{site="$site"}[1h]))',
                "{{outcome}}",
            ),
            Graph(
                "Failures by error code",
                'sum by (error_code) (increase(drydock_job_failures_total{site="$site"}[1h]))',
                "{{error_code}}",
            ),
            Graph(
                "Jobs sent again: no agent had accepted them",
                'sum(increase(drydock_jobs_offered_again_total{site="$site"}[1h]))',
            ),
        ),
        has_site=True,
    ),
    "safety": Page(
        "Drydock: safety",
        (
            Graph("Halts in force", "max by (scope) (drydock_halts)", "{{scope}}", is_number=True),
            Graph(
                "Policy in force",
                "count by (digest) (drydock_policy_info)",
                "{{digest}}",
                is_number=True,
            ),
            Graph(
                "Programs without a policy",
                "count(drydock_policy_in_force == 0) or vector(0)",
                is_number=True,
            ),
            Graph(
                "Jobs issued or withdrawn",
                'sum(increase(drydock_events_total{topic="drydock.orders.v1"}[1h]))',
            ),
            Graph(
                "Erasing jobs that wait for an approval",
                'sum by (site) (drydock_decided_devices{reason="awaiting_approval"})',
                "{{site}}",
            ),
            Graph("Bugs", 'sum(increase(drydock_dead_letters_total{code="bug"}[1h]))'),
            Graph("Lost records", "sum(increase(drydock_records_lost_total[1h]))"),
            Graph("Damaged files", "sum(increase(drydock_damaged_files_total[1d]))"),
            Graph("Full volumes", "max(drydock_volume_full)"),
            Graph("Clock skew", "max(abs(drydock_clock_skew_seconds))", unit="s"),
            Graph(
                "Disagreements of the feeds", "max by (code) (drydock_feed_findings)", "{{code}}"
            ),
            Graph(
                "Refused requests",
                "sum by (source) "
                '(increase(drydock_gateway_requests_total{outcome="unauthorized"}[1h]))',
                "{{source}}",
            ),
        ),
    ),
}


def dashboards() -> dict[str, str]:
    """Return the text of each dashboard by the name of its file."""
    return {f"{name}.json": _dashboard(name, page) for name, page in PAGES.items()}


def _dashboard(name: str, page: Page) -> str:
    board = (
        Dashboard(page.title)
        .uid(f"drydock-{name}")
        .tags(["drydock"])
        .refresh("1m")
        .time("now-24h", "now")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if page.has_site:
        board = board.with_variable(
            QueryVariable("site")
            .label("Site")
            .datasource(_PROMETHEUS)
            .query("label_values(drydock_overdue_devices, site)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    for graph in page.graphs:
        board = board.with_panel(_panel(graph))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _panel(graph: Graph) -> Stat | TimeSeries:
    query = Dataquery().ref_id("A").expr(graph.query).legend_format(graph.legend or graph.title)
    legend = VizLegendOptions().show_legend(show_legend=True).placement(_BOTTOM)
    panel = Stat() if graph.is_number else TimeSeries().legend(legend.display_mode(_LIST))
    return (
        panel.title(graph.title)
        .datasource(_PROMETHEUS)
        .unit(graph.unit)
        .span(_WIDTH // 3 if graph.is_number else _WIDTH // 2)
        .height(4 if graph.is_number else 8)
        .with_target(query)
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, text in dashboards().items():
        (FOLDER / file_name).write_text(text)
