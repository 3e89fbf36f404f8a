"""A web page that reads the service through the browser of a person inside the network (A31)."""

import pytest

from tests.security.target import Target

PAGES = ["attacker.example", "attacker.example:8080", "127.0.0.1.attacker.example"]


@pytest.mark.parametrize("host", PAGES)
def test_a31_metrics_are_not_read_under_another_domain(at: Target, host: str) -> None:
    """The page's own domain resolves to the service's address (DNS rebinding)."""
    response = at.http.get("/metrics", headers={"Host": host})
    assert response.status_code == 403
    assert "drydock_" not in response.text
    assert "DRYDOCK_METRICS_HOSTS" in response.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "drydock.fleet.svc"])
def test_a31_metrics_are_read_by_a_scraper(at: Target, host: str) -> None:
    response = at.http.get("/metrics", headers={"Host": host})
    assert response.status_code == 200
    assert "drydock_devices" in response.text


def test_a31_probe_of_a_load_balancer_may_have_any_name(at: Target) -> None:
    assert at.http.get("/readyz", headers={"Host": "drydock.example"}).status_code == 200
