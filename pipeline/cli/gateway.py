"""`drydock gateway`: the HTTP front of a fleet on Kafka."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import fail
from pipeline.cli.sender_options import InsecureLoopback, Senders

if TYPE_CHECKING:
    from pipeline.gateway.records import SigningKey
    from runtime.logs import Log


MetricsListen = Annotated[
    str | None,
    typer.Option(
        "--metrics-listen",
        envvar="DRYDOCK_METRICS_LISTEN",
        help="HOST:PORT of /metrics and probes; default: the same as --listen.",
    ),
]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        envvar="DRYDOCK_KEYS_DIR",
        help="Key directory. Its key for records signs reports of Macs for agents.",
    ),
]


def gateway(
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", help="Directory of the spool, used while Kafka is unreachable."),
    ],
    listen: Annotated[
        str,
        typer.Option(envvar="DRYDOCK_GATEWAY_LISTEN", help="HOST:PORT; port 0: a free one."),
    ] = "127.0.0.1:8080",
    metrics_listen: MetricsListen = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka brokers; default: DRYDOCK_KAFKA_BOOTSTRAP."),
    ] = None,
    senders: Senders = None,
    insecure_loopback: InsecureLoopback = False,
    keys: Keys = None,
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

    log = make_log()
    try:
        plan = GatewayPlan(
            data_dir,
            Listen.parse(listen),
            None if metrics_listen is None else Listen.parse(metrics_listen),
            kafka_settings(bootstrap),
            insecure_loopback,
            senders,
            read_stamps(),
            None if keys is None else _signing_key(keys, log),
        )
        serve(plan, GatewaySettings(), log)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        fail(f"DRYDOCK_{name}: {first['msg']}")
    except (SettingsError, SpoolError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot serve on {listen}: {error.strerror or error}")


def _signing_key(keys: Path, log: "Log") -> "SigningKey":
    """Return the function that returns the key for records now. Raises KeysError without one."""
    from pipeline.signing_keys import WatchedKey
    from runtime.trusted_keys import Purpose
    from schemas import logkeys

    def report(problem: str) -> None:
        log.error("signing key: correct the key directory", **{logkeys.DETAIL: problem})

    return WatchedKey(keys, Purpose.RECORDS, report).current
