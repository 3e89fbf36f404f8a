"""Creates Drydock's topics on the broker of a test."""

from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.provisioning.cluster import connected
from pipeline.provisioning.plan import TopicChange, differences, wanted_topics
from runtime.kafka import KafkaConnection
from tests.kafka.brokers import KafkaCluster

# Partitions of every topic keyed by UDID.
PARTITIONS = 4


def make_topics(bootstrap: str, *sites: str) -> None:
    """Create every missing topic, with one copy, as `drydock topics apply` does."""
    wanted = wanted_topics(sites, PARTITIONS, 1)
    with connected(KafkaConnection(bootstrap=bootstrap), 60) as cluster:
        found = differences(wanted, cluster.topics(), brokers=1)
        missing = [one for one in found if one.change is TopicChange.CREATE]
        refused = cluster.apply(missing, wanted)
        assert not any(refused.values()), refused
        names = {one.topic for one in missing}
        assert cluster.wait_until_shown([one for one in wanted if one.name in names])


def run_topics(
    command: str, broker: KafkaCluster | str, *more: str, sites: str = "austin"
) -> Result:
    """Run `drydock topics COMMAND --json` and return its output and exit code."""
    bootstrap = broker if isinstance(broker, str) else broker.bootstrap
    given = ["topics", command, "--bootstrap", bootstrap, "--sites", sites, "--replication", "1"]
    return CliRunner().invoke(app, [*given, "--json", *more])
