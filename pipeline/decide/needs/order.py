"""Needs: everything that a Mac needs, in the order in which it is done.

| order | need | condition |
| --- | --- | --- |
| 1 | `reenroll` | an enrollment fault (`enrollment`) |
| 2 | `reinstall`, `reimage` | loan unit returned, seal broken, wrong firmware, failed updates |
| | `restart` | failed updates, before the reinstall (`restart`) |
| 3 | `upgrade` | the line is dead, or the policy wants a newer one |
| 4 | `update` | the line has a newer release that is offered to the Mac |

Enrollment is first because MDM drives most other methods; while it is at fault, later needs do not
use MDM. A reinstall or restart is before the update that it repairs, and no other need follows it,
unless an earlier reinstall had no effect. Each rule is safe alone on any Situation.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from pipeline.decide.exposure import Exposure
from pipeline.decide.needs.enrollment import needs_reenrollment
from pipeline.decide.needs.need import Need
from pipeline.decide.needs.reinstall import needs_reinstall
from pipeline.decide.needs.update import is_open, needs_update, needs_upgrade
from pipeline.decide.situation import Situation


def needs(s: Situation, exposed: Exposure) -> Iterator[Need]:
    """Yield every need of this Mac, in the order of the table at the top; nothing if it has none.

    After a `reenroll`, the later needs have `mdm_usable` False. A reinstall or reimage is the last
    need, unless a person must do it.
    """
    reenroll = needs_reenrollment(s)
    if reenroll is not None:
        yield reenroll
    upgrade, update = needs_upgrade(s), needs_update(s, exposed)
    system = needs_reinstall(s, exposed, upgrade if is_open(s, upgrade) else update)
    for need in (system, upgrade, update):
        if need is not None:
            yield need if reenroll is None else replace(need, mdm_usable=False)
            if need is system and need.exclusive:
                return
