"""Access to Macs over SSH by a configuration."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from agents.config.model import SshConfig
from agents.config.secrets import SecretError, read_secret
from agents.mac import Obstacle
from agents.ssh.connection import Login, NotConnectedError, SshConnection, Timeouts
from agents.ssh.mac import SshMacs, VolumeOwner
from agents.ssh.shell import MacPaths
from runtime.secret_refs import SecretRef
from schemas.results import ErrorCode


def open_ssh(
    config: SshConfig,
    environment: Mapping[str, str],
    now: Callable[[], datetime],
    paths: MacPaths | None = None,
) -> SshMacs:
    """Return the Macs of a site over SSH; nothing is connected yet.

    Keys and passwords are read for each connection, so new ones need no restart. `paths` replaces
    the places on the Macs.
    """
    owner = config.volume_owner
    volume_owner = None
    if owner is not None:
        password = partial(_password, owner.password, environment)
        volume_owner = VolumeOwner(owner.user, password)
    return SshMacs(
        partial(connect, config),
        now=now,
        volume_owner=volume_owner,
        notice_s=config.notice_minutes * 60,
        paths=paths or paths_of(config),
    )


def connect(config: SshConfig, serial: str) -> SshConnection:
    """Return the way to the Mac with a serial number; nothing is connected yet.

    Raises NotConnectedError if the configuration has no address of it.
    """
    login = Login(
        config.user,
        Path(config.key),
        Path(config.known_hosts),
        None if config.certificate is None else Path(config.certificate),
    )
    timeouts = Timeouts(config.connect_timeout_s, config.command_timeout_s)
    return SshConnection(address_of(config, serial), config.port, login, timeouts)


def paths_of(config: SshConfig) -> MacPaths:
    """Return the places on the Macs."""
    return MacPaths(root_command=()) if config.user == "root" else MacPaths()


def address_of(config: SshConfig, serial: str) -> str:
    """Return the address of a Mac, its serial number in small letters.

    Raises NotConnectedError if the configuration has none.
    """
    if serial in config.addresses:
        return config.addresses[serial]
    if config.address is None:
        detail = f"the site's configuration has no address of {serial}"
        raise NotConnectedError(detail, Obstacle(ErrorCode.UNSUPPORTED, detail))
    return config.address.replace("{serial}", serial.lower())


def _password(reference: SecretRef, environment: Mapping[str, str]) -> str | None:
    try:
        return read_secret(reference, environment).get_secret_value()
    except SecretError:
        return None
