"""Rules of references in a release: each rule takes its objects and returns its complaints.

Schemas check one object at a time, and accept "UPPER_case" as a name and 99999 as a port.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.deploy.chart import Object, containers, of_kind, pod, title, workloads

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ENDLESS: Final = ("StatefulSet", "Deployment")
# A label value has 63 characters at most. Kubernetes puts a StatefulSet's name, a hyphen and a hash
# of ten characters into one.
_LONGEST_STATEFUL_SET: Final = 52


def _labels(workload: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def _selects(selector: Mapping[str, str], workload: Object) -> bool:
    return bool(selector) and selector.items() <= _labels(workload).items()


def names_valid(objects: list[Object]) -> list[str]:
    """Return each name or label that is not valid, too long, or used twice."""
    complaints = []
    for one in objects:
        name = one["metadata"]["name"]
        if not _LABEL.fullmatch(name):
            complaints.append(f"{title(one)}: no DNS label")
        if one["kind"] == "StatefulSet" and len(name) > _LONGEST_STATEFUL_SET:
            complaints.append(f"{title(one)}: too long for its pods' labels")
        labels = [*one["metadata"].get("labels", {}).values()]
        labels += [*_labels(one).values()] if "template" in one.get("spec", {}) else []
        complaints += [
            f"{title(one)}: {value!r} is no label"
            for value in labels
            if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value)
        ]
    twice = Counter(title(one) for one in objects)
    return complaints + [f"{name}: is there twice" for name, count in twice.items() if count > 1]


def selectors_match(objects: list[Object]) -> list[str]:
    """Return each workload that does not select just its own pods, and each selector of no pod."""
    complaints = []
    for one in of_kind(objects, *_ENDLESS):
        selector = one["spec"]["selector"]["matchLabels"]
        found = [other for other in workloads(objects) if _selects(selector, other)]
        if one not in found:
            complaints.append(f"{title(one)}: does not select its own pods")
        complaints += [
            f"{title(one)}: selects pods of {title(other)}" for other in found if other is not one
        ]
        complaints += [
            f"{title(one)}: spreads pods that it does not select"
            for spread in pod(one).get("topologySpreadConstraints", [])
            if spread["labelSelector"]["matchLabels"] != selector
        ]
    complaints += [
        f"{title(one)}: selects no pod"
        for one, selector in _selecting(objects)
        if not any(_selects(selector, other) for other in workloads(objects))
    ]
    return complaints


def _selecting(objects: list[Object]) -> Iterator[tuple[Object, Mapping[str, str]]]:
    for one in of_kind(objects, "Service"):
        yield one, one["spec"]["selector"]
    for one in of_kind(objects, "PodDisruptionBudget", "PodMonitor"):
        yield one, one["spec"]["selector"]["matchLabels"]
    for one in of_kind(objects, "NetworkPolicy"):
        yield one, one["spec"]["podSelector"]["matchLabels"]


def drained_slowly(objects: list[Object]) -> list[str]:
    """Return each workload without exactly one disruption budget that lets one pod go.

    Two on one pod make every eviction fail (kubernetes.io/docs, Disruptions).
    """
    complaints = []
    budgets = of_kind(objects, "PodDisruptionBudget")
    for one in of_kind(objects, *_ENDLESS):
        mine = [each for each in budgets if _selects(each["spec"]["selector"]["matchLabels"], one)]
        if len(mine) != 1:
            complaints.append(f"{title(one)}: has {len(mine)} disruption budgets")
    for each in budgets:
        selector = each["spec"]["selector"]["matchLabels"]
        if sum(_selects(selector, one) for one in workloads(objects)) > 1:
            complaints.append(f"{title(each)}: counts several workloads as one")
        if each["spec"].get("maxUnavailable") != 1:
            complaints.append(f"{title(each)}: does not let one pod go")
    return complaints


def ports_exist(objects: list[Object]) -> list[str]:
    """Return each reference to a port that the selected pods do not have, and each bad number."""
    complaints = []
    for one, selector in _selecting(objects):
        pods = [other for other in workloads(objects) if _selects(selector, other)]
        known = {name for other in pods for name, _ in _ports(other)}
        complaints += [
            f"{title(one)}: no pod has the port {name}"
            for name in _asked_ports(one)
            if name not in known
        ]
    numbers = [(one, number) for one in workloads(objects) for _, number in _ports(one)]
    numbers += [
        (one, port["port"]) for one in of_kind(objects, "Service") for port in one["spec"]["ports"]
    ]
    complaints += [f"{title(one)}: {port} is no port" for one, port in numbers if not _port(port)]
    services = {one["metadata"]["name"]: one for one in of_kind(objects, "Service")}
    for one in of_kind(objects, "Ingress"):
        for rule in one["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                ports = services.get(service["name"], {"spec": {"ports": []}})["spec"]["ports"]
                if service["port"]["name"] not in {port.get("name") for port in ports}:
                    complaints.append(f"{title(one)}: leads to no Service")
    return complaints


def _ports(workload: Object) -> list[tuple[str, Any]]:
    return [
        (port["name"], port["containerPort"])
        for each in containers(workload)
        for port in each.get("ports", [])
    ]


def _port(number: object) -> bool:
    return isinstance(number, int) and 1 <= number <= 65535


def _asked_ports(one: Object) -> list[str]:
    spec = one["spec"]
    if one["kind"] == "Service":
        return [port["targetPort"] for port in spec["ports"]]
    if one["kind"] == "PodMonitor":
        return [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
    if one["kind"] == "NetworkPolicy":
        return [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
    return []


def references_exist(objects: list[Object]) -> list[str]:
    """Return each reference to a missing object or volume, and each unused account or volume."""
    there = {title(one) for one in objects}
    complaints = []
    for one in workloads(objects):
        wanted = [f"ServiceAccount/{pod(one)['serviceAccountName']}"]
        if "serviceName" in one["spec"]:
            wanted.append(f"Service/{one['spec']['serviceName']}")
        wanted += [
            f"ConfigMap/{source['configMapRef']['name']}"
            for each in containers(one)
            for source in each.get("envFrom", [])
            if "configMapRef" in source
        ]
        complaints += [f"{title(one)}: {name} is missing" for name in wanted if name not in there]
        complaints += [f"{title(one)}: {complaint}" for complaint in _volumes(one)]
    used = {pod(one)["serviceAccountName"] for one in workloads(objects)}
    return complaints + [
        f"{title(one)}: no workload uses it"
        for one in of_kind(objects, "ServiceAccount")
        if one["metadata"]["name"] not in used
    ]


def _volumes(workload: Object) -> Iterator[str]:
    there = [volume["name"] for volume in pod(workload).get("volumes", [])]
    there += [
        claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])
    ]
    mounted = set()
    for each in containers(workload):
        paths = [mount["mountPath"] for mount in each.get("volumeMounts", [])]
        if len(set(paths)) < len(paths):
            yield f"{each['name']} mounts two volumes at one path"
        mounted |= {mount["name"] for mount in each.get("volumeMounts", [])}
    if len(set(there)) < len(there):
        yield "two volumes of one name"
    for name in sorted(mounted - set(there)):
        yield f"volume {name} is missing"
    for name in sorted(set(there) - mounted):
        yield f"volume {name} is not used"


RULES: Final = (
    names_valid,  # DNS labels, short enough, unique
    selectors_match,  # own pods only, and at least one
    drained_slowly,  # one disruption budget for each workload
    ports_exist,  # ports of Services, monitors and policies
    references_exist,  # accounts, ConfigMaps, Services and volumes
)
