"""The page docs/reference/metrics.md, made from the metric classes of all programs."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from agents.installers.metrics import InstallerMetrics
from agents.mdm.metrics import MdmMetrics
from agents.metrics import AgentMetrics
from pipeline.feeds.metrics import FeedPollMetrics, FeedsMetrics
from pipeline.fleet_counts import FleetCounts
from pipeline.gateway.metrics import GatewayMetrics, InputMetrics
from pipeline.gateway.spool import Spool
from pipeline.metrics import Metrics
from pipeline.query.metrics import QueryMetrics
from runtime.metrics import RequestMetrics, make_registry

_HEAD: Final = """\
# Metrics

`GET /metrics` returns Prometheus text or OpenMetrics, by the request's `Accept` header. It needs no
token: no label names a Mac or a person. Units are in the names; counters end in `_total`. Label
values are closed sets, and every series exists as zero from the first scrape; only site names come
from the policy. `none` is the site of a Mac without a site, the action of a decision without one,
and the action of a result for an unknown job. Each program also exports the metrics of its Python
process (`process_`, `python_`).

A request whose `Host` is a public domain name gets 403, so that no web page reads the metrics
through a browser whose DNS it controls. Addresses, names without a dot, the name of the computer,
and `.svc`, `.local` and `.internal` are permitted; `DRYDOCK_METRICS_HOSTS` has further names,
separated by commas.

Recording rules and alerts are in `deploy/helm/drydock/files/rules/`, as files of Prometheus; the
chart creates them with `metrics.rules.enabled`. Each alert has a [runbook](../runbooks/README.md).
Dashboards for Grafana are in `deploy/helm/drydock/files/dashboards/`, made by
`tools/dashboards.py`; the chart creates them with `metrics.dashboards.enabled`.
"""
_TAIL: Final = """
In `topic`, HTTP input in another program's format counts as `webhooks` or `feeds`, a rejected event
of `/v1/events` as `events`, a job that an executor cannot use as `drydock.jobs`, and an unreadable
record of its journal as `drydock.attempts`.

An agent has `drydock_records_lost_total` and `drydock_moved_offsets_total` too: for the job topic
of its site as `drydock.jobs`, and for lost records of `drydock.control.v1`.
"""
_LINKS: Final = {
    "drydock_jobs_offered_again_total": (
        "[jobs that no agent accepts](../operations.md#jobs-that-no-agent-accepts)"
    ),
    "drydock_job_failures_total": "[codes](codes.md#error-codes)",
    "drydock_decided_devices": "[codes](codes.md)",
    "drydock_device_findings": "[findings](findings.md)",
    "drydock_feed_findings": "[findings of feeds](findings.md#feeds)",
    "drydock_records_lost_total": "[lost records](../operations.md#lost-records)",
    "drydock_gateway_spool_lost_records_total": "[damaged files](../operations.md#damaged-files)",
    "drydock_agent_doubted_jobs": "[lost journals](../operations.md#lost-journals)",
    "drydock_damaged_files_total": "[damaged files](../operations.md#damaged-files)",
}


class Described(NamedTuple):
    """A metric: its name in queries, its type, its labels in order and its help text."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class _Section(NamedTuple):
    heading: str
    text: str
    classes: tuple[type, ...]


# A metric is in the section of the first class that has it, except those of several programs.
_SECTIONS: Final = (
    _Section(
        "`drydock run` and `drydock worker`",
        "`drydock_lag_records`, `drydock_partitions`, `drydock_recovering_records` and the\n"
        "counters of lost records and moved offsets stay zero in `drydock run`.",
        (Metrics,),
    ),
    _Section("`drydock gateway`", "", (InputMetrics, GatewayMetrics)),
    _Section(
        "Feeds",
        "`drydock feeds` exports all of them, `drydock run` those of polls if it polls feeds.",
        (FeedPollMetrics, FeedsMetrics),
    ),
    _Section("`drydock query`", "", (QueryMetrics,)),
    _Section("`drydock agent`", "", (AgentMetrics,)),
    _Section("Macs at MDM servers", "By `drydock run` and `drydock agent`.", (MdmMetrics,)),
    _Section(
        "Installers",
        "By `drydock run` and `drydock agent`, for the sites whose configuration has `installers`\n"
        "([installers](../how-to/installers.md)).",
        (InstallerMetrics,),
    ),
)
_PROGRAMS: Final = (Metrics, GatewayMetrics, FeedsMetrics, QueryMetrics, AgentMetrics)
SHARED: Final = "Shared by several programs"


def metrics_page() -> str:
    """Return the text of docs/reference/metrics.md."""
    with _registries() as registry_of:
        by_class = {
            one: metrics_of(registry_of(one)) for section in _SECTIONS for one in section.classes
        }
        shared = {one.name: one for one in metrics_of(make_registry())}
        shared |= {one.name: one for one in metrics_of(registry_of(RequestMetrics))}
    counts = [one for program in _PROGRAMS for one in by_class[program]]
    for one in counts:
        if sum(other.name == one.name for other in counts) > 1:
            shared[one.name] = one
    parts, done = [_HEAD], set(shared)
    for section in _SECTIONS:
        rows = []
        for define in section.classes:
            rows += [one for one in by_class[define] if one.name not in done]
            done |= {one.name for one in rows}
        parts.append(_section(section.heading, section.text, rows))
    parts.insert(-1, _section(SHARED, "", list(shared.values())))
    return "".join((*parts, _TAIL))


def metrics_of(registry: CollectorRegistry) -> list[Described]:
    """Return the metrics of Drydock in a registry, in the order of their definition."""
    return [
        Described(
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            _labels_of(family),
            family.documentation,
        )
        for family in registry.collect()
        if family.name.startswith("drydock_")
    ]


def registry_with(define: type, spool: Spool) -> CollectorRegistry:
    """Return a registry with all metrics of a class, each with at least one series."""
    if not inspect.signature(define).parameters:
        registry = define().registry
        assert isinstance(registry, CollectorRegistry)
        return registry
    registry = CollectorRegistry()
    metrics = define(registry)
    if isinstance(metrics, Metrics):  # two gauges without a series before there is a value
        metrics.set_fleet(FleetCounts(exploited_cves={"CVE-2026-10001": 1}))
        metrics.set_control({}, {}, "digest")
    if isinstance(metrics, RequestMetrics):
        metrics.add_route("/healthz")
    if isinstance(metrics, GatewayMetrics):
        metrics.expose_spool(spool)
    return registry


@contextmanager
def _registries() -> "Iterator[Callable[[type], CollectorRegistry]]":
    with TemporaryDirectory() as folder:
        spool = Spool(Path(folder), max_bytes=1)
        try:
            yield lambda define: registry_with(define, spool)
        finally:
            spool.close()


def _labels_of(family: Metric) -> tuple[str, ...]:
    """Return the labels of a family, without the buckets' `le`."""
    names = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    return tuple(name for name in names if name != "le")


def _section(heading: str, text: str, rows: list[Described]) -> str:
    lines = ["", f"## {heading}", ""]
    lines += [text, ""] if text else []
    lines += ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for one in rows:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        more = f" See {_LINKS[one.name]}." if one.name in _LINKS else ""
        cells = (f"`{one.name}`", one.kind, labels, f"{one.text}{more}")
        lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
    return "\n".join(lines) + "\n"
