"""The logins of a senders file, read again when the file or a secret changes."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from pipeline.config import SenderSettings
from pipeline.gateway.logins import Login, Logins, environment_logins
from pipeline.gateway.senders_config import SenderConfig, SendersConfig, parse_senders
from pipeline.trust.senders import SCOPES, Sender, SenderLimits, restricted
from runtime.logs import Log
from runtime.secret_refs import SecretRef, UnreadableSecretError, resolve_secret
from runtime.yaml_file import UnreadableFileError, read_yaml_text
from runtime.yaml_model import YamlFileError
from schemas import logkeys as key

_CHECK_EVERY_S: Final = 1.0
_SHORTEST_SECRET: Final = 8
_Version = tuple[tuple[str, int, int, int] | None, ...]


class SendersFileError(ValueError):
    """The logins of a senders file cannot be used; the message is one line."""


def open_logins(path: Path | None, settings: SenderSettings, log: Log) -> Callable[[], Logins]:
    """Return the function that returns the valid logins: of the settings, and of a senders file.

    Raises SendersFileError: the file cannot be read or is invalid, a secret cannot be read or is
    shorter than 8 characters, or a name or a secret is that of another sender.
    """
    base = environment_logins(settings)
    for one, other in combinations(base, 2):
        # Such a secret would prove only one of them, and permit what the other one may submit.
        if one.shares_a_secret(other):
            raise SendersFileError(f"{one.sender.name} and {other.sender.name} have one secret")
    return (lambda: base) if path is None else SendersFile(path, os.environ, base, log).logins


@dataclass(slots=True)
class SendersFile:
    """The valid logins of a senders file, and of `base`.

    The file and the files of its secrets are examined at most once a second. After a change they
    are read again; if they are invalid, the logins before stay valid, and the error is logged.
    """

    path: Path
    environment: Mapping[str, str]
    base: Logins
    log: Log
    monotonic_s: Callable[[], float] = time.monotonic
    _logins: Logins = field(init=False)
    _files: tuple[Path, ...] = field(init=False)
    _version: _Version = field(init=False)
    _checked_s: float = field(init=False)

    def __post_init__(self) -> None:
        """Read the file. Raises SendersFileError."""
        self._files = (self.path,)
        self._version = _version_of(self._files)
        self._load()
        self._checked_s = self.monotonic_s()

    def logins(self) -> Logins:
        """Return the logins that are valid now."""
        now_s = self.monotonic_s()
        if now_s - self._checked_s >= _CHECK_EVERY_S:
            self._checked_s = now_s
            version = _version_of(self._files)
            if version != self._version:
                self._version = version
                self._reload()
        return self._logins

    def _reload(self) -> None:
        path = str(self.path)
        try:
            self._load()
        except SendersFileError as error:
            fields = {key.PATH: path, key.DETAIL: str(error)}
            self.log.error("senders file not accepted; the logins before stay valid", **fields)
        else:
            self.log.info("senders file read again", **{key.PATH: path})

    def _load(self) -> None:
        config = _read(self.path)
        # Before the secrets are read: a change meanwhile is found at the next call.
        self._files = (self.path, *_secret_files(config))
        self._version = _version_of(self._files)
        self._logins = _logins(config, self.environment, self.base)


def _read(path: Path) -> SendersConfig:
    try:
        return parse_senders(read_yaml_text(path))[0]
    except UnreadableFileError as error:
        raise SendersFileError(str(error)) from error
    except YamlFileError as error:
        raise SendersFileError(f"{path}: {error}") from error


def _logins(config: SendersConfig, environment: Mapping[str, str], base: Logins) -> Logins:
    found = [*base]
    for one in config.senders:
        login = _login(one, environment)
        for other in found:
            if other.sender.name == one.name:
                raise SendersFileError(f"{one.name}: the environment has a sender of this name")
            if other.shares_a_secret(login):
                raise SendersFileError(f"{one.name}: has a secret of {other.sender.name}")
        found.append(login)
    return Logins(tuple(found))


def _login(config: SenderConfig, environment: Mapping[str, str]) -> Login:
    def read(references: tuple[SecretRef, ...]) -> tuple[str, ...]:
        return tuple(
            _secret(config.name, one, environment).get_secret_value() for one in references
        )

    scope = restricted(SCOPES[config.kind], config.event_types, config.devices)
    limits = SenderLimits(**config.limits.model_dump())
    return Login(
        Sender(config.name, config.kind, scope, limits=limits),
        read(config.secrets),
        tuple(one.encode() for one in read(config.hmac_keys)),
        read(config.device_tokens),
    )


def _secret(name: str, reference: SecretRef, environment: Mapping[str, str]) -> SecretStr:
    try:
        secret = resolve_secret(reference, environment)
    except UnreadableSecretError as error:
        raise SendersFileError(f"{name}: {error}") from error
    if len(secret) < _SHORTEST_SECRET:
        detail = f"{name}: {reference}: is shorter than {_SHORTEST_SECRET} characters"
        raise SendersFileError(detail)
    return secret


def _secret_files(config: SendersConfig) -> list[Path]:
    references = [
        reference
        for one in config.senders
        for reference in (*one.secrets, *one.hmac_keys, *one.device_tokens)
    ]
    return [Path(one.name) for one in references if one.source == "file"]


def _version_of(files: tuple[Path, ...]) -> _Version:
    """Return what changes if one of the files is written or replaced; None for a missing file."""
    found: list[tuple[str, int, int, int] | None] = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)
