"""`make kafka-up` and `make kafka-down`: a broker that keeps running, with its data folder."""

import argparse
import sys
from pathlib import Path

from tests.kafka.brokers import BrokerError, KafkaCluster

FOLDER = Path(".kafka")
FIRST_PORT = 19092


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 1 after one line on stderr."""
    parser = argparse.ArgumentParser(prog="kafka_up", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--port", type=int, default=FIRST_PORT)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    try:
        if given.command == "up":
            lines = up(given.folder, given.brokers, given.port)
        else:
            lines = down(given.folder)
    except BrokerError as error:
        sys.stderr.write(f"drydock: {error}\n")
        return 1
    sys.stdout.write(lines + "\n")
    return 0


def up(folder: Path, brokers: int, port: int) -> str:
    """Start the cluster of the folder, or a new one at `port` and the next ports.

    Returns a line for the operator. Raises BrokerError.
    """
    ports = tuple(range(port, port + 2 * brokers))
    cluster = KafkaCluster.found_in(folder)
    if cluster is None:
        cluster = KafkaCluster(brokers, folder, ports, detached=True)
    elif cluster.brokers != brokers:
        raise BrokerError(
            f"{folder} holds a cluster of {cluster.brokers}, not of {brokers}: stop it"
            f" (make kafka-down) and remove {folder} (its data goes), or ask for what it holds"
        )
    elif cluster.ports != ports and not any(map(cluster.is_running, cluster.nodes)):
        cluster = KafkaCluster(brokers, folder, ports, detached=True)
    was_running = all(map(cluster.is_running, cluster.nodes))
    cluster.start()
    state = "runs already" if was_running else "is ready"
    return f"Kafka {state} at {cluster.bootstrap} (data and logs in {folder})"


def down(folder: Path) -> str:
    """Stop the cluster of the folder and keep its data. Returns a line for the operator."""
    cluster = KafkaCluster.found_in(folder)
    if cluster is None or not any(map(cluster.is_running, cluster.nodes)):
        return "Kafka is not running"
    cluster.stop()
    return f"Kafka stopped; its data stays in {folder}"


if __name__ == "__main__":
    sys.exit(main())
