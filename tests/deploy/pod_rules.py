"""Rules of pods: each rule takes all objects of a release and returns its complaints."""

import re
from collections.abc import Iterator
from typing import Final

from tests.deploy.chart import Object, containers, of_kind, pod, title, workloads

LOWEST_USER: Final = 10_000
PROBES: Final = {
    "startupProbe": {"/healthz"},
    "livenessProbe": {"/healthz"},
    "readinessProbe": {"/readyz"},
}
_SECRET: Final = re.compile(r"SECRET|PASSWORD|TOKEN|_KEY$", re.IGNORECASE)


def restricted(objects: list[Object]) -> list[str]:
    """Return violations of Pod Security level `restricted`, and of our stricter rules.

    Stricter: the root file system is read-only, no token is mounted, and no service links are set.
    """
    return [
        f"{title(one)}: {complaint}"
        for one in workloads(objects)
        for complaint in (*_pod_restricted(pod(one)), *_containers_restricted(one))
    ]


def _pod_restricted(spec: Object) -> Iterator[str]:
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not set"
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        if security.get(name, 0) < LOWEST_USER:
            yield f"{name} is missing or below {LOWEST_USER}"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is on"
    if any("hostPath" in volume for volume in spec.get("volumes", [])):
        yield "a path of the node is mounted"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token is mounted"
    if spec.get("enableServiceLinks") is not False:
        yield "Services become variables named DRYDOCK_*"


def _containers_restricted(workload: Object) -> Iterator[str]:
    for each in containers(workload):
        security = each.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{each['name']} may gain privileges"
        if security.get("privileged"):
            yield f"{each['name']} is privileged"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{each['name']} may write to its image"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{each['name']} has capabilities"


def bounded(objects: list[Object]) -> list[str]:
    """Return each container without requests or a memory limit, and each emptyDir without a limit.

    No CPU limit: a throttled consumer misses heartbeats and loses its partitions.
    """
    complaints = []
    for one in workloads(objects):
        for each in containers(one):
            resources = each.get("resources", {})
            missing = {"cpu", "memory"} - set(resources.get("requests", {}))
            complaints += [
                f"{title(one)}: {each['name']} requests no {name}" for name in sorted(missing)
            ]
            if "memory" not in resources.get("limits", {}):
                complaints.append(f"{title(one)}: {each['name']} has no memory limit")
        complaints += [
            f"{title(one)}: {volume['name']} has no size limit"
            for volume in pod(one).get("volumes", [])
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]
        ]
    return complaints


def probed(objects: list[Object]) -> list[str]:
    """Return each server without three probes at known paths and at a port of its container."""
    complaints = []
    for one in of_kind(objects, "StatefulSet", "Deployment"):
        for each in pod(one)["containers"]:
            ports = {port["name"] for port in each.get("ports", [])}
            for probe, paths in PROBES.items():
                asked = each.get(probe, {}).get("httpGet", {})
                if asked.get("path") not in paths:
                    complaints.append(f"{title(one)}: {probe} asks {asked.get('path')}")
                if asked.get("port") not in ports:
                    complaints.append(f"{title(one)}: {probe} asks at no port of the container")
    return complaints


def pinned(objects: list[Object]) -> list[str]:
    """Return each image without a digest or a tag other than `latest`."""
    complaints = []
    for one in workloads(objects):
        for each in containers(one):
            image = each["image"]
            _, colon, tag = image.rpartition(":")
            if "@sha256:" not in image and (not colon or "/" in tag or tag in {"", "latest"}):
                complaints.append(f"{title(one)}: {image} is not pinned")
    return complaints


def secretless(objects: list[Object]) -> list[str]:
    """Return each secret in the release itself: a Secret, or a variable with a plain value."""
    complaints = [f"{title(one)}: is in the release" for one in of_kind(objects, "Secret")]
    for one in workloads(objects):
        complaints += [
            f"{title(one)}: {variable['name']} is plain"
            for each in containers(one)
            for variable in each.get("env", [])
            if _SECRET.search(variable["name"]) and "value" in variable
        ]
    for one in of_kind(objects, "ConfigMap"):
        complaints += [f"{title(one)}: {name} is plain" for name in one["data"] if _secret(name)]
    return complaints


def _secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def ends_in_time(objects: list[Object]) -> list[str]:
    """Return each pod whose grace period is too short for its preStop sleep and its drain."""
    complaints = []
    for one in of_kind(objects, "StatefulSet", "Deployment"):
        grace_s = pod(one).get("terminationGracePeriodSeconds", 30)
        for each in pod(one)["containers"]:
            drains = [arg for arg in each["args"] if arg.startswith("--drain-s=")]
            needs_s = sum(int(arg.partition("=")[2]) for arg in drains)
            stop = each.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            needs_s += int(stop.get("seconds", 0))
            if grace_s <= needs_s:
                complaints.append(f"{title(one)}: killed after {grace_s} s, needs {needs_s} s")
    return complaints


def restarted(objects: list[Object]) -> list[str]:
    """Return each pod without a checksum of a ConfigMap that it reads.

    The checksum starts the pods again when the ConfigMap changes. A hook runs at each change of the
    release, so it needs none.
    """
    made = {one["metadata"]["name"].rpartition("-")[2] for one in of_kind(objects, "ConfigMap")}
    complaints = []
    for one in workloads(objects):
        if "helm.sh/hook" in one["metadata"].get("annotations", {}):
            continue
        marks = one["spec"]["template"]["metadata"].get("annotations", {})
        read = {
            source["configMapRef"]["name"].rpartition("-")[2]
            for each in containers(one)
            for source in each.get("envFrom", [])
            if "configMapRef" in source
        } | {
            volume["configMap"]["name"].rpartition("-")[2]
            for volume in pod(one).get("volumes", [])
            if "configMap" in volume
        }
        complaints += [
            f"{title(one)}: no checksum/{name}"
            for name in sorted(read & made)
            if not re.fullmatch("[0-9a-f]{64}", marks.get(f"checksum/{name}", ""))
        ]
    return complaints


RULES: Final = (
    restricted,  # no privileges, read-only root
    bounded,  # requests and limits
    probed,  # startup, liveness, readiness
    pinned,  # a digest, or a tag other than latest
    secretless,  # secrets come from outside the release
    ends_in_time,  # grace period fits preStop and drain
    restarted,  # changed settings start pods again
)
