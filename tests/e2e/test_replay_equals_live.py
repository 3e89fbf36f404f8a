"""Replay computes again what the embedded service logged, over stops and starts."""

from contextlib import closing
from pathlib import Path

from pipeline.embedded.log import Log
from pipeline.replay.counterfactual import counterfactual
from pipeline.replay.explain import explain
from pipeline.replay.verify import verify
from tests.embedded_world import POLICY, Environment, at, live, needy_macs, open_service


def test_log_of_a_restarted_service_verifies(tmp_path: Path) -> None:
    environment = Environment.of(*needy_macs())
    for hours in (30, 31, 200):  # stopped and started in between
        with closing(open_service(tmp_path, environment)) as service:
            live(service, environment, at(hours))
    with Log.open(tmp_path) as log:
        report = verify(log, state=log)
        assert report.difference is None
        assert report.jobs > len(needy_macs())
        assert counterfactual(log, POLICY).changes == ()
        for spec in needy_macs():
            found = explain(log, spec.udid)
            assert found is not None
            assert found.jobs
            assert found.record is not None
