"""`drydock feeds`: poll SOFA, GDMF and CISA's catalogue, for a fleet on Kafka."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.output import ATTENTION, fail

if TYPE_CHECKING:
    from pipeline.config import FeedsSettings


Sofa = Annotated[
    str | None,
    typer.Option(metavar="URL|FILE", help="The SOFA feed, v1 or v2; `none`: not polled."),
]
Gdmf = Annotated[
    str | None,
    typer.Option(metavar="URL|FILE", help="Apple's lookup service; `none`: not polled."),
]
Kev = Annotated[
    str | None, typer.Option(metavar="URL|FILE", help="CISA's catalogue; `none`: not polled.")
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE",
        help="With --once: accept this feed although most of its earlier entries are gone.",
    ),
]
ListenAt = Annotated[
    str | None,
    typer.Option(
        envvar="DRYDOCK_FEEDS_LISTEN", help="HOST:PORT of /metrics and probes; port 0: a free one."
    ),
]
Bootstrap = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Kafka brokers; default: DRYDOCK_KAFKA_BOOTSTRAP."),
]


def feeds(  # noqa: PLR0913, PLR0917 - a command's options
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Directory for the last good copy of each feed.")
    ],
    sofa: Sofa = None,
    gdmf: Gdmf = None,
    kev: Kev = None,
    interval: Annotated[
        float | None, typer.Option(help="Seconds between two polls of a feed.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Poll each feed once and end; exit 1 if one failed.")
    ] = False,
    accept: Accept = None,
    listen: ListenAt = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Poll the advisory feeds and publish new entries.

    Each entry is published once, however many replicas run. A document that is broken, older than
    the last one, or without most of the earlier entries is refused with the reason; the last good
    one stays in force. The state of each feed is in Kafka; the data directory only saves downloads.
    Settings: DRYDOCK_FEEDS_*, docs/operations.md.
    """
    from pipeline.config import read_stamps
    from pipeline.feeds.service import FeedsPlan, poll_once, serve
    from pipeline.feeds.state_store import FeedStateStoreError
    from runtime.kafka import SettingsError, kafka_settings
    from runtime.listening import Listen
    from runtime.logs import make_log

    accepted = _sources(accept or [])
    if accepted and not once:
        fail("--accept needs --once")
    settings = _settings({"sofa": sofa, "gdmf": gdmf, "kev": kev, "interval_s": interval})
    try:
        plan = FeedsPlan(
            data_dir,
            None if listen is None else Listen.parse(listen),
            kafka_settings(bootstrap),
            read_stamps(),
        )
        if not once:
            serve(plan, settings, make_log())
        elif not poll_once(plan, settings, make_log(), accepted):
            raise typer.Exit(ATTENTION)
    except (FeedStateStoreError, SettingsError, ValueError) as error:
        fail(str(error))


def _settings(given: dict[str, Any]) -> "FeedsSettings":
    """Return the settings of the feeds. Exit 2 if one is invalid.

    An option in `given` that is not None replaces the setting of the environment.
    """
    from pydantic import ValidationError

    from pipeline.config import FeedsSettings

    try:
        return FeedsSettings(**{name: one for name, one in given.items() if one is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        fail(f"DRYDOCK_FEEDS_{name}: {first['msg']}")


def _sources(names: list[str]) -> list[Any]:
    """Return the names of feeds as given. Exit 2 if one is unknown."""
    from pipeline.ingest.sources import FEED_DIFFS

    for name in names:
        if name not in FEED_DIFFS:
            fail(f"unknown feed {name!r}; one of: {', '.join(FEED_DIFFS)}")
    return list(names)
