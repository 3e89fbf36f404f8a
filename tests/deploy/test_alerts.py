"""The rules for Prometheus: promtool accepts them, each alert fires when it must, and only then."""

import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from tests.deploy.alert_cases import CASES, Case
from tests.deploy.chart import CHART, ROOT, Helm, load, of_kind

RULES: Final = CHART / "files" / "rules"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"
_METRIC_ROW: Final = re.compile(r"^\| `(drydock_\w+)` \| (\w+) \|", re.MULTILINE)
_METRIC: Final = re.compile(r"\bdrydock_\w+")
_RECORDED: Final = re.compile(r"\b(?:\w+:)?drydock_\w+:\w+")


def rules(name: str) -> list[dict[str, Any]]:
    (document,) = load((RULES / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS: Final = {rule["alert"]: rule for rule in rules("alerts.yaml")}
RECORDED: Final = {rule["record"] for rule in rules("recording.yaml")}


def exported() -> set[str]:
    """Return the names of all series, from the table of the metrics."""
    names = set()
    for name, kind in _METRIC_ROW.findall((ROOT / "docs" / "reference" / "metrics.md").read_text()):
        endings = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        names |= {name + ending for ending in endings}
    return names


def unknown_metrics(text: str) -> set[str]:
    """Return the names in a text that begin with `drydock_` and are no series and no record."""
    named = set(_RECORDED.findall(text)) - RECORDED
    return named | set(_METRIC.findall(_RECORDED.sub("", text))) - exported()


@pytest.fixture
def promtool() -> str:
    """The program promtool; if it is missing, the test is skipped, and fails in CI."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing: install Debian's package prometheus")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(document: object) -> str:
    text = StringIO()
    YAML(typ="safe").dump(document, text)
    return text.getvalue()


def unit_test(alert: str, name: str, case: Case) -> dict[str, Any]:
    """Return a test of promtool: the alert fires with these labels at this minute."""
    state = {"alertname": alert, "alertstate": "firing", "severity": severity(alert)}
    samples = [
        {"labels": f"ALERTS{{{', '.join(_matchers(state | one))}}}", "value": 1}
        for one in case.firing
    ]
    query = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    return {
        "interval": f"{case.step_minutes}m",
        "name": name,
        "input_series": [{"series": one, "values": is_} for one, is_ in case.series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{case.minute}m", "exp_samples": samples}
        ],
    }


def _matchers(labels: dict[str, str]) -> list[str]:
    return [f'{name}="{value}"' for name, value in labels.items()]


def severity(alert: str) -> str:
    found: str = ALERTS[alert]["labels"]["severity"]
    return found


def test_promtool_accepts_every_rule(promtool: str) -> None:
    output = run(promtool, "check", "rules", *map(str, sorted(RULES.glob("*.yaml"))))
    assert output.count("SUCCESS") == 2


@pytest.mark.parametrize("alert", CASES)
def test_alert_fires_when_it_must_and_only_then(promtool: str, alert: str, tmp_path: Path) -> None:
    cases = CASES[alert]
    assert {bool(case.firing) for case in cases.values()} == {True, False}
    (rule_file, test_file) = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    rule_file.write_text(written({"groups": [{"name": alert, "rules": [ALERTS[alert]]}]}))
    for step_minutes in {case.step_minutes for case in cases.values()}:
        tests = [
            unit_test(alert, name, case)
            for name, case in cases.items()
            if case.step_minutes == step_minutes
        ]
        test_file.write_text(
            written(
                {
                    "rule_files": [str(rule_file)],
                    "evaluation_interval": f"{step_minutes}m",
                    "tests": tests,
                }
            )
        )
        run(promtool, "test", "rules", str(test_file))


def test_recorded_failures_are_those_that_raise_the_alert(promtool: str, tmp_path: Path) -> None:
    name = "site_error_code:drydock_job_failures:increase6h"
    (rule,) = [one for one in rules("recording.yaml") if one["record"] == name]
    (rule_file, test_file) = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    rule_file.write_text(written({"groups": [{"name": "recorded", "rules": [rule]}]}))
    series = 'drydock_job_failures_total{site="london",error_code="%s"}'
    failing = [
        {"series": series % code, "values": "0+1x400"}
        for code in ("low_power", "halted", "superseded")
    ]
    recorded = {"labels": f'{name}{{site="london",error_code="low_power"}}', "value": 360}
    query = {"expr": name, "eval_time": "390m", "exp_samples": [recorded]}
    unit = {"interval": "1m", "input_series": failing, "promql_expr_test": [query]}
    test_file.write_text(written({"rule_files": [str(rule_file)], "tests": [unit]}))
    run(promtool, "test", "rules", str(test_file))


def test_every_alert_has_cases() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_severity_summary_and_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert severity(alert) in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{alert}.md"
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert re.findall("^## .*", page, re.MULTILINE) == ["## Look", "## Act"]


def test_every_runbook_has_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == ALERTS.keys()
    index = (RUNBOOKS / "README.md").read_text()
    assert set(re.findall(r"\((\w+)\.md\)", index)) == pages


@pytest.mark.parametrize("path", [*RULES.glob("*.yaml"), *RUNBOOKS.glob("*.md")], ids=str)
def test_rules_and_runbooks_name_metrics_that_exist(path: Path) -> None:
    assert unknown_metrics(path.read_text()) == set()


def test_unknown_metric_is_found() -> None:
    text = "sum(drydock_device) + site:drydock_overdue_devices:sum + site:drydock_x:sum"
    assert unknown_metrics(text) == {"drydock_device", "site:drydock_x:sum"}


def test_chart_has_every_rule_with_its_runbook(helm: Helm) -> None:
    over = {"metrics": {"rules": {"enabled": True, "runbooks": "https://wiki.example.com/r/"}}}
    objects = [one for one in load(helm.text("production", over)) if one is not None]
    (rule,) = of_kind(objects, "PrometheusRule")
    rendered = [one for group in rule["spec"]["groups"] for one in group["rules"]]
    assert len(rendered) == len(ALERTS) + len(RECORDED)
    for one in rendered:
        if "alert" in one:
            url = f"https://wiki.example.com/r/{one['alert']}.md"
            assert one["annotations"]["runbook_url"] == url
            assert one["annotations"]["summary"] == ALERTS[one["alert"]]["annotations"]["summary"]
            assert one["expr"] == ALERTS[one["alert"]]["expr"]
