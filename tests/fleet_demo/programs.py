"""The demo's fleet as processes: a gateway, workers, one agent for each site."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chaos.programs import DRYDOCK, GATEWAY, SECRETS_ENV, STAMPS_ENV, Fleet, Kind, Program
from tests.kafka.brokers import free_ports

WORKERS: Final = 2
_WORKER: Final = (*DRYDOCK[:3], "-m", "tests.fleet_demo.worker_program")


@dataclass(frozen=True, slots=True)
class Addresses:
    """HOST:PORT of each program; agents by site."""

    gateway: str
    workers: tuple[str, ...]
    agents: dict[str, str]

    @classmethod
    def free(cls, sites: tuple[str, ...]) -> "Addresses":
        """Return addresses on loopback with free ports."""
        gateway, *others = (f"127.0.0.1:{p}" for p in free_ports(1 + WORKERS + len(sites)))
        agents = dict(zip(sites, others[WORKERS:], strict=True))
        return cls(gateway, tuple(others[:WORKERS]), agents)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLayout:
    """Folder and addresses of the fleet; the folder has `keys` and the `clock` file.

    `slots` is the capacity of each agent.
    """

    folder: Path
    bootstrap: str
    macs: str
    addresses: Addresses
    slots: int

    def fleet(self) -> Fleet:
        """Return the programs, not started."""
        workers = [
            self._program(
                *(Kind.WORKER, f"worker-{number}", *_WORKER),
                *("--keys", str(self.folder / "keys"), "--listen", address),
                *("--clock", str(self.folder / "clock")),
            )
            for number, address in enumerate(self.addresses.workers)
        ]
        agents = [
            self._program(
                *(Kind.AGENT, f"agent-{site}", *DRYDOCK, "agent", "--site", site),
                *("--name", f"{site}-0", "--keys", str(self.folder / "keys")),
                *("--simulate", self.macs, "--listen", address, "--slots", str(self.slots)),
            )
            for site, address in self.addresses.agents.items()
        ]
        where = ("--listen", self.addresses.gateway, "--clock", str(self.folder / "clock"))
        gateway = self._program(Kind.GATEWAY, "gateway", *GATEWAY, *where, env=SECRETS_ENV)
        return Fleet((gateway, *workers, *agents))

    def _program(
        self, kind: Kind, name: str, *command: str, env: dict[str, str] | None = None
    ) -> Program:
        data_dir = self.folder / name
        whole = (*command, "--data-dir", str(data_dir), "--bootstrap", self.bootstrap)
        return Program(
            kind, name, data_dir, whole, self.folder / f"{name}.log", STAMPS_ENV | (env or {})
        )
