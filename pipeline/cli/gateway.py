"""`drydock gateway`: the HTTP front of a fleet on Kafka."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import fail
from pipeline.cli.sender_options import InsecureLoopback, Senders


def gateway(
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", help="Directory of the spool, used while Kafka is unreachable."),
    ],
    listen: Annotated[
        str,
        typer.Option(envvar="DRYDOCK_GATEWAY_LISTEN", help="HOST:PORT; port 0: a free one."),
    ] = "127.0.0.1:8080",
    metrics_listen: Annotated[
        str | None,
        typer.Option(
            "--metrics-listen",
            envvar="DRYDOCK_METRICS_LISTEN",
            help="HOST:PORT of /metrics and probes; default: the same as --listen.",
        ),
    ] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka brokers; default: DRYDOCK_KAFKA_BOOTSTRAP."),
    ] = None,
    senders: Senders = None,
    insecure_loopback: InsecureLoopback = False,
) -> None:
    """Accept webhooks and events over HTTP, for Kafka.

    The response is 200 once they are durable: in Kafka or, while Kafka is unreachable, in a bounded
    spool in the data directory. The spool is sent in order when Kafka is back. It can be killed at
    any moment. Secrets of senders come from the environment (DRYDOCK_NANOMDM_HMAC_KEY and others,
    docs/operations.md); without any, requests are refused.
    """
    from pydantic import ValidationError

    from pipeline.config import GatewaySettings, read_stamps
    from pipeline.gateway.service import GatewayPlan, serve
    from pipeline.gateway.spool import SpoolError
    from runtime.kafka import SettingsError, kafka_settings
    from runtime.listening import Listen
    from runtime.logs import make_log

    try:
        plan = GatewayPlan(
            data_dir,
            Listen.parse(listen),
            None if metrics_listen is None else Listen.parse(metrics_listen),
            kafka_settings(bootstrap),
            insecure_loopback,
            senders,
            read_stamps(),
        )
        serve(plan, GatewaySettings(), make_log())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        fail(f"DRYDOCK_{name}: {first['msg']}")
    except (SettingsError, SpoolError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot serve on {listen}: {error.strerror or error}")
