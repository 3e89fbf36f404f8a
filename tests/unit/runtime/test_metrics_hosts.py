"""Names in Host by which /metrics may be read."""

import socket

import pytest

from runtime.metrics_hosts import SETTING, MetricsHosts

PERMITTED = (
    *(None, "127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "10.1.2.3:9464", "localhost:80"),
    *("gateway", "gateway:8080", "DRYDOCK.local", "gateway.drydock.svc:8080", "a.internal."),
    *(socket.gethostname(), "metrics.example.com:8080", "METRICS.example.com."),
)
REFUSED = (
    *("attacker.example", "attacker.example:8080", "127.0.0.1.attacker.example", "a.locals"),
    *("metrics.example.com.attacker.example", "1.2.3", "127.0.0.1@attacker.example"),
)


@pytest.mark.parametrize("host", PERMITTED)
def test_name_that_is_no_domain_of_others_is_permitted(host: str | None) -> None:
    assert MetricsHosts({SETTING: "metrics.example.com, "}).permits(host)


@pytest.mark.parametrize("host", REFUSED)
def test_domain_that_anyone_can_register_is_refused(host: str) -> None:
    assert not MetricsHosts({SETTING: "metrics.example.com"}).permits(host)
