"""docs/reference/metrics.md is made from the metrics of the code, and from all of them."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pipeline.fleet_counts import FleetCounts
from pipeline.gateway.spool import Spool
from pipeline.metrics import Metrics
from schemas.findings import FeedFindingCode
from tests.tidy import checks
from tools.metrics_page import Described, metrics_of, metrics_page, registry_with

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = frozenset({"Counter", "Enum", "Gauge", "Histogram", "Info", "Summary"})


def metric_classes() -> dict[str, type]:
    """Return every class of the modules named `metrics` that others may use, by its full name."""
    found: dict[str, type] = {}
    for name, _ in checks.modules(ROOT):
        if name.rpartition(".")[2] == "metrics":
            for each in vars(importlib.import_module(name)).values():
                own = inspect.isclass(each) and each.__module__ == name
                if own and not each.__name__.startswith("_"):
                    found[f"{name}.{each.__name__}"] = each
    return found


def made_elsewhere(path: Path) -> Iterator[str]:
    """Yield the names of Prometheus' metric types that a module imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client":
            yield from (alias.name for alias in node.names if alias.name in PROMETHEUS)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool(tmp_path, max_bytes=1)) as opened:
        yield opened


def test_page_has_a_row_for_each_metric_of_the_code(spool: Spool) -> None:
    found: dict[str, Described] = {}
    for define in metric_classes().values():
        for one in metrics_of(registry_with(define, spool)):
            assert found.setdefault(one.name, one) == one, f"{one.name} is two metrics"
    rows = re.findall(r"^\| `(drydock_\w+)` \|", metrics_page(), re.MULTILINE)
    assert sorted(rows) == sorted({*found, "drydock_build_info"})


def test_comparison_includes_the_metrics_of_every_program() -> None:
    prefixes = {name.rpartition(".metrics.")[0] for name in metric_classes()}
    assert prefixes == {
        "agents",
        "agents.installers",
        "agents.mdm",
        "pipeline",
        "pipeline.feeds",
        "pipeline.gateway",
        "pipeline.query",
        "runtime",
    }


def test_metrics_are_made_in_modules_named_metrics_only() -> None:
    found = {name: list(made_elsewhere(path)) for name, path in checks.modules(ROOT)}
    assert [
        name for name, made in found.items() if made and name.rpartition(".")[2] != "metrics"
    ] == []


def test_meaning_of_each_metric_is_a_sentence(spool: Spool) -> None:
    for define in metric_classes().values():
        for one in metrics_of(registry_with(define, spool)):
            assert re.fullmatch(r"[A-Z01`][^|\n]+[.]", one.text), one


def test_series_are_zero_before_the_first_event() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.add_sites(["london"])
    value = registry.get_sample_value
    labels = {"severity": "exploited", "site": "london"}
    assert value("drydock_exposed_devices", labels) == 0
    assert value("drydock_decisions_total", {"action": "none", "reason": "compliant"}) == 0
    assert value("drydock_dead_letters_total", {"topic": "webhooks", "code": "bug"}) == 0


def test_series_of_a_site_without_exposed_devices_is_zero() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.set_fleet(FleetCounts(exposed={("london", "high"): 3, ("", "low"): 1}))
    labels = {"severity": "high", "site": "london"}
    assert registry.get_sample_value("drydock_exposed_devices", labels) == 3
    siteless = {"severity": "low", "site": "none"}
    assert registry.get_sample_value("drydock_exposed_devices", siteless) == 1
    metrics.set_fleet(FleetCounts(findings={("london", "runs_beta"): 2}))
    beta = {"code": "runs_beta", "site": "london"}
    assert registry.get_sample_value("drydock_device_findings", beta) == 2
    metrics.set_fleet(FleetCounts())
    assert registry.get_sample_value("drydock_device_findings", beta) == 0
    metrics.set_feed_findings([FeedFindingCode.BUILDS_DIFFER])
    builds = {"code": "builds_differ"}
    assert registry.get_sample_value("drydock_feed_findings", builds) == 1
    metrics.set_feed_findings(())
    assert registry.get_sample_value("drydock_feed_findings", builds) == 0
    metrics.set_fleet(FleetCounts())
    assert registry.get_sample_value("drydock_exposed_devices", labels) == 0
    assert registry.get_sample_value("drydock_exposed_devices", siteless) == 0
