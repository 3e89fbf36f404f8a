"""A configuration of one live site, whose servers are those of `tests.fake_mdm`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agents.config.file import parse_agent_config
from agents.configured_sites import ConfiguredSites
from agents.mdm.answers import Finding
from tests.fake_mdm import KMFDDM_KEY, NANOMDM_KEY, FakeMdm

ENVIRONMENT: Final = {"NANOMDM_API_KEY": NANOMDM_KEY, "KMFDDM_API_KEY": KMFDDM_KEY}
CONFIG: Final = """\
sites:
  london:
    time_zone: Europe/London
    mdm_servers:
      - name: main
        kind: nanomdm
        url: https://mdm.test
        login: env:NANOMDM_API_KEY
        ddm: {url: "https://ddm.test", login: env:KMFDDM_API_KEY}
        max_requests_per_s: 1000
    methods: [ddm, erase_device, startosinstall]
    allow_destructive: [C02MAC-1]
    ssh: {user: root, key: /key, known_hosts: /hosts, addresses: {C02MAC-1: 127.0.0.1}}
"""


def open_sites(
    folder: Path,
    mdm: FakeMdm,
    text: str = CONFIG,
    findings: list[Finding] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> ConfiguredSites:
    """Return the sites of the configuration; their clock is that of the servers."""
    return ConfiguredSites(
        parse_agent_config(text).config,
        folder,
        now=lambda: mdm.now,
        on_finding=(findings if findings is not None else []).append,
        environment=environment,
        transport=mdm.transport,
    )
