"""A reinstalled Mac in one process: its activation is carried out, and the follow-up ends."""

from datetime import timedelta
from pathlib import Path

import pytest

from agents.simulated import Faults
from pipeline.decide.decision import decide
from schemas.decisions import Reason
from schemas.jobs import Action
from schemas.results import Outcome
from tests import embedded_world
from tests.embedded_world import Environment, at, live, open_service
from tests.factories.sites import START, a_spec

FOLLOW_UP = "activations: [munki]"


def test_activation_over_ssh_follows_the_reinstall_and_ends_the_follow_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = embedded_world.POLICY
    assert FOLLOW_UP in text
    over_ssh = "activations: [munki, office], over_ssh: [office]"
    monkeypatch.setattr(embedded_world, "POLICY", text.replace(FOLLOW_UP, over_ssh))
    # The simulated Mac never reports `office`.
    breaks = Faults(breaks_seal_at=START + timedelta(hours=1))
    environment = Environment.of(a_spec("MAC-1", activations=("munki",), faults=breaks))
    service = open_service(tmp_path, environment)
    live(service, environment, at(240))
    situation = service.reconciler.situation("MAC-1", environment.now)
    service.close()
    assert [(one.action, one.outcome) for one in situation.job_history] == [
        (Action.REINSTALL, Outcome.SUCCEEDED),
        (Action.ACTIVATE, Outcome.SUCCEEDED),
    ]
    assert decide(situation).reason is Reason.COMPLIANT
