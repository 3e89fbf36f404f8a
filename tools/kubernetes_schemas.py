"""Unpack Kubernetes' JSON Schemas so that kubeconform can use them without a network, and fast.

    python tools/kubernetes_schemas.py kubernetes_validate-*.whl FOLDER 1.31.0 1.37.0

FOLDER/<version>/<kind>-<group>-<version>.json, each with the definitions that it needs and no
others. In the wheel they refer to one large file by an `$id` on kubernetes.io: kubeconform would
ask there, and reports what it cannot get as "could not find schema". They are the strict ones,
which refuse unknown fields; kubeconform's own -strict only looks at another place for them.
"""

import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

INSIDE: Final = "kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/"
DEFINITIONS: Final = "_definitions.json"
# A definition with this field is an object, and not a part of one.
OBJECT: Final = "x-kubernetes-group-version-kind"


def unpack(wheel: Path, folder: Path, versions: Sequence[str]) -> None:
    """Write the schemas of `versions`. Raises ValueError for one that the wheel does not have."""
    with zipfile.ZipFile(wheel) as archive:
        for version in versions:
            start = INSIDE.format(version=version)
            names = [name for name in archive.namelist() if name.startswith(start)]
            if not names:
                raise ValueError(f"{wheel.name} has no schemas of Kubernetes {version}")
            to = folder / version
            to.mkdir(parents=True)
            definitions = json.loads(archive.read(start + DEFINITIONS))["$defs"]
            for name in names:
                schema = json.loads(archive.read(name))
                if OBJECT in schema:
                    (to / Path(name).name).write_text(json.dumps(_closed(schema, definitions)))


def _closed(schema: Any, definitions: Any) -> Any:
    """The schema with all that it refers to inside it."""
    needed: dict[str, Any] = {}
    waiting = [*_referred(schema)]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = definitions[name]
            waiting += _referred(needed[name])
    without_id = {key: value for key, value in schema.items() if key != "$id"}
    return _local(without_id | {"$defs": needed})


def _referred(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield _name(node["$ref"])
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _referred(each)


def _local(node: Any) -> Any:
    if isinstance(node, list):
        return [_local(each) for each in node]
    if not isinstance(node, dict):
        return node
    local = {key: _local(value) for key, value in node.items()}
    if isinstance(node.get("$ref"), str):
        local["$ref"] = f"#/$defs/{_name(node['$ref'])}"
    return local


def _name(reference: str) -> str:
    return reference.rpartition("#/$defs/")[2]


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
