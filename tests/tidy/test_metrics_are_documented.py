"""docs/metrics.md describes the metrics that the code has, no more and no less."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from pipeline.feeds.metrics import FeedsMetrics
from pipeline.metrics import Metrics

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", re.MULTILINE)


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric in the table."""
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in ROW.findall(DOCUMENT.read_text())
    }


def defined() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric in the code."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for define in (Metrics, FeedsMetrics):
        registry = CollectorRegistry()
        define(registry)
        for family in registry.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            one = (family.type, labels_of(family))
            assert found.setdefault(name, one) == one, f"{name} is two metrics"
    return found


def labels_of(family: Metric) -> frozenset[str]:
    """The labels of a family, without the buckets' own; series without labels have none."""
    return frozenset(label for sample in family.samples for label in sample.labels) - {"le"}


def test_every_metric_is_documented_as_it_is() -> None:
    said, is_so = documented(), defined()
    # Routes and status codes are known once they were asked for.
    requests = "drydock_http_request_duration_seconds"
    assert is_so.pop(requests)[0] == said.pop(requests)[0]
    assert said == is_so


def test_series_are_there_before_anything_happened() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.know_sites(["london"])
    value = registry.get_sample_value
    labels = {"severity": "exploited", "site": "london"}
    assert value("drydock_exposed_devices", labels) == 0
    assert value("drydock_decisions_total", {"action": "none", "reason": "compliant"}) == 0
    assert value("drydock_dead_letters_total", {"topic": "webhooks", "code": "bug"}) == 0


def test_a_site_that_is_no_longer_exposed_goes_to_zero() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.set_fleet({("london", "high"): 3, ("", "low"): 1}, {})
    labels = {"severity": "high", "site": "london"}
    assert registry.get_sample_value("drydock_exposed_devices", labels) == 3
    nowhere = {"severity": "low", "site": "none"}
    assert registry.get_sample_value("drydock_exposed_devices", nowhere) == 1
    metrics.set_fleet({}, {})
    assert registry.get_sample_value("drydock_exposed_devices", labels) == 0
    assert registry.get_sample_value("drydock_exposed_devices", nowhere) == 0
