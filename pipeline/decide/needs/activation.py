"""The needs to carry out the activations of a Mac after its reinstall."""

from collections.abc import Iterator

from pipeline.decide.needs.need import Need
from pipeline.decide.needs.reinstall_history import (
    activations_missing,
    is_enrolled_after,
    last_reinstall,
)
from pipeline.decide.situation import Situation
from schemas.activations import activation_intent
from schemas.decisions import Reason
from schemas.jobs import Action


def needs_activations(s: Situation) -> Iterator[Need]:
    """Yield the need of each missing activation that the site carries out over SSH.

    Nothing for an erased Mac before it has enrolled again: Setup Assistant is still open. They wait
    for no window, as an activation restarts nothing.
    """
    last = last_reinstall(s)
    if last is None or not is_enrolled_after(s, last):
        return
    over_ssh = s.policy.follow_up.over_ssh
    for name in activations_missing(s):
        if name in over_ssh:
            intent = activation_intent(name, last.issued_us)
            yield Need(Action.ACTIVATE, Reason.ACTIVATION_MISSING, intent, timed=False)
