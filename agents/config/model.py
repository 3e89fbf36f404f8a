"""Configuration of sites: methods, MDM servers and SSH, logins, permitted erasures, limits.

`agents.config.file` reads it from YAML and adds line numbers to the errors. A site without an entry
is in dry run.
"""

import re
from collections import Counter
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from runtime.listening import Listen
from runtime.secret_refs import SecretRef
from runtime.yaml_model import StrictModel
from schemas.ids import SerialField, SiteField, TextField, is_real_serial
from schemas.jobs import MDM_METHODS, SSH_METHODS, Method
from schemas.macos import BuildField, OSVersionField
from schemas.time_zones import TimeZoneName

_HOST: Final = re.compile(
    r"(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)*(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE | re.ASCII
)
# The permission for every Mac would be no lock.
_GLOB_CHARACTERS: Final = frozenset("*?[]")


def _url(value: str) -> str:
    """Return the URL of a server without a final slash.

    Raises ValueError unless it is http or https with a host, and has no login, query or fragment.
    """
    try:
        parts = urlsplit(value)
        is_plain = parts.hostname and parts.port != 0 and value.isascii() and value.isprintable()
    except ValueError:
        is_plain = None
    if not is_plain or parts.scheme not in {"http", "https"} or " " in value:
        raise ValueError("must be a URL: https://mdm.example.org")
    if "@" in parts.netloc:
        raise ValueError("has a login; remove it, and name the login's file or variable in `login`")
    if "?" in value or "#" in value:
        raise ValueError("must have no query and no fragment: https://mdm.example.org")
    return value.rstrip("/")


def _absolute(value: str) -> str:
    """Return the path unchanged. Raises ValueError unless it is absolute."""
    if not PurePosixPath(value).is_absolute() or "\0" in value:
        raise ValueError("must be an absolute path: /etc/drydock/mdm-ca.pem")
    return value


def _real_serial(value: str) -> str:
    """Return the serial number unchanged.

    Raises ValueError for a pattern, and for a placeholder that many Macs report.
    """
    if not _GLOB_CHARACTERS.isdisjoint(value):
        raise ValueError("must be one serial number; patterns are not allowed here")
    if not is_real_serial(value):
        raise ValueError("is a placeholder for a missing serial number")
    return value


def _only_text(value: object) -> object:
    """Return a text unchanged; other values raise ValueError.

    YAML reads `012345678901` without quotes as a number, which has lost its zero.
    """
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _command_line(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words unchanged. Raises ValueError unless the first is an absolute path."""
    if not value or not PurePosixPath(value[0]).is_absolute():
        raise ValueError("must be a list of words, of which the first is an absolute path")
    if any("\0" in word for word in value):
        raise ValueError("a word has a zero byte")
    return value


Url = Annotated[str, AfterValidator(_url)]
AccountName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
CommandLine = Annotated[tuple[str, ...], AfterValidator(_command_line)]
RealSerial = Annotated[SerialField, BeforeValidator(_only_text), AfterValidator(_real_serial)]


def is_loopback(url: str) -> bool:
    """Return True if the host of a URL is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KmfddmConfig(StrictModel):
    """KMFDDM, the server of declarations beside NanoMDM. `login` is its API key."""

    url: Url
    login: SecretRef


class MdmServerConfig(StrictModel):
    """One MDM server. `login` is its API key.

    `ddm`: the server of declarations, without which the method `ddm` cannot be used.
    `max_requests_per_s` limits the requests to both. `max_open_commands` limits the commands that
    Drydock keeps in the server's queues, over all Macs of the site, without queries.
    `max_queries_per_minute` limits the queries that keep the inventory fresh; 0: none are sent.
    `timeout_s`, in seconds, is for one request. `ca_file`: certificates (PEM) that are trusted
    instead of the system's.
    `enrollment_profile`: the .mobileconfig file that the method `install_profile` sends; it can
    have a secret, so only the agent may read it.
    """

    name: SiteField
    kind: Literal["nanomdm"]
    url: Url
    login: SecretRef
    ddm: KmfddmConfig | None = None
    max_requests_per_s: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 10.0
    max_open_commands: Annotated[int, Field(ge=1, le=100_000)] = 500
    max_queries_per_minute: Annotated[int, Field(ge=0, le=60_000)] = 120
    timeout_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 5.0
    ca_file: AbsolutePath | None = None
    enrollment_profile: AbsolutePath | None = None


def _address_form(value: str) -> str:
    """Return the form of an address unchanged. Raises ValueError unless it has `{serial}` once."""
    name = value.replace("{serial}", "C02XK1ZYJHD3", 1)
    if name == value or "{" in name or "}" in name:
        raise ValueError("must have {serial} once: '{serial}.macs.example.org'")
    _host(name)
    return value


def _host(value: str) -> str:
    """Return the name or IP address of a Mac unchanged. Raises ValueError for other text."""
    try:
        ip_address(value)
    except ValueError:
        if len(value) > 253 or _HOST.fullmatch(value) is None:
            raise ValueError("must be a host name or an IP address, without a port") from None
    return value


class VolumeOwnerConfig(StrictModel):
    """The account that authorizes installations on Apple silicon; the same on each Mac."""

    user: AccountName
    password: SecretRef


def _listen_address(value: str) -> str:
    """Return HOST:PORT unchanged. Raises ValueError for other text."""
    Listen.parse(value)
    return value


class BucketAccess(StrictModel):
    """A bucket of S3 with installers, and its login.

    `prefix` begins each key. `endpoint` is the URL of a server other than Amazon's, `region` is
    Amazon's. Without `access_key` and `secret_key` the login is that of the machine, as boto3 finds
    it: environment, shared files or role. `timeout_s`, in seconds, is for each request.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+/)*$", max_length=200)] = ""
    endpoint: Url | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    access_key: SecretRef | None = None
    secret_key: SecretRef | None = None
    timeout_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = 30.0

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        """Return the access. Raises ValueError for one key without the other."""
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("`access_key` and `secret_key` belong together")
        return self


class ImageFacts(StrictModel):
    """The facts of the Mac from which an image for `asr` was made, and of its file.

    `volume`: the name of the volume on each Mac that is erased and restored. `models` are globs.
    `sha256` has 64 hexadecimal digits.
    """

    name: SiteField
    size_bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    version: OSVersionField
    build: BuildField
    firmware: Annotated[str, Field(pattern=r"^[0-9][0-9.]{0,40}$")]
    volume: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,60}$")]


class ImageConfig(ImageFacts):
    """An image for `asr` at a URL."""

    url: Url


class StoredImage(ImageFacts):
    """An image for `asr` in a bucket; `key` is that of its object, behind the bucket's prefix."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,500}$")]


class ActivationConfig(StrictModel):
    """A command that activates something on a Mac after its reinstall, and its success test.

    `test` and `command` are command lines of root, whose first word is an absolute path; `test`
    ends with 0 if the activation is on the Mac. `secret` is one line for the standard input of
    `command`. `timeout_minutes` limits both together.
    """

    test: CommandLine
    command: CommandLine
    secret: SecretRef | None = None
    timeout_minutes: Annotated[int, Field(ge=1, le=240)] = 60


class SshConfig(StrictModel):
    """Access to the Macs of a site over SSH.

    `user`: the account of the agent on each Mac; unless it is root, it may run commands as root
    with `sudo` and without a password. `key` and `certificate`: files of the login. `known_hosts`:
    the Macs' host keys, or `@cert-authority` for the authority that certifies them. `address`: the
    name of a Mac by its serial number, `addresses` those of others. `connect_timeout_s` and
    `command_timeout_s`, in seconds, limit the login and each command. `images`: those for `asr`;
    `images_from`: the bucket whose `images.json` lists more. `activations`: those that the policy
    names in `follow_up.over_ssh`.
    """

    user: AccountName
    key: AbsolutePath
    certificate: AbsolutePath | None = None
    known_hosts: AbsolutePath
    address: Annotated[str, AfterValidator(_address_form)] | None = None
    addresses: dict[RealSerial, Annotated[str, AfterValidator(_host)]] = Field(default_factory=dict)
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    connect_timeout_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 5.0
    command_timeout_s: Annotated[float, Field(ge=20, le=120, allow_inf_nan=False)] = 30.0
    volume_owner: VolumeOwnerConfig | None = None
    images: tuple[ImageConfig, ...] = ()
    images_from: BucketAccess | None = None
    activations: dict[TextField, ActivationConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_addresses(self) -> Self:
        """Return the access. Raises ValueError if no Mac has an address."""
        if self.address is None and not self.addresses:
            raise ValueError("needs `address` or `addresses`")
        return self


class InstallersConfig(StrictModel):
    """The cache of installers at a site, from which its Macs fetch them.

    `folder` has the files; one agent uses it. `budget_gb` limits them, in GB (10^9 bytes), and
    `reserve_gb` of the volume stay free for others. `listen` is the address of the HTTP server,
    `url` its address for the Macs. `report_secret` is the last part of the URL to which Apple's
    content caches send reports; without it none are accepted.
    """

    bucket: BucketAccess
    folder: AbsolutePath
    budget_gb: Annotated[float, Field(ge=0.001, le=100_000, allow_inf_nan=False)] = 80.0
    reserve_gb: Annotated[float, Field(ge=0, le=1_000, allow_inf_nan=False)] = 2.0
    listen: Annotated[str, AfterValidator(_listen_address)]
    url: Url
    report_secret: SecretRef | None = None


class SiteLimits(StrictModel):
    """Limits for each order at a site.

    The least free disk in GB (10^9 bytes) and the least battery in percent that an order needs. The
    policy has these limits too: they are checked again, because a Mac changes after its report.
    """

    disk_update_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 15.0
    disk_upgrade_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 44.0
    battery_apple_silicon: Annotated[float, Field(ge=0, le=100)] = 20.0
    battery_intel: Annotated[float, Field(ge=0, le=100)] = 50.0


class SiteConfig(StrictModel):
    """One live site.

    `time_zone` is the zone of its Macs: MDM does not report a Mac's own. `mdm_servers` are the
    servers of its Macs, `ssh` is the access without one. `installers` is the cache of installers;
    without it each Mac fetches its own from Apple. `methods` are the only ones that its agents use;
    each needs its server, or `ssh`.
    `allow_destructive`: the serial numbers of the Macs that a job may erase or reinstall.
    `accept_permits`: a job may also do so on a Mac for which it has a permit of the policy.
    `erase_pin`: six digits, for Macs that require a PIN to be erased (Intel without T2).
    """

    time_zone: TimeZoneName
    mdm_servers: tuple[MdmServerConfig, ...] = ()
    ssh: SshConfig | None = None
    installers: InstallersConfig | None = None
    methods: Annotated[tuple[Method, ...], Field(min_length=1)]
    allow_destructive: frozenset[RealSerial] = frozenset()
    accept_permits: bool = False
    erase_pin: SecretRef | None = None
    limits: SiteLimits = SiteLimits()

    @field_validator("mdm_servers")
    @classmethod
    def _names_are_unique(cls, value: tuple[MdmServerConfig, ...]) -> tuple[MdmServerConfig, ...]:
        """Return the servers unchanged. Raises ValueError if two have one name."""
        repeated = _repeated(server.name for server in value)
        if repeated:
            raise ValueError(f"two servers are called {repeated}")
        return value

    @field_validator("methods")
    @classmethod
    def _servers_exist(cls, value: tuple[Method, ...], info: ValidationInfo) -> tuple[Method, ...]:
        """Return the methods unchanged.

        Raises ValueError for a repeated method, and for one whose server or `ssh` is missing. They
        are not checked if they have errors themselves.
        """
        if repeated := _repeated(value):
            raise ValueError(f"{repeated} is listed twice")
        over_ssh = [method for method in value if method in SSH_METHODS]
        # The key is missing after an error in `ssh` itself.
        if over_ssh and info.data.get("ssh", True) is None:
            raise ValueError(f"{over_ssh[0]} needs `ssh`")
        ssh: SshConfig | None = info.data.get("ssh")
        if Method.ASR in value and ssh is not None and not (ssh.images or ssh.images_from):
            raise ValueError("asr needs `images` or `images_from` in `ssh`")
        if Method.ACTIVATION_COMMAND in value and ssh is not None and not ssh.activations:
            raise ValueError("activation_command needs `activations` in `ssh`")
        servers: tuple[MdmServerConfig, ...] | None = info.data.get("mdm_servers")
        if servers is None:
            return value
        needy = [method for method in value if method in MDM_METHODS]
        if needy and not servers:
            raise ValueError(f"{needy[0]} needs an entry in `mdm_servers`")
        if Method.DDM in value and not any(server.ddm for server in servers):
            raise ValueError("ddm needs a server with `ddm` in `mdm_servers`")
        has_profile = any(server.enrollment_profile for server in servers)
        if Method.INSTALL_PROFILE in value and not has_profile:
            raise ValueError("install_profile needs a server with `enrollment_profile`")
        return value


class AgentConfig(StrictModel):
    """The live sites by name. A site that is not here is in dry run."""

    version: Literal[1] = 1
    sites: Annotated[dict[SiteField, SiteConfig], Field(min_length=1)]

    @field_validator("sites")
    @classmethod
    def _caches_differ(cls, value: dict[str, SiteConfig]) -> dict[str, SiteConfig]:
        """Return the sites unchanged. Raises ValueError if two have one cache."""
        caches = [site.installers for site in value.values() if site.installers is not None]
        for name in ("folder", "listen"):
            if repeated := _repeated(getattr(cache, name) for cache in caches):
                raise ValueError(f"two sites have the {name} {repeated} for their installers")
        return value


def _repeated(values: Any) -> str | None:
    """Return the first text that comes more than once, None if each comes once."""
    return next((value for value, times in Counter(values).items() if times > 1), None)
