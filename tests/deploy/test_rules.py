"""Each rule of rendered objects finds each planted violation and names its object."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy import pod_rules, wiring_rules
from tests.deploy.chart import Helm, Object, named, pod

Rule = Callable[[list[Object]], list[str]]
Break = Callable[[list[Object]], object]


def worker(objects: list[Object]) -> Object:
    return pod(named(objects, "StatefulSet", "-worker"))


def main(objects: list[Object]) -> Object:
    found: Object = worker(objects)["containers"][0]
    return found


def at(*path: str, to: Any, of: Callable[[list[Object]], Object] = worker) -> Break:
    """Return a change that sets the value at a path, or removes it if `to` is None."""

    def change(objects: list[Object]) -> None:
        node = of(objects)
        for name in path[:-1]:
            node = node.setdefault(name, {})
        if to is None:
            del node[path[-1]]
        else:
            node[path[-1]] = to

    return change


def of(kind: str, suffix: str) -> Callable[[list[Object]], Object]:
    return lambda objects: named(objects, kind, suffix)


def renamed(kind: str, suffix: str, name: str) -> Break:
    return at("metadata", "name", to=name, of=of(kind, suffix))


def removed(kind: str, suffix: str) -> Break:
    return lambda objects: objects.remove(named(objects, kind, suffix))


def added(one: Object) -> Break:
    return lambda objects: objects.append(one)


def appended(*path: str, one: Any, to: Callable[[list[Object]], Object] = worker) -> Break:
    def change(objects: list[Object]) -> None:
        node: Any = to(objects)
        for name in path:
            node = node[name]
        node.append(one)

    return change


def start(objects: list[Object]) -> Object:
    found: Object = worker(objects)["initContainers"][0]
    return found


def template(objects: list[Object]) -> Object:
    found: Object = named(objects, "StatefulSet", "-worker")["spec"]["template"]["metadata"]
    return found


LABELS = {"app.kubernetes.io/name": "drydock", "app.kubernetes.io/instance": "rel"}
SECURITY = "securityContext"
AGENT = of("StatefulSet", "-agent-london")
GATEWAY = of("Service", "-gateway")
BUDGET = of("PodDisruptionBudget", "-worker")

BROKEN: list[tuple[Rule, Break, str, str]] = [
    # Privileges of pods.
    (pod_rules.restricted, at(SECURITY, "runAsNonRoot", to=None), "runAsNonRoot", "root"),
    (pod_rules.restricted, at(SECURITY, "runAsUser", to=0), "runAsUser", "user-0"),
    (pod_rules.restricted, at(SECURITY, "fsGroup", to=None), "fsGroup", "no-group"),
    (pod_rules.restricted, at(SECURITY, "seccompProfile", to=None), "seccomp", "no-seccomp"),
    (pod_rules.restricted, at("hostNetwork", to=True), "hostNetwork", "host-network"),
    (
        pod_rules.restricted,
        appended("volumes", one={"name": "x", "hostPath": {"path": "/"}}),
        "path of the node",
        "host-path",
    ),
    (pod_rules.restricted, at("automountServiceAccountToken", to=None), "token", "token"),
    (pod_rules.restricted, at("enableServiceLinks", to=None), "DRYDOCK_", "links"),
    (
        pod_rules.restricted,
        at(SECURITY, "allowPrivilegeEscalation", to=True, of=main),
        "worker may gain",
        "escalation",
    ),
    (
        pod_rules.restricted,
        at(SECURITY, "readOnlyRootFilesystem", to=None, of=start),
        "keys may write",
        "init-container-writes",
    ),
    (
        pod_rules.restricted,
        at(SECURITY, "capabilities", to={"drop": ["ALL"], "add": ["NET_RAW"]}, of=main),
        "capabilities",
        "capability",
    ),
    (
        pod_rules.restricted,
        at(SECURITY, "privileged", to=True, of=main),
        "privileged",
        "privileged",
    ),
    # Resources, probes, images, secrets, and the end of pods.
    (pod_rules.bounded, at("resources", "limits", to={}, of=main), "no memory limit", "no-limit"),
    (pod_rules.bounded, at("resources", "requests", "cpu", to=None, of=main), "no cpu", "no-cpu"),
    (
        pod_rules.bounded,
        appended("volumes", one={"name": "x", "emptyDir": {}}),
        "x has no size",
        "endless-volume",
    ),
    (pod_rules.probed, at("livenessProbe", to=None, of=main), "livenessProbe", "no-probe"),
    (pod_rules.probed, at("readinessProbe", "httpGet", "path", to="/", of=main), "asks /", "path"),
    (pod_rules.probed, at("ports", to=[], of=main), "no port of the container", "probe-port"),
    (pod_rules.pinned, at("image", to="drydock:latest", of=main), "latest", "latest"),
    (pod_rules.pinned, at("image", to="localhost:5000/drydock", of=main), "not pinned", "no-tag"),
    (pod_rules.secretless, added({"kind": "Secret", "metadata": {"name": "x"}}), "x", "secret"),
    (
        pod_rules.secretless,
        appended("env", one={"name": "A_PASSWORD", "value": "x"}, to=main),
        "A_PASSWORD is plain",
        "variable",
    ),
    (
        pod_rules.secretless,
        at("data", "DRYDOCK_KAFKA_SASL_PASSWORD", to="x", of=of("ConfigMap", "-settings")),
        "is plain",
        "setting",
    ),
    (
        pod_rules.ends_in_time,
        at("spec", "template", "spec", "terminationGracePeriodSeconds", to=60, of=AGENT),
        "killed after 60 s, needs 60 s",
        "no-time-to-end",
    ),
    (
        pod_rules.ends_in_time,
        at("lifecycle", to={"preStop": {"sleep": {"seconds": 60}}}, of=main),
        "needs 60 s",
        "long-sleep",
    ),
    (
        pod_rules.restarted,
        at("annotations", "checksum/settings", to=None, of=template),
        "no checksum/settings",
        "no-checksum",
    ),
    # References between objects.
    (wiring_rules.names_valid, renamed("Service", "-gateway", "UPPER_case"), "UPPER", "name"),
    (
        wiring_rules.names_valid,
        renamed("StatefulSet", "-worker", "w" * 53),
        "too long",
        "long-name",
    ),
    (
        wiring_rules.names_valid,
        renamed("StatefulSet", "-worker", "rel-drydock-gateway"),
        "twice",
        "same-name",
    ),
    (wiring_rules.names_valid, at("labels", "team", to="a b", of=template), "'a b'", "label"),
    (wiring_rules.names_valid, at("labels", "team", to=True, of=template), "True", "label-type"),
    (
        wiring_rules.selectors_match,
        at("labels", "app.kubernetes.io/component", to="work", of=template),
        "does not select its own",
        "own-pods",
    ),
    (
        wiring_rules.selectors_match,
        at("spec", "selector", "matchLabels", to=LABELS, of=of("StatefulSet", "-worker")),
        "selects pods of StatefulSet/rel-drydock-gateway",
        "others-pods",
    ),
    (
        wiring_rules.selectors_match,
        at("spec", "selector", to={"app": "other"}, of=GATEWAY),
        "Service/rel-drydock-gateway: selects no pod",
        "service",
    ),
    (
        wiring_rules.selectors_match,
        at("spec", "podSelector", "matchLabels", to={}, of=of("NetworkPolicy", "-gateway")),
        "selects no pod",
        "policy",
    ),
    (
        wiring_rules.selectors_match,
        at("topologySpreadConstraints", to=[{"labelSelector": {"matchLabels": LABELS}}]),
        "spreads pods",
        "spread",
    ),
    (
        wiring_rules.drained_slowly,
        removed("PodDisruptionBudget", "-worker"),
        "rel-drydock-worker: has 0",
        "no-budget",
    ),
    (
        wiring_rules.drained_slowly,
        at("spec", "selector", "matchLabels", to=LABELS, of=BUDGET),
        "rel-drydock-gateway: has 2",
        "two-budgets",
    ),
    (
        wiring_rules.drained_slowly,
        at("spec", "maxUnavailable", to=0, of=BUDGET),
        "does not let one pod go",
        "no-drain",
    ),
    (
        wiring_rules.ports_exist,
        at("spec", "ports", to=[{"port": 80, "targetPort": "web"}], of=GATEWAY),
        "no pod has the port web",
        "service-port",
    ),
    (
        wiring_rules.ports_exist,
        at("spec", "podMetricsEndpoints", to=[{"port": "web"}], of=of("PodMonitor", "")),
        "no pod has the port web",
        "monitor-port",
    ),
    (
        wiring_rules.ports_exist,
        at("spec", "ports", to=[{"port": 99999, "targetPort": "http"}], of=GATEWAY),
        "99999 is no port",
        "no-port",
    ),
    (
        wiring_rules.ports_exist,
        renamed("Service", "-gateway", "other"),
        "Ingress/rel-drydock-gateway: leads to no Service",
        "ingress",
    ),
    (
        wiring_rules.references_exist,
        removed("ServiceAccount", "-worker"),
        "ServiceAccount/rel-drydock-worker is missing",
        "no-account",
    ),
    (
        wiring_rules.references_exist,
        removed("ConfigMap", "-settings"),
        "ConfigMap/rel-drydock-settings is missing",
        "no-settings",
    ),
    (
        wiring_rules.references_exist,
        removed("Service", "-worker"),
        "Service/rel-drydock-worker is missing",
        "no-service",
    ),
    (
        wiring_rules.references_exist,
        added({"kind": "ServiceAccount", "metadata": {"name": "idle"}}),
        "ServiceAccount/idle: no workload",
        "idle-account",
    ),
    (
        wiring_rules.references_exist,
        at("volumes", to=[]),
        "volume keys is missing",
        "no-volume",
    ),
    (
        wiring_rules.references_exist,
        appended("volumes", one={"name": "idle", "emptyDir": {}}),
        "volume idle is not used",
        "idle-volume",
    ),
    (
        wiring_rules.references_exist,
        appended("volumeMounts", one={"name": "keys", "mountPath": "/var/lib/drydock"}, to=main),
        "two volumes at one path",
        "same-path",
    ),
]


@pytest.mark.parametrize(
    ("rule", "change", "expected"),
    [pytest.param(*row[:3], id=f"{row[0].__name__}-{row[3]}") for row in BROKEN],
)
def test_planted_violation_is_found(helm: Helm, rule: Rule, change: Break, expected: str) -> None:
    objects = helm.objects("production")
    change(objects)
    found = rule(objects)
    assert any(expected in complaint for complaint in found), found


def test_every_rule_has_a_planted_violation() -> None:
    assert {row[0] for row in BROKEN} == {*pod_rules.RULES, *wiring_rules.RULES}
