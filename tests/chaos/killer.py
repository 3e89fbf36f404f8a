"""The seeded schedule of strikes on programs (kill, freeze, leave), and the killer that acts."""

import heapq
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from tests.chaos.programs import Fleet, Kind, Program

_TICK_S: Final = 0.05
# Delay before a program that ended by itself is started again, as a cluster does.
_AGAIN_S: Final = 1.0
# A program that got SIGTERM must end within this time: with 0, or by the signal if it had not
# installed its handler yet.
_LEAVES_WITHIN_S: Final = 60.0
_GOOD: Final = frozenset({0, -signal.SIGTERM})
_SHARES: Final = ((Kind.WORKER, 0.25), (Kind.AGENT, 0.55), (Kind.GATEWAY, 0.2))
# Kills for each SIGTERM, and kills for each freeze.
_KILLS_A_LEAVE: Final = 12
_KILLS_A_FREEZE: Final = 15


class How(StrEnum):
    """Kind of a strike."""

    KILL = "kill"
    LEAVE = "leave"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True, order=True)
class Strike:
    """One strike, `at_s` seconds after the start, on the `pick`-th program of a kind (modulo).

    The program comes back `down_s` later; if `wiped`, with an empty data directory.
    """

    at_s: float
    how: How
    kind: Kind
    pick: int
    down_s: float
    wiped: bool = False


def schedule(seed: int, kills: int, lasts_s: float) -> list[Strike]:
    """Return `kills` kills spread over `lasts_s`, and leaves and freezes in proportion."""
    random = Random(seed)
    strikes = []
    for kind, count in _split(kills):
        strikes += [
            Strike(
                at_s=random.uniform(0, lasts_s),
                how=How.KILL,
                kind=kind,
                pick=random.randrange(1000),
                down_s=random.choice((0.2, 0.5, 1.0, 3.0)),
                # Workers and executors must recover without local files. A gateway's spool can
                # hold the only copy of an accepted input, so it is never wiped.
                wiped=kind is not Kind.GATEWAY and random.random() < 0.15,
            )
            for _ in range(count)
        ]
    for how, every in ((How.LEAVE, _KILLS_A_LEAVE), (How.FREEZE, _KILLS_A_FREEZE)):
        strikes += [
            Strike(
                at_s=random.uniform(0, lasts_s),
                how=how,
                kind=random.choice((Kind.WORKER, Kind.AGENT)),
                pick=random.randrange(1000),
                # A freeze is longer than a session (6 s): the group has removed the member.
                down_s=random.uniform(7, 12) if how is How.FREEZE else random.uniform(0.5, 3),
            )
            for _ in range(kills // every)
        ]
    return sorted(strikes)


def _split(kills: int) -> list[tuple[Kind, int]]:
    *rest, (last, _) = _SHARES
    counts = [(kind, round(share * kills)) for kind, share in rest]
    return [*counts, (last, kills - sum(count for _, count in counts))]


class Killer:
    """Strikes programs of a fleet and brings them back.

    The caller calls `tick` often, or `run_for`. `counts` has the strikes by kind, `ended_alone`
    the unexpected ends.
    """

    def __init__(self, fleet: Fleet, strikes: list[Strike], say: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self.ended_alone: list[str] = []
        self._fleet = fleet
        self._strikes = sorted(strikes, reverse=True)
        self._say = say
        self._began_s = time.monotonic()
        self._back: list[tuple[float, int, Program, Strike | None]] = []
        self._numbers = 0
        self._down: set[str] = set()

    @property
    def age_s(self) -> float:
        """Seconds since the killer was made."""
        return time.monotonic() - self._began_s

    @property
    def is_over(self) -> bool:
        """True if no strike is left and every program is back."""
        return not self._strikes and not self._back

    def run_for(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Call `tick` for so many seconds, or until the condition holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.tick()
            time.sleep(_TICK_S)

    def tick(self) -> None:
        """Bring back and strike what is due; schedule a start for programs that ended alone."""
        now = time.monotonic()
        while self._back and self._back[0][0] <= now:
            _, _, program, strike = heapq.heappop(self._back)
            self._bring_back(program, strike)
        while self._strikes and self._strikes[-1].at_s <= now - self._began_s:
            self._strike(self._strikes.pop(), now)
        for program in self._fleet.programs:
            if not program.is_running and program.name not in self._down:
                self._note_end(program)
                self._later(now + _AGAIN_S, program, None)

    def _strike(self, strike: Strike, now: float) -> None:
        candidates = [
            each
            for each in self._fleet.of(strike.kind)
            if each.name not in self._down and each.is_running
        ]
        if not candidates:
            # All programs of this kind are down: try again later.
            self._strikes.append(
                Strike(
                    now - self._began_s + _AGAIN_S,
                    *(strike.how, strike.kind, strike.pick, strike.down_s, strike.wiped),
                )
            )
            self._strikes.sort(reverse=True)
            return
        program = candidates[strike.pick % len(candidates)]
        if strike.how is How.KILL:
            program.kill()
        elif strike.how is How.LEAVE:
            program.signal(signal.SIGTERM)
        else:
            program.freeze()
        self.counts[f"{strike.how} {strike.kind}"] += 1
        self._say(f"{strike.how} {program.name}{' and wipe' if strike.wiped else ''}")
        self._later(now + strike.down_s, program, strike)

    def _later(self, at: float, program: Program, strike: Strike | None) -> None:
        self._down.add(program.name)
        self._numbers += 1
        heapq.heappush(self._back, (at, self._numbers, program, strike))

    def _bring_back(self, program: Program, strike: Strike | None) -> None:
        if strike is not None and strike.how is How.FREEZE:
            program.thaw()
        elif program.is_running:
            assert strike is not None
            if self.age_s - strike.at_s < _LEAVES_WITHIN_S:
                self._later(time.monotonic() + _AGAIN_S, program, strike)
                return
            program.kill()
            self._note_end(program)
            program.start()
        else:
            if strike is not None and strike.how is How.LEAVE and program.exit_code not in _GOOD:
                self._note_end(program)
            if strike is not None and strike.wiped:
                shutil.rmtree(program.data_dir, ignore_errors=True)
            program.start()
        self._down.discard(program.name)

    def _note_end(self, program: Program) -> None:
        note = f"{program.name} ended with {program.exit_code}: {program.log_tail()}"
        self.ended_alone.append(note)
        self._say(note)
