"""Halts for a fleet on Kafka: `drydock halt` and `resume` publish to the control topic.

Every agent reads that topic itself and applies a change within seconds.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli.output import fail, note

if TYPE_CHECKING:
    from agents.halts import HaltBook
    from pipeline.cli.control_topic import Fleet
    from runtime.kafka import KafkaSettings
    from schemas.envelope import HaltClearedEvent, HaltSetEvent
    from schemas.events.control import HaltScope

    MakeEvent = Callable[[datetime], HaltSetEvent | HaltClearedEvent]

ScopeName = Annotated[
    str | None,
    typer.Argument(
        help="all, site:<site>, site:<site>/<action> such as site:london/reinstall, or"
        " advisory:<id> such as advisory:macOS-26.2."
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="Equal to the scope `all`.")]
OneSite = Annotated[str | None, typer.Option("--site", help="Equal to `site:<site>`.")]
OneAdvisory = Annotated[str | None, typer.Option("--advisory", help="Equal to `advisory:<id>`.")]
Bootstrap = Annotated[
    str | None,
    typer.Option(help="Kafka brokers, separated by commas; default: DRYDOCK_KAFKA_BOOTSTRAP."),
]

KeysDir = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        envvar="DRYDOCK_KEYS_DIR",
        help="For a fleet on Kafka: the directory with the key that signs control events.",
    ),
]


# The clocks of workers and operators differ.
_CLOCK_MARGIN: Final = timedelta(minutes=5)


def refuse_two_forms(data_dir: Path | None, bootstrap: str | None) -> None:
    """End the command with exit 2 if both an embedded service and a fleet on Kafka are given."""
    if data_dir is not None and bootstrap is not None:
        fail("--data-dir is an embedded service, --bootstrap a fleet on Kafka: choose one")


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
    fleet: "Fleet", scope: "HaltScope", make: "MakeEvent", *, resumes: bool = False
) -> None:
    """Publish a change of halts; return once it is in the control topic.

    `make` gives the event for a time. The time is now, or just after the last change of the scope
    if the clock of that change's sender is ahead of ours: the event with the later time wins.
    `resumes` is True for an event that clears a halt. Exit 2 if the site has no job topic, the
    scope to resume is not halted, or Kafka does not confirm the event.
    """
    from pipeline.cli.control_topic import FAULTS, publish, unconfirmed

    settings = fleet.settings
    try:
        book = _read_halts(fleet)
        if scope.action is not None:
            _add_automatic_halts(settings, book)
        _check_scope(settings, scope, book, resumes=resumes)
        now, changed_at = datetime.now(UTC), book.changed_at(scope)
        if changed_at is not None:
            now = max(now, changed_at + timedelta(microseconds=1))
        publish(fleet, make(now))
    except FAULTS as error:
        fail(unconfirmed(settings, error))


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
        note(f"{advisory_id!r} is not compared with the known releases: {one_line_error(error)}")
        return
    if known and advisory_id not in known:
        fail(unknown_advisory(advisory_id, known))


def _read_halts(fleet: "Fleet") -> "HaltBook":
    """Return the halts that the control topic has now. Raises one of FAULTS."""
    from agents.halts import HaltBook, decode_halt
    from pipeline.cli.control_topic import read_control
    from schemas.envelope import InvalidEvent
    from schemas.signing import SignatureError

    book = HaltBook()
    for raw in read_control(fleet.settings):
        try:
            event = decode_halt(raw, fleet.trusted)
        except (InvalidEvent, SignatureError):
            continue
        if event is not None:
            book.apply(event)
    return book


def _add_automatic_halts(settings: "KafkaSettings", book: "HaltBook") -> None:
    """Add the halts of actions that Drydock itself set. Raises one of FAULTS.

    The key that signs them is not read: an operator may not have its public half, and a forged halt
    can only be cleared. A time in the future is not used: the clearing would need a later time
    still.
    """
    from pipeline.cli.control_topic import read_values
    from schemas.envelope import HaltSetEvent, InvalidEvent, decode
    from schemas.topics import HALTS

    for raw in read_values(settings, HALTS.name):
        try:
            event = decode(raw)
        except InvalidEvent:
            continue
        if isinstance(event, HaltSetEvent) and event.data.is_automatic:
            is_known = event.time <= datetime.now(UTC) + _CLOCK_MARGIN
            book.apply(event if is_known else event.model_copy(update={"time": datetime.now(UTC)}))
