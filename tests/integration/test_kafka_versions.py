"""The version and settings of Kafka are equal for the jars and for Docker."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.kafka.brokers import ROOT, KafkaCluster

# Addresses and folders differ inside the container.
OWN_SETTINGS = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}


def compose() -> Any:
    return YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["services"]["kafka"]


def test_version_is_the_same_everywhere() -> None:
    [pom] = re.findall(
        r"<artifactId>kafka_2.13</artifactId>\s*<version>(.*)</version>",
        (ROOT / "tools/kafka/pom.xml").read_text(),
    )
    [tools] = re.findall(r"^KAFKA=(.*)$", (ROOT / "tools/servers").read_text(), re.MULTILINE)
    assert compose()["image"] == f"apache/kafka:{pom}"
    assert tools == pom
    assert f"kafka_2.13-{pom}.jar" in (ROOT / "tools/kafka/jars.sha256").read_text()


def test_docker_and_jars_have_the_same_settings(tmp_path: Path) -> None:
    ours = KafkaCluster(1, tmp_path, (19092, 19093))._settings(1)
    theirs = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in compose()["environment"].items()
        if name != "KAFKA_HEAP_OPTS"
    }
    assert theirs.keys() == ours.keys()
    assert {n: v for n, v in theirs.items() if n not in OWN_SETTINGS} == {
        n: v for n, v in ours.items() if n not in OWN_SETTINGS
    }
