"""Access to Macs over SSH by a configuration."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from agents.config.model import SshConfig
from agents.config.secrets import SecretError, read_secret
from agents.config.servers import ServerConfigError
from agents.installers.source import InstallerSource
from agents.mac import Obstacle
from agents.preflight import Limits
from agents.ssh.activations import Activation
from agents.ssh.connection import Login, NotConnectedError, SshConnection, Timeouts
from agents.ssh.images import Image
from agents.ssh.mac import SshMacs, VolumeOwner
from agents.ssh.shell import MacPaths
from runtime.secret_refs import SecretRef
from schemas.results import ErrorCode


def open_ssh(
    config: SshConfig,
    environment: Mapping[str, str],
    now: Callable[[], datetime],
    paths: MacPaths | None = None,
    *,
    installers: InstallerSource | None = None,
    limits: Limits | None = None,
) -> SshMacs:
    """Return the Macs of a site over SSH; nothing is connected yet.

    Keys and passwords are read for each connection, so new ones need no restart. `paths` replaces
    the places on the Macs; `installers` and `limits` as for `SshMacs`.
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
        installers=installers,
        images=_images(config, environment, now),
        activations=_activations(config, environment),
        limits=limits,
        paths=paths or paths_of(config),
    )


def _activations(config: SshConfig, environment: Mapping[str, str]) -> dict[str, Activation]:
    return {
        name: Activation(
            one.test,
            one.command,
            one.timeout_minutes * 60,
            None if one.secret is None else partial(_password, one.secret, environment),
        )
        for name, one in config.activations.items()
    }


def _images(
    config: SshConfig, environment: Mapping[str, str], now: Callable[[], datetime]
) -> Callable[[], Sequence[Image]]:
    """Return the function that returns the images; raises ServerConfigError without boto3."""
    listed = tuple(Image(**dict(image)) for image in config.images)
    if config.images_from is None:
        return lambda: listed
    try:
        # An agent without a bucket has no boto3.
        from agents.config.image_manifest import ImageManifest  # noqa: PLC0415
        from agents.config.installers_access import open_bucket  # noqa: PLC0415
    except ImportError as error:
        raise ServerConfigError("`images_from` needs boto3: drydock-agent[s3]") from error
    manifest = ImageManifest(partial(open_bucket, config.images_from, environment), now)
    return lambda: (*listed, *manifest.images())


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
