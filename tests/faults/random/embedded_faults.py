"""The faults of the embedded form, and the person who repairs what only a person can repair."""

import heapq
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from agents.journal import JournalError
from pipeline.embedded.backup import JOURNALS, back_up, restore
from pipeline.embedded.log import FILE, Log, StoreError
from tests.chaos.checker import Kind
from tests.faults.damage import DAMAGES
from tests.faults.random.embedded import EmbeddedRun
from tests.faults.random.embedded_evidence import is_empty, journal_files
from tests.faults.random.schedule import Strike

SHARES: Final[Mapping[str, int]] = {
    "kill": 6,
    "kill in recovery": 3,
    "restart": 1,
    "full disk": 2,
    "damaged journal": 1,
    "lost journals": 2,
    "older journals": 2,
    "damaged database": 1,
    "lost WAL": 2,
    "backup": 3,
    "restored backup": 3,
    "clock skew": 2,
}
# A changed byte inside a row of the database is not noticed (docs/explanation/faults.md).
_NOTICED: Final = sorted(DAMAGES.keys() - {"flip_bytes"})
_KILOBYTE: Final = 1024


class EmbeddedFaults:
    """Strikes a run; `live` ends the faults that last, and lets the person repair damage."""

    def __init__(self, run: EmbeddedRun) -> None:
        self._run = run
        self._backups: list[Path] = []
        self._lasting: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = count(1)
        self._faults: dict[str, Callable[[Random], None]] = {
            "kill": self._kill,
            "kill in recovery": self._kill_in_recovery,
            "restart": lambda _: run.end("stopped"),
            "full disk": self._fill_disk,
            "damaged journal": self._damage_journal,
            "lost journals": self._lose_journals,
            "older journals": self._put_back_journals,
            "damaged database": self._damage_database,
            "lost WAL": self._lose_wal,
            "backup": lambda _: self.back_up(),
            "restored backup": self._restore,
            "clock skew": self._shift_clock,
        }

    def live(self, until: datetime) -> None:
        """Let the run live until this time; end what is due, and repair what is damaged."""
        while self._lasting and self._lasting[0][0] <= until:
            at, _, end = heapq.heappop(self._lasting)
            self._live(at)
            end()
        self._live(until)

    def _live(self, until: datetime) -> None:
        run = self._run
        while run.now < until:
            run.live(min(until, run.now + timedelta(hours=1)))
            if run.is_damaged:
                self._repair()

    def end(self) -> None:
        """End all faults that last."""
        while self._lasting:
            self.live(self._lasting[0][0])
        if self._run.is_damaged:
            self._repair()

    def strike(self, strike: Strike) -> None:
        """Strike now."""
        self._faults[strike.fault](Random(strike.pick))

    def _later(self, hours: float, end: Callable[[], None]) -> None:
        at = self._run.now + timedelta(hours=hours)
        heapq.heappush(self._lasting, (at, next(self._numbers), end))

    # --- processes and clocks ---

    def _kill(self, random: Random) -> None:
        self._run.moments_to_crash = random.randrange(60)

    def _kill_in_recovery(self, random: Random) -> None:
        self._run.end("killed")
        self._run.moments_to_crash = random.randrange(8)

    def _shift_clock(self, random: Random) -> None:
        self._run.skew = timedelta(hours=random.choice((-48, -2, -0.5, 0.5, 2, 48)))
        self._later(random.uniform(0.5, 6), self._correct_clock)

    def _correct_clock(self) -> None:
        self._run.skew = timedelta(0)

    # --- disks ---

    def _fill_disk(self, random: Random) -> None:
        run = self._run
        if random.random() < 0.3:
            run.end("stopped")
        sizes = [path.stat().st_size for path in run.data_dir.rglob("*.sqlite*")]
        run.disk_limit = random.choice((4 * _KILOBYTE, max(sizes) // 2, max(sizes) + _KILOBYTE))
        self._later(random.uniform(0.2, 4), self._free_disk)

    def _free_disk(self) -> None:
        self._run.disk_limit = None

    def _damage_journal(self, random: Random) -> None:
        run = self._run
        run.end("stopped")
        run.remember()
        files = journal_files(run.data_dir)
        if files:
            damage = DAMAGES[random.choice(sorted(DAMAGES))]
            damage(random.choice(files), random)
            run.is_damaged = True

    def _damage_database(self, random: Random) -> None:
        run = self._run
        run.end("stopped")
        run.remember()
        DAMAGES[random.choice(_NOTICED)](run.data_dir / FILE, random)
        run.is_damaged = True

    def _repair(self) -> None:
        """Make a backup; if the service or the backup reports damage, restore the last one."""
        run = self._run
        if run.disk_limit is not None:
            return
        if run.service is not None:
            try:
                self.back_up()
            except (StoreError, JournalError):
                run.end("damaged")
            else:
                run.is_damaged = False
                return
        self._restore_last(None)

    # --- losses ---

    def _lose_journals(self, random: Random) -> None:
        run = self._run
        run.end("stopped")
        run.remember()
        files = journal_files(run.data_dir)
        lost = files if random.random() < 0.5 else random.sample(files, min(1, len(files)))
        for path in lost:
            path.unlink()

    def _put_back_journals(self, _: Random) -> None:
        run = self._run
        run.end("stopped")
        run.remember()
        shutil.rmtree(run.data_dir / JOURNALS)
        shutil.copytree(self._backups[-1] / JOURNALS, run.data_dir / JOURNALS)

    def _lose_wal(self, _: Random) -> None:
        run = self._run
        path = run.data_dir / FILE
        before = path.read_bytes()
        run.end("killed")
        run.remember()
        last = _last_seq(run.data_dir)
        path.write_bytes(before)  # as it was before the WAL was written back
        lost = last - _last_seq(run.data_dir)
        run.forget_inputs()
        run.serve()
        if run.service is not None and run.service.store.lost_entries != lost:
            found = run.service.store.lost_entries
            run.blame(Kind.UNTRUE, f"{lost} entries of the log are lost, {found} are reported")

    def back_up(self) -> None:
        """Make a backup while the service runs, if it does."""
        run = self._run
        service = run.service
        if service is None or run.disk_limit is not None:
            return

        def fetch(site: str) -> bytes:
            return service.executors.copy_journal(site) or b""

        target = run.folder / f"backup-{len(self._backups)}"
        back_up(run.data_dir, target, run.clock, fetch)
        self._backups.append(target)

    def _restore(self, random: Random) -> None:
        run = self._run
        run.end("stopped")
        run.remember()
        self._restore_last(run.data_dir / JOURNALS if random.random() < 0.3 else None)

    def _restore_last(self, journals: Path | None) -> None:
        """Restore the last backup into a new data directory; keep these journals, if given."""
        run = self._run
        new = run.data_dir.with_name(f"data-{next(self._numbers)}")
        restore(self._backups[-1], new)
        if journals is not None:
            shutil.rmtree(new / JOURNALS)
            shutil.copytree(journals, new / JOURNALS)
        run.data_dir, run.is_damaged = new, False
        run.forget_inputs()


def _last_seq(data_dir: Path) -> int:
    if is_empty(data_dir):
        return 0
    with Log.open(data_dir) as log:
        return log.last_seq()
