"""`drydock topics`: the topics of a cluster, and the access of each program to them."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import ATTENTION, emit, fail, note
from schemas.topics import DEVICE_PARTITIONS, REPLICATION

if TYPE_CHECKING:
    from pipeline.provisioning.acls import Access
    from pipeline.provisioning.cluster import Cluster
    from pipeline.provisioning.plan import TopicDifference, WantedTopic

app = typer.Typer(
    help="Compare and change the topics of a Kafka cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Bootstrap = Annotated[
    str | None,
    typer.Option(
        "--bootstrap",
        metavar="HOST:PORT",
        help="Kafka brokers, separated by commas; default: DRYDOCK_KAFKA_BOOTSTRAP. The login comes"
        " from DRYDOCK_KAFKA_SECURITY_PROTOCOL and related variables.",
    ),
]
Sites = Annotated[str, typer.Option("--sites", help="Sites with a job topic, separated by commas.")]
Partitions = Annotated[
    int,
    typer.Option("--partitions", min=1, max=4096, help="Partitions of each topic keyed by UDID."),
]
Replication = Annotated[
    int, typer.Option("--replication", min=1, max=32, help="Replicas of each topic.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=1, max=300, help="Seconds to wait for a response.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@app.command("plan")
def plan(
    bootstrap: Bootstrap = None,
    sites: Sites = "",
    partitions: Partitions = DEVICE_PARTITIONS,
    replication: Replication = REPLICATION,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Print differences between the topics and the wanted ones.

    Changes nothing. Exit 0 if there is no difference, 1 if there are some.
    """
    wanted = _wanted(sites, partitions, replication)
    with _cluster(bootstrap, timeout) as cluster:
        found = _compared(cluster, wanted, grow=False)
    for each in found:
        _print_difference(
            each, "refused" if each.obstacle else "differs", each.obstacle, as_json=as_json
        )
    raise typer.Exit(ATTENTION if found else 0)


@app.command("apply")
def apply(
    bootstrap: Bootstrap = None,
    sites: Sites = "",
    partitions: Partitions = DEVICE_PARTITIONS,
    replication: Replication = REPLICATION,
    timeout: Timeout = 10.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Add partitions although that moves keys.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create and change topics as `plan` prints.

    Nothing is deleted or reduced. Topics of others are not touched. Exit 0 if no difference is
    left, 1 if one is, with the reason.
    """
    wanted = _wanted(sites, partitions, replication)
    with _cluster(bootstrap, timeout) as cluster:
        found = _compared(cluster, wanted, grow=yes)
        refused = cluster.apply([each for each in found if each.obstacle is None], wanted)
        for each in found:
            obstacle = each.obstacle or refused.get(each)
            result = "refused" if each.obstacle else "failed" if obstacle else "done"
            _print_difference(each, result, obstacle, as_json=as_json)
        left = any(each.obstacle or refused.get(each) for each in found)
        if found and not left and not cluster.wait_until_shown(wanted):
            fail(
                "the cluster accepted every change but does not show all of them yet:"
                " run `drydock topics plan` again"
            )
    raise typer.Exit(ATTENTION if left else 0)


@app.command("acl")
def acl(
    bootstrap: Bootstrap = None,
    sites: Sites = "",
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="PROGRAM=LOGIN",
            help="The login of a program, such as worker=w1 or agent.london=l1; default:"
            " drydock-PROGRAM, and drydock-agent-SITE.",
        ),
    ] = None,
    apply_them: Annotated[
        bool, typer.Option("--apply", help="Allow in the cluster what is not allowed yet.")
    ] = False,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Print the access that each program needs, and allow it with --apply.

    Nothing is taken away: access of Drydock's logins that is not needed is printed as a note.
    Without --apply no cluster is asked. Exit 1 if the cluster refuses one.
    """
    from pipeline.provisioning.acls import wanted_access

    wanted = wanted_access(_sites(sites), _logins(user or [], _sites(sites)))
    if not apply_them:
        for one in wanted:
            _print_access(one, "wanted", as_json=as_json)
        return
    with _cluster(bootstrap, timeout) as cluster:
        there = cluster.access()
        refused = cluster.allow([one for one in wanted if one not in there])
    for one in wanted:
        result = "exists" if one in there else "failed" if refused[one] else "done"
        _print_access(one, result, refused.get(one), as_json=as_json)
    principals = {one.principal for one in wanted}
    for one in sorted(there - {*wanted}):
        if one.principal in principals:
            note(f"note: {_described(one)} is not needed; left as it is")
    raise typer.Exit(ATTENTION if any(refused.values()) else 0)


def _logins(users: list[str], sites: list[str]) -> dict[str, str]:
    """Return the logins of --user by program, an agent's as `agent.SITE`. Exit 2 for others."""
    from pipeline.provisioning.acls import Program

    programs = [each.value for each in Program if each is not Program.AGENT]
    programs += [f"{Program.AGENT}.{site}" for site in sites]
    found: dict[str, str] = {}
    for each in users:
        program, _, login = each.partition("=")
        if not login or program not in programs:
            known = ", ".join(programs)
            fail(f"--user {each}: use PROGRAM=LOGIN, with one of {known} (--sites has the sites)")
        found[program] = login
    return found


def _described(access: "Access") -> str:
    name = f"{access.name}*" if access.is_prefix else access.name
    return f"{access.principal} {access.operation} {access.resource} {name}"


def _print_access(
    access: "Access", result: str, refusal: str | None = None, *, as_json: bool
) -> None:
    if as_json:
        emit(json.dumps(dataclasses.asdict(access) | {"result": result, "refusal": refusal}))
    else:
        emit(f"{result:<7} {_described(access)}" + (f" ({refusal})" if refusal else ""))


def _wanted(sites: str, partitions: int, replication: int) -> "list[WantedTopic]":
    """Return the topics that the fleet needs. Exit 2 if a name is not the name of a site."""
    from pipeline.provisioning.plan import wanted_topics

    return wanted_topics(_sites(sites), partitions, replication)


def _sites(sites: str) -> list[str]:
    """Return the names of sites, sorted. Exit 2 if one is not the name of a site."""
    from pydantic import TypeAdapter, ValidationError

    from schemas.ids import SiteField

    names = sorted({name.strip() for name in sites.split(",") if name.strip()})
    for name in names:
        try:
            TypeAdapter(SiteField).validate_python(name)
        except ValidationError:
            fail(f"{name!r} is not a site name: use small letters, digits and hyphens, at most 63")
    return names


@contextmanager
def _cluster(bootstrap: str | None, timeout_s: float) -> "Iterator[Cluster]":
    """Yield the connected cluster.

    Exit 2 if the settings are invalid, or if a request to the cluster fails, at the start or in the
    `with` block.
    """
    from pipeline.provisioning.cluster import ClusterError, connected
    from runtime.kafka import SettingsError, kafka_settings
    from runtime.logs import SILENT, silence_kafka_clients

    # The log of the Kafka client is silent: its errors arrive as exceptions, one line each.
    silence_kafka_clients(SILENT)
    try:
        with connected(kafka_settings(bootstrap), timeout_s) as cluster:
            yield cluster
    except (ClusterError, SettingsError) as error:
        fail(str(error))


def _compared(
    cluster: "Cluster", wanted: "list[WantedTopic]", *, grow: bool
) -> "list[TopicDifference]":
    """Return the differences between the cluster's topics and the wanted ones.

    Topics and settings that only the cluster has are noted on stderr. `grow` allows more partitions
    although that moves keys. Raises ClusterError if a request to the cluster fails.
    """
    from pipeline.provisioning.plan import differences, notes

    actual = cluster.topics()
    for found in notes(wanted, actual):
        note(f"note: {found}; left as it is")
    return differences(wanted, actual, brokers=cluster.brokers(), grow=grow)


def _print_difference(
    difference: "TopicDifference", result: str, obstacle: str | None, *, as_json: bool
) -> None:
    if as_json:
        fields = dataclasses.asdict(difference)
        del fields["obstacle"]
        emit(json.dumps(fields | {"result": result, "obstacle": obstacle}))
        return
    what = difference.change.value
    if difference.setting is not None:
        what = f"{what} {difference.setting}"
    if difference.actual is None:
        values = difference.wanted
    else:
        values = f"{difference.actual or '(not set)'} -> {difference.wanted}"
    emit(
        f"{result:<7} {difference.topic}: {what}: {values}" + (f" ({obstacle})" if obstacle else "")
    )
