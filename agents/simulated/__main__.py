"""`python -m agents.simulated --fleet F.json`: hold simulated Macs for other processes.

Prints one JSON line with the address, then serves until SIGTERM.
"""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from agents.simulated.fleet_server import SimulatedFleetHttpServer, SimulatedFleetServer
from agents.simulated.sinks import sink_for
from agents.simulated.wire import FleetPlan


def main(
    fleet: Annotated[Path, typer.Option(help="The fleet as JSON, as FleetPlan is written.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 is any free one.")] = "127.0.0.1:0",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where orders are kept; else in memory.")
    ] = None,
    sink: Annotated[
        str | None,
        typer.Option(
            help="Where the Macs' events go: kafka://HOST:PORT, or the URL of a gateway (events to"
            " /v1/events, MDM messages as NanoMDM's webhooks to /webhooks/nanomdm)."
        ),
    ] = None,
    secret: Annotated[
        str | None, typer.Option(envvar="DRYDOCK_SIMULATED_SECRET", help="The gateway's secret.")
    ] = None,
) -> None:
    """Hold simulated Macs."""
    host, _, port = listen.rpartition(":")
    try:
        plan = TypeAdapter(FleetPlan).validate_json(fleet.read_bytes())
        fleet_server = SimulatedFleetServer(
            plan, data_dir, None if sink is None else sink_for(sink, secret)
        )
        server = SimulatedFleetHttpServer(host, int(port), fleet_server)
    except (OSError, ValidationError, ValueError) as error:
        sys.stderr.write(f"drydock: cannot hold the fleet: {error}\n")
        raise typer.Exit(2) from error
    signal.signal(signal.SIGTERM, lambda *_: _end_soon(server))
    signal.signal(signal.SIGINT, lambda *_: _end_soon(server))
    threading.Thread(target=fleet_server.publish_events, daemon=True, name="tell").start()
    bound = server.server_address
    sys.stdout.write(json.dumps({"host": bound[0], "port": bound[1]}) + "\n")
    sys.stdout.flush()
    server.serve_forever()
    server.server_close()
    fleet_server.stop()


def _end_soon(server: SimulatedFleetHttpServer) -> None:
    threading.Thread(target=server.shutdown, daemon=True).start()


if __name__ == "__main__":
    typer.run(main)
