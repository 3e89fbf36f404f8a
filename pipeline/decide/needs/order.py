"""Needs: everything that a Mac needs, in the order in which it is done.

| order | need | condition |
| --- | --- | --- |
| 1 | `reenroll` | an enrollment fault (`enrollment`) |
| 2 | `reinstall`, `reimage` | loan unit returned, seal broken, wrong firmware, failed updates |
| | `restart` | failed updates, before the reinstall (`restart`) |
| 3 | `upgrade` | the line is dead, or the policy wants a newer one |
| 4 | `update` | the line has a newer release that is offered to the Mac |
| 5 | `activate` | the last reinstall lacks an activation that is carried out over SSH |

Enrollment is first because MDM drives most other methods; while it is at fault, later needs do not
use MDM. A reinstall or restart is before the update that it repairs, and no other need follows it,
unless an earlier reinstall had no effect. Each rule is safe alone on any Situation.

The erase of a returned loan unit is before its `reenroll` if it can be done without MDM: no person
is at the Mac to answer a prompt, and after the erase it enrolls by itself in Setup Assistant. It
waits there for its approval, a window or another job, for a week after the return at most. A Mac
whose erase is stopped, as by a halt, enrolls meanwhile.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from pipeline.decide.candidate import is_for, make_candidate
from pipeline.decide.exposure import Exposure
from pipeline.decide.gates import evaluate_gates
from pipeline.decide.methods import choose_method
from pipeline.decide.needs.activation import needs_activations
from pipeline.decide.needs.enrollment import needs_reenrollment
from pipeline.decide.needs.need import Need
from pipeline.decide.needs.reinstall import loan_returned_us, needs_reinstall
from pipeline.decide.needs.update import is_open, needs_update, needs_upgrade
from pipeline.decide.protection import OBJECTIONS
from pipeline.decide.situation import Situation
from pipeline.state.device import duration_us
from schemas.decisions import Reason

# The decision does not know whether an approval is pending, denied or forgotten.
_ERASED_WITHIN_US: Final = duration_us(timedelta(days=7))
# A closed gate with one of these reasons stops an erase until a person acts.
_STOPPED: Final = OBJECTIONS | {
    Reason.EXEMPT,
    Reason.HALTED,
    Reason.LOCKED,
    Reason.RELEASE_FAILING,
    Reason.RETRIES_EXHAUSTED,
}


def needs(s: Situation, exposed: Exposure) -> Iterator[Need]:
    """Yield every need of this Mac, in the order of the table at the top; nothing if it has none.

    With a `reenroll`, the other needs of a system have `mdm_usable` False. A reinstall or reimage
    is the last need, unless a person must do it.
    """
    reenroll = needs_reenrollment(s)
    upgrade, update = needs_upgrade(s), needs_update(s, exposed)
    system = needs_reinstall(s, exposed, upgrade if is_open(s, upgrade) else update)
    if reenroll is not None and not _is_erased_without_mdm(s, system, exposed):
        yield reenroll
    for need in (system, upgrade, update):
        if need is not None:
            yield need if reenroll is None else replace(need, mdm_usable=False)
            if need is system and need.exclusive:
                return
    yield from needs_activations(s)


def loan_times_us(s: Situation) -> tuple[int, ...]:
    """Return the times, in us, at which the needs of a loan unit change; () if it is none.

    They are its return and, with an enrollment fault, the end of the wait for its erase.
    """
    returned_us = loan_returned_us(s)
    if returned_us is None:
        return ()
    if needs_reenrollment(s) is None:
        return (returned_us,)
    return returned_us, returned_us + _ERASED_WITHIN_US


def _is_erased_without_mdm(s: Situation, system: Need | None, exposed: Exposure) -> bool:
    """Return True if `system` erases a returned loan unit without MDM, and nothing stops it.

    True too for an open job that erases it.
    """
    if system is None or system.reason is not Reason.LOAN_RETURNED or system.needs_person:
        return False
    if s.open_job is not None and is_for(s.open_job, system):
        return True
    returned_us = loan_returned_us(s)
    if returned_us is None or s.now_us >= returned_us + _ERASED_WITHIN_US:
        return False
    need = replace(system, mdm_usable=False)
    choice = choose_method(s, need)
    if choice.method is None or choice.reason is not None:
        return False
    results = evaluate_gates(s, make_candidate(s, need, choice, exposed))
    return _STOPPED.isdisjoint(result.reason for result in results)
