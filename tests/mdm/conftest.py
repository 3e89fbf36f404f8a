"""Fixtures of the tests that use real MDM servers; all of these tests are slow."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its protocol with a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.kafka.broker_fixtures import empty_kafka, kafka
from tests.mdm.postgres import create_database, postgres, postgres_programs
from tests.mdm.programs import missing_tools, tool
from tests.mdm.servers import MdmServers
from tests.mdm.webhooks import Webhooks, webhook_receiver

__all__ = ["empty_kafka", "kafka"]
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder slow, and ignore the sockets that kafka-python leaves open."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The URL of a PostgreSQL; if it is missing, the test is skipped, and fails in CI."""
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is missing: apt install postgresql, brew install postgresql@15")
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def tools() -> None:
    """The MDM programs; if one is missing, the test is skipped, and fails in CI."""
    missing = missing_tools()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module", params=["filekv", "inmem", "pgsql"])
def servers(
    request: pytest.FixtureRequest, tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MdmServers]:
    """The servers, with NanoMDM on each of its storages in turn."""
    folder = tmp_path_factory.mktemp("mdm")
    if request.param != "pgsql":
        with MdmServers.run(folder / "servers", storage=request.param) as running:
            yield running
        return
    cluster = request.getfixturevalue("cluster")
    database = create_database(cluster, folder.name, tool("nanomdm", "schema.sql"))
    with MdmServers.run(folder / "servers", database=database) as running:
        yield running


@pytest.fixture(scope="module")
def webhooks() -> Iterator[Webhooks]:
    """A receiver of NanoMDM's webhooks."""
    with webhook_receiver() as received:
        yield received


@pytest.fixture(scope="module")
def site(
    webhooks: Webhooks, tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MdmServers]:
    """The servers of one site, on the default storage, with `webhooks`."""
    folder = tmp_path_factory.mktemp("mdm") / "servers"
    with MdmServers.run(folder, webhook_url=webhooks.url) as servers:
        yield servers
