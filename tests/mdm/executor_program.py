"""One executor over MDM as a process, which kills itself at a moment of its journal.

It has one job. A test that starts it writes the webhooks of the servers to a file; the clock is
that of the test, so a restarted executor finds that minutes have passed.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from pipeline.ingest import nanomdm
from pipeline.ingest.redaction import Redactor
from schemas.envelope import Event
from schemas.jobs import Job
from tests.fake_mdm import FakeMdm
from tests.mdm.test_server_contract import adapter
from tests.mdm_site import MdmSite

# Minutes of the executor in a minute: it waits five before it repeats an order.
SPEED: Final = 20.0
_STEP_S: Final = 0.2
_REDACTOR: Final = Redactor(b"a key of the tests only")


class Plan(BaseModel):
    """Configuration of one life, in the file `plan.json` of its folder."""

    nanomdm: str
    kmfddm: str
    webhooks: Path
    began_at: datetime
    job: Job
    dies_at: str | None = None

    def now(self) -> datetime:
        """Return the executor's time."""
        return self.began_at + SPEED * (datetime.now(UTC) - self.began_at)


@dataclass
class WebhookFile(FakeMdm):
    """Events of the webhooks in a file, in place of the servers in this process."""

    path: Path = Path()
    _offset: int = 0

    def take_events(self) -> list[Event]:
        """Return the events of the whole lines since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(whole)
        at = datetime.now(UTC)
        return [
            event
            for line in whole.splitlines()
            for event in nanomdm.translate(
                line, origin="test", received_at=at, redactor=_REDACTOR
            ).events
        ]


def main(folder: Path) -> None:
    """Run until the job has ended, or until the moment at which this life ends."""
    plan = Plan.model_validate_json((folder / "plan.json").read_bytes())

    def moment(name: str) -> None:
        if name == plan.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    servers = {"mdm": adapter(plan.nanomdm, plan.kmfddm)}
    source = WebhookFile(plan.now(), path=plan.webhooks)
    site = MdmSite(source, folder, moment, servers, now=plan.now())  # type: ignore[arg-type]
    # The journal is older than the job: else an erase could have been ordered before.
    site.journal.set_complete_since(plan.began_at - timedelta(days=1))
    site.start(plan.job)
    while site.executor.live_jobs:
        time.sleep(_STEP_S)
        site.now = plan.now()
        site.step()
    outcomes = site.outcomes
    site.close()
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
