"""The report of one Mac over SSH, for a person."""

from agents.config.model import SshConfig
from agents.config.ssh_access import connect, paths_of
from agents.ssh.mac_facts import parse_serial
from agents.ssh.report import Report
from agents.ssh.shell import MacPaths, MacShell

# No job has this name, so the report has no tasks.
_NO_JOB = "none"


class OtherMacError(Exception):
    """Another Mac responds at the address."""


def read_mac(config: SshConfig, serial: str, paths: MacPaths | None = None) -> Report:
    """Return the report of the Mac with a serial number; nothing changes on it.

    `paths` replaces the places on the Mac. Raises UnreachableError, UnreadableReportError and
    OtherMacError.
    """
    shell = MacShell(connect(config, serial), paths or paths_of(config))
    owner = "" if config.volume_owner is None else config.volume_owner.user
    report = shell.report(_NO_JOB, owner, frozenset({"enrollment"}))
    found = parse_serial(report.facts.get("serial", ""))
    if found != serial:
        raise OtherMacError(f"the Mac at this address is {found or 'unknown'}, not {serial}")
    return report
