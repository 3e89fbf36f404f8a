"""A Prometheus and an Alertmanager on loopback, as Debian's packages have them."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.kafka.brokers import free_ports
from tests.waiting import wait_until

PACKAGES: Final = {
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
_READY_S: Final = 60.0


def missing_programs() -> str | None:
    """Return the missing programs and the command that installs them; None if none is missing."""
    missing = [package for name, package in PACKAGES.items() if shutil.which(name) is None]
    if not missing:
        return None
    packages = " ".join(missing)
    return f"missing: {packages}; Debian, Ubuntu: apt install {packages}"


@contextmanager
def prometheus(
    folder: Path, target: str, rules: Mapping[str, Any] | None = None, alertmanager: str = ""
) -> Iterator[httpx.Client]:
    """Yield a client of a Prometheus that scrapes the target and evaluates rules each second.

    It sends alerts to the `alertmanager` at this address; without one it sends none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    interval = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config: dict[str, Any] = {
        "global": interval,
        "scrape_configs": [{"job_name": "drydock", "static_configs": [{"targets": [target]}]}],
    }
    if rules is not None:
        (folder / "rules.yml").write_text(json.dumps(rules))
        config["rule_files"] = ["rules.yml"]
    if alertmanager:
        targets = [{"static_configs": [{"targets": [alertmanager]}]}]
        config["alerting"] = {"alertmanagers": targets}
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))
    options = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}")
    with _server("prometheus", options, folder / "prometheus.log") as client:
        yield client


def has_metrics(prometheus: httpx.Client) -> bool:
    """Return True if the last scrape of the service succeeded."""
    response = prometheus.get("/api/v1/query", params={"query": "drydock_ready"})
    return bool(response.raise_for_status().json()["data"]["result"])


@contextmanager
def alertmanager(folder: Path) -> Iterator[httpx.Client]:
    """Yield a client of an Alertmanager without a receiver."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "alertmanager.yml"
    file.write_text(json.dumps({"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}))
    options = (
        *(f"--config.file={file}", f"--storage.path={folder / 'alerts'}"),
        "--cluster.listen-address=",
    )
    log = folder / "alertmanager.log"
    with _server("prometheus-alertmanager", options, log) as client:
        yield client


@contextmanager
def _server(program: str, options: Sequence[str], log_path: Path) -> Iterator[httpx.Client]:
    """Run a program on a free port of loopback within the block, from its readiness on."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [program, *options, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://{address}", trust_env=False) as client:
            wait_until(lambda: _is_ready(client), _READY_S, f"{program} is not ready ({log_path})")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False
