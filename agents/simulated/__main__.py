"""`python -m agents.simulated --fleet F.json`: serve simulated Macs to other processes.

Prints one JSON line with the address, then serves until SIGTERM or SIGINT.
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
    fleet: Annotated[Path, typer.Option(help="The fleet: a JSON file in the form of FleetPlan.")],
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 chooses a free port.")
    ] = "127.0.0.1:0",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder for the orders; default: memory.")
    ] = None,
    sink: Annotated[
        str | None,
        typer.Option(
            help="Destination of the Macs' events: the URL of a gateway"
            " (events to /v1/events, MDM messages as NanoMDM's webhooks to /webhooks/nanomdm)."
        ),
    ] = None,
    secret: Annotated[
        str | None, typer.Option(envvar="DRYDOCK_SIMULATED_SECRET", help="NanoMDM's secret.")
    ] = None,
    admin_secret: Annotated[
        str | None,
        typer.Option(envvar="DRYDOCK_SIMULATED_ADMIN_SECRET", help="The operators' secret."),
    ] = None,
) -> None:
    """Serve simulated Macs to other processes."""
    host, _, port = listen.rpartition(":")
    try:
        plan = TypeAdapter(FleetPlan).validate_json(fleet.read_bytes())
        fleet_server = SimulatedFleetServer(
            plan, data_dir, None if sink is None else sink_for(sink, secret, admin_secret)
        )
        server = SimulatedFleetHttpServer(host, int(port), fleet_server)
    except (OSError, ValidationError, ValueError) as error:
        sys.stderr.write(f"drydock: cannot serve the fleet: {error}\n")
        raise typer.Exit(2) from error
    signal.signal(signal.SIGTERM, lambda *_: _end_soon(server))
    signal.signal(signal.SIGINT, lambda *_: _end_soon(server))
    threading.Thread(target=fleet_server.publish_events, daemon=True, name="publish").start()
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
