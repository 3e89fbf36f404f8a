"""`drydock keys`: make, rotate, retire and list the keys of each purpose."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pipeline.cli.output import emit, fail

if TYPE_CHECKING:
    from pipeline.signing_keys import KeyStore
    from runtime.trusted_keys import Purpose

T = TypeVar("T")

app = typer.Typer(
    help="Make, rotate, retire and list signing keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Directory = Annotated[
    Path, typer.Option("--dir", help="The key directory; agents need only its `trust` folder.")
]
Which = Annotated[
    str,
    typer.Option(
        "--purpose",
        help="What the key signs: jobs, control (halts, policies), approvals, records (reports of"
        " Macs, by gateways), all; or service: jobs and control.",
    ),
]
One = Annotated[
    str, typer.Option("--purpose", help="What the key signs: jobs, control, approvals or records.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@app.command("make")
def make(directory: Directory, purpose: Which = "service", as_json: AsJson = False) -> None:
    """Make the first key for each purpose.

    Without --purpose no key for approvals: a person who approves erasing jobs makes it, and keeps
    it apart from the keys of the service.
    """
    _change("make", directory, purpose, as_json=as_json)


@app.command("rotate")
def rotate(directory: Directory, purpose: Which = "service", as_json: AsJson = False) -> None:
    """Sign with a new key. The old public key stays trusted until it is retired.

    Running programs use it within seconds. After a rotation of the key for control, repeat on Kafka
    `policy publish` and each halt before the old key is retired: they are signed with the old key.
    """
    _change("rotate", directory, purpose, as_json=as_json)


@app.command("retire")
def retire(
    keyid: Annotated[str, typer.Argument(help="The id of the key to retire.")],
    directory: Directory,
    purpose: One = "jobs",
    as_json: AsJson = False,
) -> None:
    """Stop trusting an old key.

    What it signed is refused from then on, within seconds in running programs: jobs that have not
    begun, approvals, and on Kafka halts, policies and reports of Macs.
    """
    store, purposes = _open(directory, purpose)
    if len(purposes) != 1:
        fail("retire one purpose at a time: jobs, control, approvals or records")
    _try(lambda: store.retire(purposes[0], keyid))
    _print_change("retired", purposes[0], keyid, as_json=as_json)


@app.command("list")
def list_keys(directory: Directory, as_json: AsJson = False) -> None:
    """List the keys: purpose, id, role, time of creation."""
    store, _ = _open(directory, "all")
    for key in _try(lambda: store.keys(_report)):
        created_at = key.created_at.isoformat() if key.created_at else None
        if as_json:
            emit(
                json.dumps(
                    {
                        "purpose": key.purpose.value,
                        "keyid": key.keyid,
                        "signs": key.signs,
                        "trusted": key.trusted,
                        "created_at": created_at,
                    }
                )
            )
        else:
            role = "signs" if key.signs else "trusted"
            emit(f"{key.purpose.value:<10} {key.keyid}  {role:<8} {created_at or ''}".rstrip())


def _report(problem: str) -> None:
    sys.stderr.write(f"drydock: {problem}\n")


def _change(what: str, directory: Path, purpose: str, *, as_json: bool) -> None:
    """Make or rotate (`what`) the key of each purpose, and print the new key ids.

    Exit 2, with no key changed, if a key to make exists or a key to rotate is missing. Exit 2 also
    if a file cannot be written; then the keys that were printed have changed.
    """
    store, purposes = _open(directory, purpose)
    # All are checked before any is changed: a directory with half of the keys is of no use.
    for each in purposes:
        current = _try(partial(store.current, each))
        if what == "make" and current is not None:
            fail(f"a key for {each} exists ({current}); rotate it instead")
        if what == "rotate" and current is None:
            fail(f"no key for {each} to rotate; make one first")
    change, done = (store.make, "made") if what == "make" else (store.rotate, "rotated")
    for each in purposes:
        _print_change(done, each, _try(partial(change, each)), as_json=as_json)


def _open(directory: Path, purpose: str) -> "tuple[KeyStore, list[Purpose]]":
    """Return the key store, and the purposes that the option selects. Exit 2 if it is unknown."""
    from pipeline.signing_keys import KeyStore
    from runtime.trusted_keys import Purpose

    if purpose == "all":
        return KeyStore(directory), list(Purpose)
    if purpose == "service":
        return KeyStore(directory), [Purpose.JOBS, Purpose.CONTROL]
    try:
        return KeyStore(directory), [Purpose(purpose)]
    except ValueError:
        fail(f"unknown purpose {purpose!r}; use jobs, control, approvals, records, service or all")


def _try(work: Callable[[], T]) -> T:
    """Return the result of `work`. Exit 2 if it raises KeysError."""
    from runtime.trusted_keys import KeysError

    try:
        return work()
    except KeysError as error:
        fail(str(error))


def _print_change(done: str, purpose: "Purpose", keyid: str, *, as_json: bool) -> None:
    if as_json:
        emit(json.dumps({"done": done, "purpose": purpose.value, "keyid": keyid}))
    else:
        emit(f"{done} {purpose.value} key {keyid}")
