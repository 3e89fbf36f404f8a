"""`drydock status`: the withheld jobs of a dry run, and the findings."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded.service import Service
from pipeline.embedded.status import read_status, status_of
from tests import factories as make
from tests.embedded_world import POLICY, Environment, at, live, needy_macs, open_service
from tests.factories.sites import JOBS_KEY, KEYS, START, a_spec, osquery_report


def test_status_counts_the_macs_with_a_finding(tmp_path: Path) -> None:
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([osquery_report("MAC-1", os_version="26.1")], (), START)
    service.close()
    command = ["status", "--data-dir", str(tmp_path)]
    lines = [line.split() for line in CliRunner().invoke(app, command).stdout.splitlines()]
    assert ["mdm_unknown", "1"] in lines[lines.index(["Findings"]) :]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["findings"]["london"]["mdm_unknown"] == 1


def test_status_lists_the_disagreements_of_the_feeds(tmp_path: Path) -> None:
    known, offered = make.release("26.1"), make.release("26.2", source="gdmf", cves=())
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([known, make.release("26.1", source="gdmf", cves=()), offered], (), START)
    service.close()
    command = ["status", "--data-dir", str(tmp_path)]
    assert "sofa_lacks_release" in CliRunner().invoke(app, command).stdout
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["feed_findings"] == [
        {
            "code": "sofa_lacks_release",
            "advisory_id": "macOS-26.2",
            "detail": "Apple offers it: 25C56",
        }
    ]


def test_status_of_a_dry_run_has_the_withheld_jobs_beside_the_exposure(tmp_path: Path) -> None:
    environment = Environment.of(a_spec("MAC-1"), a_spec("MAC-2"))
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    live(service, environment, at(8))
    service.close()
    command = ["status", "--data-dir", str(tmp_path)]
    lines = [line.split() for line in CliRunner().invoke(app, command).stdout.splitlines()]
    assert ["london", "0", "2", "0", "0", "0", "0", "2", "0"] in lines
    assert lines[lines.index(["Dry", "run"]) + 2] == ["london", "update", "2"]
    found = json.loads(
        CliRunner().invoke(app, ["status", "--data-dir", str(tmp_path), "--json"]).stdout
    )
    assert found["dry_run"] == {"london": {"update": 2}}
    assert found["exposed"] == {"london": {"critical": 2}}


@pytest.mark.parametrize("is_dry_run", [False, True])
def test_counts_that_the_service_keeps_are_those_of_its_rows(
    tmp_path: Path, is_dry_run: bool
) -> None:
    environment = Environment.of(*needy_macs())
    service = (
        Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
        if is_dry_run
        else open_service(tmp_path, environment)
    )
    seen: set[str] = set()
    for hours in range(0, 60, 3):
        live(service, environment, at(hours))
        for now in (at(hours), at(hours + 2000)):
            found = status_of(service.store, service.reconciler, now)
            assert found == read_status(service.store, now)
            seen.update(name for name in ("dry_run", "open_jobs") if getattr(found, name))
            seen.update(["overdue"] if found.overdue else [])
    service.close()
    assert seen >= {"dry_run" if is_dry_run else "open_jobs", "overdue"}
