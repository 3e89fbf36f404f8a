"""The chart's files, the objects that Helm renders from them, and functions to select objects."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "drydock"
# Supported versions. `helm template` renders for the first: the oldest that Chart.yaml permits.
KUBERNETES: Final = ("1.31.0", "1.37.0")
RELEASE: Final = "rel"
SHAPES: Final = tuple(
    sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*.yaml"))
)

Object = dict[str, Any]


class HelmError(Exception):
    """Helm failed; the message is its output."""


def load(text: str) -> list[Any]:
    """Return the YAML documents of a text, read as Kubernetes does (YAML 1.1: `yes` is true)."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    return [document for document in yaml.load_all(StringIO(text)) if document is not None]


def values() -> Object:
    """Return the chart's default values."""
    (found,) = load((CHART / "values.yaml").read_text())
    assert isinstance(found, dict)
    return found


def schema() -> Object:
    """Return the chart's values.schema.json."""
    found: Object = json.loads((CHART / "values.schema.json").read_text())
    return found


def tool(name: str) -> Path:
    """Return the folder of a tool of `tools/servers`; it may not exist."""
    command = [str(ROOT / "tools" / "servers"), "path", name]
    folder = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    return ROOT / folder


@dataclass
class Helm:
    """The real Helm on the real chart; the rendered text of each ci shape is cached."""

    program: Path
    folder: Path
    _kept: dict[str, str] = field(default_factory=dict)
    _loaded: dict[str, list[Object]] = field(default_factory=dict)

    def lint(self, shape: str | None) -> str:
        """Return the output of `helm lint --strict`. Raises HelmError."""
        given = [] if shape is None else ["-f", str(_shape_file(shape))]
        return self._run("lint", "--strict", str(CHART), *given)

    def text(self, shape: str, over: Mapping[str, Any] | None = None) -> str:
        """Return the rendered text of a shape; `over` overrides its values. Raises HelmError."""
        if over is None:
            if shape not in self._kept:
                self._kept[shape] = self._template(shape)
            return self._kept[shape]
        file = self.folder / "over.json"
        file.write_text(json.dumps(over))
        return self._template(shape, "-f", str(file))

    def objects(self, shape: str, over: Mapping[str, Any] | None = None) -> list[Object]:
        """Return the rendered objects of a shape; the caller may change them. Raises HelmError."""
        if over is not None:
            return load(self.text(shape, over))
        if shape not in self._loaded:
            self._loaded[shape] = load(self.text(shape))
        return deepcopy(self._loaded[shape])

    def _template(self, shape: str, *more: str) -> str:
        file = str(_shape_file(shape))
        return self._run(
            "template", RELEASE, str(CHART), "--kube-version", KUBERNETES[0], "-f", file, *more
        )

    def _run(self, *arguments: str) -> str:
        # Settings and plugins of the user's own Helm must have no effect.
        environment = {"HOME": str(self.folder), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [str(self.program), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout


def _shape_file(shape: str) -> Path:
    return CHART / "ci" / f"{shape}-values.yaml"


# --- selection of objects ---


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, suffix: str) -> Object:
    """Return the only object of a kind whose name has this suffix."""
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"].endswith(suffix)]
    return found


def workloads(objects: Sequence[Object]) -> list[Object]:
    """Return the objects with a pod template."""
    return of_kind(objects, "StatefulSet", "Deployment", "Job")


def pod(workload: Object) -> Object:
    """Return a workload's pod spec."""
    found: Object = workload["spec"]["template"]["spec"]
    return found


def containers(workload: Object) -> list[Object]:
    """Return a pod's containers, with its init containers."""
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def title(one: Object) -> str:
    """Return kind and name of an object, such as `StatefulSet/rel-drydock-worker`."""
    return f"{one['kind']}/{one['metadata']['name']}"
