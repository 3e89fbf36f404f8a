"""Halts for a fleet on Kafka: `drydock halt` and `resume` publish to the control topic.

Every agent reads that topic itself and applies a change within seconds.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import fail

if TYPE_CHECKING:
    from agents.halts import HaltBook
    from runtime.kafka import KafkaSettings
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
    typer.Option(help="Kafka brokers, separated by commas; default: DRYDOCK_KAFKA_BOOTSTRAP."),
]


def scope_key(
    scope: str | None, *, everything: bool, site: str | None, advisory: str | None
) -> str:
    """Return the key of the scope that the options name. Exit 2 if they name none or several."""
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
    """Publish a change of halts; return once it is in the control topic.

    `make` gives the event for a time. The time is now, or just after the last change of the scope
    if the clock of that change's sender is ahead of ours: the event with the later time wins.
    `resumes` is True for an event that clears a halt. Exit 2 if the settings are invalid, the site
    has no job topic, the scope to resume is not halted, or Kafka does not confirm the event.
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
        fail(
            f"NOT confirmed by Kafka at {settings.bootstrap}; fix the cause and run this again:"
            f" {one_line_error(error)}"
        )


def _check_scope(
    settings: "KafkaSettings", scope: "HaltScope", book: "HaltBook", *, resumes: bool
) -> None:
    """Exit 2 if the scope to resume is not halted, or the site or advisory to halt is not known.

    So a misspelt name does not look like a halt. Raises one of FAULTS.
    """
    if resumes:
        in_force = book.in_force(datetime.now(UTC))
        if scope not in in_force:
            halts = ", ".join(halted.key for halted in in_force) or "none"
            fail(f"{scope.key} is not halted; halts in force: {halts}")
        return
    if scope.site is not None:
        check_site(settings, scope.site)
    elif scope.advisory_id is not None:
        _check_advisory(settings, scope.advisory_id)


def check_site(settings: "KafkaSettings", site: str) -> None:
    """Exit 2 if the site has no job topic. Raises one of FAULTS."""
    from kafka import KafkaConsumer  # type: ignore[import-untyped]

    from pipeline.embedded.operator_requests import unknown_site
    from schemas.topics import JOBS

    start, _, end = JOBS.name.partition("{site}")
    with KafkaConsumer(**settings.consumer_options()) as consumer:
        topics = [name for name in consumer.topics() if name.startswith(start)]
    sites = sorted(name.removeprefix(start).removesuffix(end) for name in topics)
    if site not in sites:
        if not sites:
            fail("no site has a job topic: run `drydock topics apply --sites`")
        fail(unknown_site(site, sites))


def _check_advisory(settings: "KafkaSettings", advisory_id: str) -> None:
    """Exit 2 if the fleet knows releases, and none has this advisory.

    A halt must work although the releases cannot be read; then the name is not checked.
    """
    from pipeline.cli.control_topic import FAULTS, one_line_error, read_keys
    from pipeline.embedded.operator_requests import unknown_advisory
    from schemas.topics import ADVISORIES

    try:
        known = read_keys(settings, ADVISORIES.name)
    except FAULTS as error:
        sys.stderr.write(
            f"drydock: {advisory_id!r} is not compared with the known releases:"
            f" {one_line_error(error)}\n"
        )
        return
    if known and advisory_id not in known:
        fail(unknown_advisory(advisory_id, known))


def _read_halts(settings: "KafkaSettings") -> "HaltBook":
    """Return the halts that the control topic has now. Raises one of FAULTS."""
    from agents.halts import HaltBook, decode_halt
    from pipeline.cli.control_topic import read_control

    book = HaltBook()
    for raw in read_control(settings):
        event = decode_halt(raw)
        if event is not None:
            book.apply(event)
    return book
