"""`drydock schemas`: write or check the JSON Schemas and the AsyncAPI document of the wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import emit, fail, fail_attention

DEFAULT_FOLDER = Path("schemas/published")


def schemas(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = DEFAULT_FOLDER,
    check: Annotated[bool, typer.Option(help="Write nothing; exit 1 if a file is stale.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per line.")
    ] = False,
) -> None:
    """Write the JSON Schemas and the AsyncAPI document.

    Refuses to write an incompatible change, which would break readers of older records: add a v2
    beside v1 instead.
    """
    wanted = _wanted()
    try:
        present = {path.name: path.read_bytes() for path in sorted(out.glob("*.json"))}
    except OSError as error:
        fail(f"cannot read {out}: {error.strerror}")
    broken = list(_breaks(present, wanted))
    for where in broken:
        _print_result(as_json, "breaks", where)
    if check:
        _check(present, wanted, as_json=as_json)
    if broken:
        fail_attention(
            f"incompatible changes: {len(broken)}; nothing was written: add a v2 beside v1"
        )
    if check:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in wanted.items():
            if present.get(name) != content:
                (out / name).write_bytes(content)
                _print_result(as_json, "written", str(out / name))
    except OSError as error:
        fail(f"cannot write to {out}: {error.strerror}")


def _wanted() -> dict[str, bytes]:
    """Return the content of each published file by its name, made from the code."""
    from pipeline.policy.model import policy_schema
    from schemas.publish import published

    return published({"policy": policy_schema()})


def _breaks(present: dict[str, bytes], wanted: dict[str, bytes]) -> Iterator[str]:
    """Yield one line for each incompatible change from the present files to the wanted ones.

    Exit 2 if a present file is not JSON.
    """
    import json

    from schemas.compatibility import breaks
    from schemas.publish import ASYNCAPI_NAME

    for name, content in present.items():
        if name == ASYNCAPI_NAME:
            continue
        if name not in wanted:
            yield f"{name}: no longer published"
            continue
        try:
            old = json.loads(content)
        except ValueError:
            fail(f"{name} is not JSON")
        for change in breaks(old, json.loads(wanted[name])):
            yield f"{name}: {change}"


def _check(present: dict[str, bytes], wanted: dict[str, bytes], *, as_json: bool) -> None:
    """Print each file that differs from the code. Exit 1 if there is one."""
    import difflib

    stale = [name for name in sorted(present | wanted) if present.get(name) != wanted.get(name)]
    for name in stale:
        lines = difflib.unified_diff(
            present.get(name, b"").decode(errors="replace").splitlines(),
            wanted.get(name, b"").decode().splitlines(),
            f"published/{name}",
            f"code/{name}",
            n=1,
            lineterm="",
        )
        _print_result(as_json, "stale", "\n".join(lines) if not as_json else name)
    if stale:
        fail_attention(f"stale files: {len(stale)}; run `drydock schemas`")


def _print_result(as_json: bool, what: str, where: str) -> None:
    import json

    emit(json.dumps({"result": what, "where": where}) if as_json else f"{what} {where}")
