"""Real Kafka brokers on loopback: KRaft, one or three, from the jars in `.tools`.

It manages their processes, ports and folders. A cluster that tests start ends with the tests,
even if they are killed. A detached one (`make kafka-up`) stays; `found_in` finds it by its folder.
"""

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from kafka import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
LOG4J: Final = ROOT / "tools" / "kafka" / "log4j2.properties"
# Below the ephemeral ports (Linux: from 32768), which outgoing connections can take at any time.
LOWEST_PORT: Final = 20_000
HIGHEST_PORT: Final = 32_000
READY_S: Final = 60.0
STOP_S: Final = 30.0
HEAP: Final = "-Xmx512m"
# For brokers that live for minutes: without the C2 compiler, the start needs a third less CPU.
SHORT_LIVED: Final = (HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
INFO_NAME: Final = "cluster.json"


class BrokerError(Exception):
    """A cluster cannot be made, or an operation on it did not finish in time."""


def missing_parts() -> str | None:
    """Return the missing part that a broker needs and how to get it; None if none is missing."""
    if shutil.which("java") is None:
        return "java (17 or newer) is missing: see `make tools`"
    if not any(jars("kafka").glob("kafka_*.jar")):
        return "Kafka's jars are missing: `make tools` fetches them"
    return None


def jars(name: str) -> Path:
    """Return the folder of the jars that `tools/servers NAME` fetches; it may not exist."""
    command = [str(ROOT / "tools" / "servers"), "path", name]
    folder = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    return ROOT / folder / "libs"


def free_ports(count: int) -> tuple[int, ...]:
    """Return different free ports. Another program can still take one before its use."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(LOWEST_PORT, HIGHEST_PORT)
        if port not in found and _is_free(port):
            found.append(port)
    return tuple(found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class KafkaCluster:
    """A cluster of one broker, or of three that acknowledge a record when two have it.

    `folder` has all its files. `ports` are two for each broker: one for clients, one for the
    controllers. `extra` are more server properties, `jvm` are options of Java. Node ids start at 1.
    """

    def __init__(
        self,
        brokers: int,
        folder: Path,
        ports: Sequence[int],
        *,
        extra: Mapping[str, str] | None = None,
        jvm: Sequence[str] = (HEAP,),
        detached: bool = False,
    ) -> None:
        if brokers not in {1, 3}:
            raise BrokerError(f"a cluster has 1 broker or 3, not {brokers}")
        if len(ports) != 2 * brokers or len(set(ports)) != len(ports):
            raise BrokerError(f"{brokers} brokers need {2 * brokers} ports, got {list(ports)}")
        self.brokers = brokers
        self.folder = folder.resolve()
        self.ports = tuple(ports)
        self.detached = detached
        self._extra = dict(extra or {})
        self._jvm = tuple(jvm)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._pids: dict[int, int] = {}

    @classmethod
    def found_in(cls, folder: Path) -> Self | None:
        """Return the detached cluster of this folder, running or not; None if there is none."""
        path = folder / INFO_NAME
        try:
            info = json.loads(path.read_text())
            cluster = cls(info["brokers"], folder, info["ports"], detached=True)
            cluster._pids = {int(node): int(pid) for node, pid in info["pids"].items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokerError(f"{path} is not readable ({error}); remove {folder}") from error
        return cluster

    @property
    def nodes(self) -> range:
        """The node ids."""
        return range(1, self.brokers + 1)

    @property
    def bootstrap(self) -> str:
        """The addresses of all brokers, for clients."""
        return ",".join(self.address(node) for node in self.nodes)

    def address(self, node: int) -> str:
        """Return the address of one broker for clients."""
        return f"127.0.0.1:{self.ports[2 * (node - 1)]}"

    def start(self) -> None:
        """Start every broker that is not running; return when all of them respond."""
        lacking = missing_parts()
        if lacking:
            raise BrokerError(lacking)
        self._make_folders()
        for node in self.nodes:
            if not self.is_running(node):
                self._launch(node)
        self.wait_ready()

    def stop(self, node: int | None = None) -> None:
        """Stop one broker, or all, with SIGTERM; kill those that do not stop within 30 s."""
        running = [each for each in ([node] if node else self.nodes) if self.is_running(each)]
        for each in running:
            os.kill(self._pids[each], signal.SIGTERM)
        try:
            wait_until(lambda: not any(map(self.is_running, running)), STOP_S, "did not stop")
        except TimeoutError:
            for each in running:
                self.kill(each)
        self._forget(running)

    def kill(self, node: int | None = None) -> None:
        """Kill one broker, or all (kill -9)."""
        nodes = [each for each in ([node] if node else self.nodes) if self.is_running(each)]
        for each in nodes:
            os.kill(self._pids[each], signal.SIGKILL)
        wait_until(lambda: not any(map(self.is_running, nodes)), STOP_S, "survived kill -9")
        self._forget(nodes)

    def restart(self, node: int) -> None:
        """Start one broker again, after a stop if it runs; return when the cluster is ready."""
        if self.is_running(node):
            os.kill(self._pids[node], signal.SIGTERM)
            wait_until(lambda: not self.is_running(node), STOP_S, f"broker {node} did not stop")
        self._launch(node)
        self.wait_ready()

    def is_running(self, node: int) -> bool:
        """Return True if the process of this broker runs.

        The command of a detached process is checked too: its process id may have been reused.
        """
        child = self._children.get(node)
        if child is not None:
            return child.poll() is None
        pid = self._pids.get(node)
        return pid is not None and str(self._properties(node)) in _command_of(pid)

    def pid(self, node: int) -> int:
        """Return the process id of a started broker; raises KeyError for another node."""
        return self._pids[node]

    def _folder(self, node: int) -> Path:
        return self.folder / f"broker-{node}"

    def _properties(self, node: int) -> Path:
        return self._folder(node) / "server.properties"

    def _make_folders(self) -> None:
        new = [node for node in self.nodes if not (self._folder(node) / "data").exists()]
        for node in self.nodes:
            self._folder(node).mkdir(parents=True, exist_ok=True)
            lines = [f"{key}={value}\n" for key, value in self._settings(node).items()]
            self._properties(node).write_text("".join(lines))
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if len(new) not in {0, self.brokers}:
            raise BrokerError(f"some brokers in {self.folder} have no data; remove that folder")
        for node in new:
            done = subprocess.run(
                [
                    *_java("-XX:TieredStopAtLevel=1"),
                    "kafka.tools.StorageTool",
                    # One argument: an identity may begin with `-`, like an option.
                    *("format", f"--cluster-id={identity}", "-c", str(self._properties(node))),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                shutil.rmtree(self._folder(node) / "data", ignore_errors=True)
                raise BrokerError(f"format failed: {(done.stderr or done.stdout).strip()}")

    def _settings(self, node: int) -> dict[str, str]:
        client, control = self.ports[2 * node - 2], self.ports[2 * node - 1]
        copies, in_sync = ("3", "2") if self.brokers == 3 else ("1", "1")
        voters = (f"{each}@127.0.0.1:{self.ports[2 * each - 1]}" for each in self.nodes)
        return {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{control}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._folder(node) / "data"),
            # `drydock topics` creates topics; a misspelt name must be an error, not a new topic.
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.num.partitions": "8",
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": "8",
            "group.initial.rebalance.delay.ms": "0",
            # Shorter than the default 9 s: a killed broker is fenced, and can return, sooner.
            "broker.heartbeat.interval.ms": "1000",
            "broker.session.timeout.ms": "6000",
        } | self._extra

    def _launch(self, node: int) -> None:
        command = [
            *_java(*self._jvm, f"-Dlog4j2.configurationFile={LOG4J.as_uri()}"),
            "kafka.Kafka",
            str(self._properties(node)),
        ]
        log = self._folder(node) / "log"
        if self.detached:
            # Started by a shell that ends at once, so that the broker outlives this program.
            script = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
            started = subprocess.run(
                ["sh", "-c", script, "sh", str(log), *command],
                start_new_session=True,
                stdout=subprocess.PIPE,
                check=True,
            )
            self._pids[node] = int(started.stdout)
            self._remember()
            return
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C must not reach the broker: the test run stops its brokers itself.
                start_new_session=True,
            )
        self._children[node] = child
        self._pids[node] = child.pid

    def _forget(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            self._pids.pop(node, None)
            self._children.pop(node, None)
        self._remember()

    def _remember(self) -> None:
        if self.detached:
            info = {"brokers": self.brokers, "ports": self.ports, "pids": self._pids}
            (self.folder / INFO_NAME).write_text(json.dumps(info))

    def wait_ready(self) -> None:
        """Return when each running broker sees all of them alive; raises BrokerError after 60 s."""
        running = [node for node in self.nodes if self.is_running(node)]

        def ready() -> bool:
            for node in running:
                if not self.is_running(node):
                    log = (self._folder(node) / "log").read_text(errors="replace")
                    tail = "\n".join(log.strip().splitlines()[-5:])
                    raise BrokerError(f"broker {node} ended while it started:\n{tail}")
            return all(_sees(self.address(node)) >= len(running) for node in running)

        try:
            wait_until(ready, READY_S, f"the brokers at {self.bootstrap} did not become ready")
        except TimeoutError as error:
            raise BrokerError(str(error)) from error


def _java(*options: str) -> list[str]:
    return ["java", *options, "-cp", f"{jars('kafka')}/*"]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    asked = ["ps", "-p", str(pid), "-o", "command="]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def _sees(address: str) -> int:
    """Return the number of live brokers that this broker knows; 0 if it does not respond."""
    host, _, port = address.rpartition(":")
    try:
        # Connect first without the client, which logs each refused connection as a warning.
        socket.create_connection((host, int(port)), timeout=1).close()
        with KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=5_000) as admin:
            brokers = admin.describe_cluster()["brokers"]
            return sum(not broker["is_fenced"] for broker in brokers)
    except (KafkaError, OSError):
        return 0
