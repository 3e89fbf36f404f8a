"""docs/metrics.md describes exactly the metrics of the code."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.spool import Spool
from pipeline.metrics import Metrics
from schemas.findings import FeedFindingCode
from tests.tidy import checks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(drydock_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", re.MULTILINE)
PROMETHEUS = frozenset({"Counter", "Enum", "Gauge", "Histogram", "Info", "Summary"})
# Its series exist after the first request only: routes and status codes are unknown before.
REQUESTS = "drydock_http_request_duration_seconds"

Described = dict[str, tuple[str, frozenset[str]]]


def documented(text: str) -> Described:
    """Return type and labels of each metric in the tables of a document."""
    rows = ROW.findall(text)
    found: Described = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
    }
    assert len(found) == len(rows), "a metric has two rows"
    return found


def metric_classes() -> dict[str, type]:
    """Return every class of the modules named `metrics`, by its full name."""
    found: dict[str, type] = {}
    for name, _ in checks.modules(ROOT):
        if name.rpartition(".")[2] == "metrics":
            for each in vars(importlib.import_module(name)).values():
                if inspect.isclass(each) and each.__module__ == name:
                    found[f"{name}.{each.__name__}"] = each
    return found


def registry_of(define: type, spool: Spool) -> CollectorRegistry:
    """Return a registry with all metrics of a class."""
    if not inspect.signature(define).parameters:
        registry = define().registry
        assert isinstance(registry, CollectorRegistry)
        return registry
    registry = CollectorRegistry()
    metrics = define(registry)
    if isinstance(metrics, GatewayMetrics):
        metrics.expose_spool(spool)
    return registry


def defined(spool: Spool) -> Described:
    """Return type and labels of each metric in the code."""
    found: Described = {}
    for define in metric_classes().values():
        for family in registry_of(define, spool).collect():
            if not family.name.startswith("drydock_"):
                continue  # a metric of prometheus_client about the process
            name = family.name + ("_total" if family.type == "counter" else "")
            one = (family.type, labels_of(family))
            assert found.setdefault(name, one) == one, f"{name} is two metrics"
    return found


def made_elsewhere(path: Path) -> Iterator[str]:
    """Yield the names of Prometheus' metric types that a module imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client":
            yield from (alias.name for alias in node.names if alias.name in PROMETHEUS)


def labels_of(family: Metric) -> frozenset[str]:
    """Return the labels of a family, without the buckets' `le`."""
    return frozenset(label for sample in family.samples for label in sample.labels) - {"le"}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool(tmp_path, max_bytes=1)) as opened:
        yield opened


def test_documented_metrics_are_those_of_the_code(spool: Spool) -> None:
    expected, actual = defined(spool), documented(DOCUMENT.read_text())
    assert expected.pop(REQUESTS)[0] == actual.pop(REQUESTS)[0]
    assert actual == expected


def test_comparison_includes_the_metrics_of_every_program() -> None:
    prefixes = {name.rpartition(".metrics.")[0] for name in metric_classes()}
    assert prefixes == {"agents", "agents.mdm", "pipeline", "pipeline.feeds", "pipeline.gateway"}


def test_metrics_are_made_in_modules_named_metrics_only() -> None:
    found = {name: list(made_elsewhere(path)) for name, path in checks.modules(ROOT)}
    assert [
        name for name, made in found.items() if made and name.rpartition(".")[2] != "metrics"
    ] == []


def test_row_is_read_with_its_type_and_labels() -> None:
    text = "| metric | type |\n| `drydock_a_total` | counter | `topic`, `by` | Text. |\n"
    assert documented(text) == {"drydock_a_total": ("counter", frozenset({"topic", "by"}))}


def test_document_begins_with_the_help_text_of_each_metric_of_the_worker() -> None:
    meanings = {name: meaning for name, _, _, meaning in ROW.findall(DOCUMENT.read_text())}
    registry = CollectorRegistry()
    Metrics(registry)
    helps = {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in registry.collect()
    }
    assert {
        name: text
        for name, text in helps.items()
        if not meanings[name].startswith(text.removesuffix("."))
    } == {}


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
    metrics.set_fleet({("london", "high"): 3, ("", "low"): 1}, {})
    labels = {"severity": "high", "site": "london"}
    assert registry.get_sample_value("drydock_exposed_devices", labels) == 3
    siteless = {"severity": "low", "site": "none"}
    assert registry.get_sample_value("drydock_exposed_devices", siteless) == 1
    metrics.set_findings({("london", "runs_beta"): 2})
    beta = {"code": "runs_beta", "site": "london"}
    assert registry.get_sample_value("drydock_device_findings", beta) == 2
    metrics.set_findings({})
    assert registry.get_sample_value("drydock_device_findings", beta) == 0
    metrics.set_feed_findings([FeedFindingCode.BUILDS_DIFFER])
    builds = {"code": "builds_differ"}
    assert registry.get_sample_value("drydock_feed_findings", builds) == 1
    metrics.set_feed_findings(())
    assert registry.get_sample_value("drydock_feed_findings", builds) == 0
    metrics.set_fleet({}, {})
    assert registry.get_sample_value("drydock_exposed_devices", labels) == 0
    assert registry.get_sample_value("drydock_exposed_devices", siteless) == 0
