"""Drydock's topics on a broker of a test."""

from pipeline.provisioning.cluster import connected
from pipeline.provisioning.plan import Change, differences, wanted_topics
from schemas.connection import KafkaConnection

# Of every topic keyed by UDID.
PARTITIONS = 4


def make_topics(bootstrap: str, *sites: str) -> None:
    """Every topic that is missing, with one copy, as `drydock topics apply` makes them."""
    wanted = wanted_topics(sites, PARTITIONS, 1)
    with connected(KafkaConnection(bootstrap=bootstrap), 60) as cluster:
        found = differences(wanted, cluster.topics(), brokers=1)
        refused = cluster.apply([one for one in found if one.change is Change.CREATE], wanted)
        assert not any(refused.values()), refused
        assert cluster.settles([one for one in wanted if one.name in {f.topic for f in found}])
