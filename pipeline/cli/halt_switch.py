"""How `drydock halt` and `resume` reach a fleet on Kafka: a fact in the control topic, confirmed.

Every executor reads that topic by itself, and knows within seconds.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import fail

if TYPE_CHECKING:
    from agents.halts import HaltBook
    from pipeline.connection import KafkaSettings
    from schemas.envelope import HaltClearedEvent, HaltSetEvent
    from schemas.events.control import HaltScope

    MakeEvent = Callable[[datetime], HaltSetEvent | HaltClearedEvent]

ScopeName = Annotated[
    str | None,
    typer.Argument(help="all, site:<site> or advisory:<id>, such as advisory:macOS-26.2."),
]
Everything = Annotated[bool, typer.Option("--all", help="The same as the scope `all`.")]
OneSite = Annotated[str | None, typer.Option("--site", help="The same as `site:<site>`.")]
OneAdvisory = Annotated[str | None, typer.Option("--advisory", help="The same as `advisory:<id>`.")]
Bootstrap = Annotated[
    str | None,
    typer.Option(help="host:port of Kafka, with commas between; else from the environment."),
]


def scope_key(
    scope: str | None, *, everything: bool, site: str | None, advisory: str | None
) -> str:
    """The one scope that was named, in whichever way. Ends the command otherwise."""
    named = [
        *([scope] if scope is not None else []),
        *(["all"] if everything else []),
        *([f"site:{site}"] if site is not None else []),
        *([f"advisory:{advisory}"] if advisory is not None else []),
    ]
    if len(named) != 1:
        fail("name one scope: --all, --site SITE or --advisory ID")
    return named[0]


def publish_halt_change(
    bootstrap: str | None, scope: "HaltScope", make: "MakeEvent", *, resumes: bool = False
) -> None:
    """Have the fact in the control topic before this returns. Ends the command otherwise.

    `make` gives the event for a time: now, or just after the newest fact about the scope, were
    that told by a clock that is ahead; the later fact wins.
    """
    from pipeline.cli.control_topic import FAULTS, fleet_settings, one_line_error, publish

    settings = fleet_settings(bootstrap)
    try:
        book = _read_halts(settings)
        _check_scope(settings, scope, book, resumes=resumes)
        now, changed_at = datetime.now(UTC), book.changed_at(scope)
        if changed_at is not None:
            now = max(now, changed_at + timedelta(microseconds=1))
        publish(settings, make(now))
    except FAULTS as error:
        fail(f"NOT done: Kafka at {settings.bootstrap} did not take it: {one_line_error(error)}")


def _check_scope(
    settings: "KafkaSettings", scope: "HaltScope", book: "HaltBook", *, resumes: bool
) -> None:
    """Nobody shall believe that something stopped, or goes on, because of a misspelt name."""
    from kafka import KafkaConsumer  # type: ignore[import-untyped]

    from schemas.topics import JOBS

    if resumes and scope not in book.in_force(datetime.now(UTC)):
        fail(f"nothing is halted as {scope.key}")
    if scope.site is None or resumes:
        return
    start, _, end = JOBS.name.partition("{site}")
    with KafkaConsumer(**settings.consumer_options()) as consumer:
        topics = [name for name in consumer.topics() if name.startswith(start)]
    sites = sorted(name.removeprefix(start).removesuffix(end) for name in topics)
    if scope.site not in sites:
        fail(f"no site {scope.site!r}; there are {', '.join(sites) or 'none'}")


def _read_halts(settings: "KafkaSettings") -> "HaltBook":
    from agents.halts import HaltBook, decode_halt
    from pipeline.cli.control_topic import read_control

    book = HaltBook()
    for raw in read_control(settings):
        event = decode_halt(raw)
        if event is not None:
            book.apply(event)
    return book
