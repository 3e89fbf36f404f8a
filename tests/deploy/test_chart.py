"""The chart renders in every supported shape to valid objects that keep our rules."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.config.file import parse_agent_config
from pipeline.policy.file import read_policy
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, Purpose
from tests.deploy import pod_rules, wiring_rules
from tests.deploy.chart import (
    CHART,
    KUBERNETES,
    ROOT,
    SHAPES,
    Helm,
    HelmError,
    Object,
    containers,
    load,
    named,
    of_kind,
    pod,
    workloads,
)

RULES = (*pod_rules.RULES, *wiring_rules.RULES)


def conforms(kubeconform: Path, folder: Path, version: str, text: str) -> str:
    """Return kubeconform's output for a text; the last line is a summary."""
    schema_location = folder / version / "{{.ResourceKind}}{{.KindSuffix}}.json"
    command = [str(kubeconform), "-strict", "-summary", "-schema-location", str(schema_location)]
    # Custom resources: their schemas are part of the operator. Our own tests check them.
    command += ["-skip", "PodMonitor,PrometheusRule"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("shape", [None, *SHAPES])
def test_chart_passes_helm_lint(helm: Helm, shape: str | None) -> None:
    assert "0 chart(s) failed" in helm.lint(shape)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rendered_objects_match_the_schemas_of_kubernetes(
    helm: Helm, kubeconform: Path, kubernetes_schemas: Path, shape: str, version: str
) -> None:
    output = conforms(kubeconform, kubernetes_schemas, version, helm.text(shape))
    monitors = len(of_kind(helm.objects(shape), "PodMonitor", "PrometheusRule"))
    assert f"Invalid: 0, Errors: 0, Skipped: {monitors}\n" in output


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("replicas:", "replica:", id="unknown-field"),
        pytest.param("serviceName: rel", "serviceName: [rel]", id="wrong-type"),
        pytest.param("kind: StatefulSet", "kind: StatefulSets", id="unknown-kind"),
        pytest.param("apiVersion: apps/v1", "apiVersion: apps/v1beta1", id="removed-version"),
    ],
)
def test_schemas_reject_a_planted_error(
    helm: Helm, kubeconform: Path, kubernetes_schemas: Path, old: str, new: str
) -> None:
    text = helm.text("minimal").replace(old, new)
    output = conforms(kubeconform, kubernetes_schemas, KUBERNETES[0], text)
    assert "Invalid: 0, Errors: 0" not in output


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("shape", SHAPES)
def test_rendered_objects_keep_the_rule(
    helm: Helm, shape: str, rule: Callable[[list[Object]], list[str]]
) -> None:
    assert rule(helm.objects(shape)) == []


def test_template_file_has_one_object_of_the_kind_in_its_name() -> None:
    kinds = {"statefulset", "deployment", "job", "service", "serviceaccount", "configmap"}
    kinds |= {"ingress", "poddisruptionbudget", "networkpolicy", "podmonitor", "prometheusrule"}
    for path in (CHART / "templates").glob("*.yaml"):
        _, _, kind = path.stem.rpartition("-")
        kind_lines = [line for line in path.read_text().splitlines() if line.startswith("kind: ")]
        assert [line.removeprefix("kind: ").lower() for line in kind_lines] == [kind], path.name
        assert kind in kinds


def test_each_site_has_its_own_agents(helm: Helm) -> None:
    sets = [
        one
        for one in of_kind(helm.objects("multi-site"), "StatefulSet")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "agent"
    ]
    sites = [_option(one, "--site") for one in sets]
    assert sites[:2] == ["london", "tokyo"]
    assert len({one["metadata"]["name"] for one in sets}) == len(set(sites)) == 3
    assert [one["spec"]["replicas"] for one in sets] == [3, 2, 2]
    assert [_option(one, "--slots") for one in sets] == ["40", "50", "50"]
    assert [_login(one) for one in sets] == [
        "drydock-kafka",
        "drydock-kafka-tokyo",
        "drydock-kafka",
    ]


def test_agents_read_the_configuration_of_their_release(helm: Helm) -> None:
    objects = helm.objects("production")
    agent = named(objects, "StatefulSet", "-agent-london")
    there = named(objects, "ConfigMap", "-agent")
    (program,) = containers(agent)
    (volume,) = [each for each in pod(agent)["volumes"] if each["name"] == "config"]
    (mount,) = [each for each in program["volumeMounts"] if each["name"] == "config"]
    assert _option(agent, "--config") == f"{mount['mountPath']}/agent.yaml"
    assert volume["configMap"]["name"] == there["metadata"]["name"]
    assert [*parse_agent_config(there["data"]["agent.yaml"]).config.sites] == ["london"]


def test_agents_read_an_existing_configuration_and_files_of_secrets(helm: Helm) -> None:
    agent = named(helm.objects("executors"), "StatefulSet", "-agent-munich")
    (program,) = containers(agent)
    volumes = {each["name"]: each for each in pod(agent)["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in program["volumeMounts"]}
    assert _option(agent, "--config") == f"{mounts['config']}/munich.yaml"
    assert volumes["config"]["configMap"]["name"] == "drydock-munich"
    assert volumes["secrets"]["secret"] == {
        "secretName": "drydock-mdm-munich",
        "defaultMode": 0o440,
    }
    assert mounts["secrets"] == "/etc/drydock/secrets"


def test_agents_without_a_configuration_are_a_dry_run(helm: Helm) -> None:
    agent = named(helm.objects("multi-site"), "StatefulSet", "-agent-london")
    (program,) = containers(agent)
    assert not [arg for arg in program["args"] if arg.startswith("--config")]


def test_changed_configuration_starts_agents_again(helm: Helm) -> None:
    before, after = (
        named(helm.objects("production", over), "StatefulSet", "-agent-london")["spec"]["template"]
        for over in (None, {"agents": {"config": {"inline": "sites: {}"}}})
    )
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]


def test_site_cluster_runs_agents_only(helm: Helm) -> None:
    objects = helm.objects("executors")
    assert {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in objects} == {
        "agent",
        "settings",
    }


def test_signing_keys_reach_workers_only(helm: Helm) -> None:
    objects = helm.objects("production")
    mounting = [
        one["metadata"]["name"]
        for one in of_kind(objects, "StatefulSet", "Deployment", "Job")
        if any(
            volume.get("secret", {}).get("secretName") == "drydock-signing"
            for volume in pod(one)["volumes"]
        )
    ]
    assert mounting == ["rel-drydock-worker"]


def test_client_stays_with_one_pod_of_query(helm: Helm) -> None:
    service = named(helm.objects("production", {"query": {"replicas": 2}}), "Service", "-query")
    assert service["spec"]["sessionAffinity"] == "ClientIP"


def test_query_pods_have_one_network_policy(helm: Helm) -> None:
    asking, scraping = ({"podSelector": {"matchLabels": {"app": one}}} for one in ("ask", "scrape"))
    policy = {"enabled": True, "queryFrom": [asking], "metricsFrom": [scraping]}
    objects = helm.objects("production", {"networkPolicy": policy})
    (ingress,) = named(objects, "NetworkPolicy", "-query")["spec"]["ingress"]
    assert ingress["from"] == [asking, scraping]
    others = named(objects, "NetworkPolicy", "-metrics")["spec"]["podSelector"]
    assert others["matchExpressions"] == [
        {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["query"]}
    ]


def test_stamp_keys_reach_query(helm: Helm) -> None:
    (program,) = containers(named(helm.objects("production"), "StatefulSet", "-query"))
    secrets = [one["secretRef"]["name"] for one in program["envFrom"] if "secretRef" in one]
    assert "drydock-stamps" in secrets


def test_changed_settings_start_pods_again(helm: Helm) -> None:
    before, after = (
        named(helm.objects("minimal", over), "StatefulSet", "-worker")["spec"]["template"]
        for over in (None, {"kafka": {"compression": "gzip"}})
    )
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]
    assert before["spec"] == after["spec"]


def test_changed_topics_give_a_new_job_name(helm: Helm) -> None:
    names = {
        one["metadata"]["name"]
        for over in (
            None,
            {"agents": {"sites": [{"name": "tokyo"}]}},
            {"topics": {"partitions": 8}},
        )
        for one in of_kind(helm.objects("minimal", over), "Job")
        if "-topics-" in one["metadata"]["name"]
    }
    assert len(names) == 3


@pytest.mark.parametrize("shape", ["minimal", "production"])
def test_policy_is_published_after_every_change_of_the_release(helm: Helm, shape: str) -> None:
    objects = helm.objects(shape)
    job = named(objects, "Job", "-policy")
    assert job["metadata"]["annotations"] == {
        "helm.sh/hook": "post-install,post-upgrade,post-rollback",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }
    (program,) = pod(job)["containers"]
    (volume,) = [each for each in pod(job)["volumes"] if each["name"] == "policy"]
    (mount,) = [each for each in program["volumeMounts"] if each["name"] == "policy"]
    assert program["args"][:3] == ["policy", "publish", f"{mount['mountPath']}/policy.yaml"]
    if shape == "minimal":
        there = named(objects, "ConfigMap", "-policy")
        assert volume["configMap"]["name"] == there["metadata"]["name"]
        assert [*there["data"]] == ["policy.yaml"]
    else:
        assert volume["configMap"]["name"] == "fleet-policy"
        assert _login(job) == "drydock-kafka-policy"
    # The command waits less than the Job's deadline, which is less than Helm's wait (5 minutes).
    assert int(_option(job, "--wait-s")) < job["spec"]["activeDeadlineSeconds"] < 300


REFUSED = [
    ("minimal", {"kafka": {"bootstrap": ""}}, "kafka.bootstrap is needed", "no-bootstrap"),
    ("minimal", {"kafka": {"securityProtocol": "SASL_SSL"}}, "existingSecret", "no-login"),
    ("minimal", {"policy": {"inline": ""}}, "policy.inline or policy.existing", "no-policy"),
    ("production", {"gateway": {"ingress": {"host": ""}}}, "ingress.host is needed", "no-host"),
    (
        "minimal",
        {"agents": {"sites": [{"name": "london"}, {"name": "london"}]}},
        "london is there twice",
        "site-twice",
    ),
    ("minimal", {"worker": {"replica": 3}}, "replica", "misspelt-key"),
    ("minimal", {"agents": {"sites": [{"name": "x", "slot": 3}]}}, "slot", "misspelt-site-key"),
    ("minimal", {"image": {"tag": "latest"}}, "tag", "image-latest"),
    (
        "minimal",
        {"gateway": {"extraEnv": [{"name": "DRYDOCK_JAMF_SECRET", "value": "x"}]}},
        "extraEnv",
        "plain-secret",
    ),
    ("minimal", {"worker": {"resources": {"limits": None}}}, "limits", "no-limit"),
]


@pytest.mark.parametrize(
    ("shape", "over", "message"),
    [pytest.param(*row[:3], id=row[3]) for row in REFUSED],
)
def test_invalid_values_are_refused(helm: Helm, shape: str, over: Object, message: str) -> None:
    with pytest.raises(HelmError, match=message):
        helm.text(shape, over)


def test_policy_of_the_minimal_shape_is_valid(helm: Helm) -> None:
    text = named(helm.objects("minimal"), "ConfigMap", "-policy")["data"]["policy.yaml"]
    assert read_policy(text).default_site == "london"


def test_chart_and_tools_support_the_tested_kubernetes_versions() -> None:
    (chart,) = load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={KUBERNETES[0]}-0"
    servers = (ROOT / "tools" / "servers").read_text()
    assert f'KUBERNETES="{" ".join(KUBERNETES)}"' in servers


WORKER_MOUNTS = {
    "signing": "jobs[.-]*",
    "trust/jobs": "trust/jobs/*.pub",
    "trust/approvals": "trust/approvals/*.pub",
    "trust/control": "trust/control/*.pub",
}


@pytest.mark.parametrize(
    ("workload", "mounts", "signs"),
    [
        pytest.param("-worker", WORKER_MOUNTS, Purpose.JOBS, id="worker"),
        pytest.param("-gateway", {"records": "records[.-]*"}, Purpose.RECORDS, id="gateway"),
    ],
)
def test_mounted_keys_are_loaded_by_drydock(
    helm: Helm, tmp_path: Path, workload: str, mounts: dict[str, str], signs: Purpose
) -> None:
    made = KeyStore(tmp_path / "made")
    for purpose in Purpose:
        made.make(purpose)
    # The kubelet mounts Secrets in this way: links to files that the pod's group may read.
    for mount, pattern in mounts.items():
        folder = tmp_path / "etc" / mount
        (folder / "..data").mkdir(parents=True)
        for file in (tmp_path / "made").glob(pattern):
            (folder / "..data" / file.name).write_bytes(file.read_bytes())
            (folder / "..data" / file.name).chmod(0o440)
            (folder / file.name).symlink_to(Path("..data") / file.name)
    (start,) = pod(named(helm.objects("minimal"), "StatefulSet", workload))["initContainers"]
    shell, options, script = start["command"]
    there = script.replace("/etc/drydock", str(tmp_path / "etc")).replace(
        "/run/drydock", str(tmp_path / "run")
    )
    (tmp_path / "run" / "keys").mkdir(parents=True)
    subprocess.run([shell, options, there], check=True)
    keys = tmp_path / "run" / "keys"
    assert KeyStore(keys).signer(signs)
    trusted, every = KeyRing.load(keys), KeyRing.load(tmp_path / "made")
    for purpose in Purpose:
        is_mounted = f"trust/{purpose.value}" in mounts
        assert bool(getattr(trusted, purpose.value)) == is_mounted
        assert not is_mounted or getattr(trusted, purpose.value) == getattr(every, purpose.value)


def _option(workload: Object, option: str) -> str:
    (found,) = [
        arg.partition("=")[2]
        for each in containers(workload)
        for arg in each.get("args", [])
        if arg.startswith(f"{option}=")
    ]
    assert isinstance(found, str)
    return found


def _login(workload: Object) -> str:
    names = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for each in containers(workload)
        for variable in each.get("env", ())
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    (name,) = names
    assert isinstance(name, str)
    return name


AGENT_IMAGES: dict[str, tuple[dict[str, str], str]] = {
    "none": ({}, "registry.example.com/sre/drydock@sha256:"),
    "repository": ({"repository": "r/agent"}, "r/agent:0.1.0"),
    "tag": ({"repository": "r/agent", "tag": "7"}, "r/agent:7"),
    "digest": ({"repository": "r/agent", "digest": f"sha256:{'7' * 64}"}, "r/agent@sha256:777"),
    "no repository": ({"tag": "7"}, "registry.example.com/sre/drydock@sha256:"),
}


@pytest.mark.parametrize(("given", "image"), AGENT_IMAGES.values(), ids=AGENT_IMAGES.keys())
def test_agents_run_their_own_image_if_it_is_named(
    helm: Helm, given: dict[str, str], image: str
) -> None:
    objects = helm.objects("production", {"agents": {"image": given}})
    images: dict[bool, set[str]] = {True: set(), False: set()}
    for one in workloads(objects):
        component = one["metadata"]["labels"]["app.kubernetes.io/component"]
        images[component == "agent"] |= {each["image"] for each in containers(one)}
    (of_agents,), (of_others,) = images[True], images[False]
    assert of_agents.startswith(image)
    assert of_others == containers(workloads(helm.objects("production"))[0])[0]["image"]
