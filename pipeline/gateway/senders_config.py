"""The senders file: logins of senders with their kinds, secrets by reference, scopes and limits."""

from collections import Counter
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from pipeline.ingest.sources import FEED_DIFFS, HMAC_KEYS
from pipeline.trust.senders import ADMIN, ADVISORIES, MDM_KINDS, SCOPES, event_types
from runtime.located_yaml import Located
from runtime.secret_refs import SecretRef
from runtime.yaml_model import StrictModel, YamlFileError, read_model

SenderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
Kind = Literal[
    "nanomdm",
    "micromdm",
    "jamf",
    "osquery",
    "munki",
    "events",
    "sofa",
    "gdmf",
    "kev",
    "advisories",
    "admin",
]
# Two are valid while a secret is replaced.
_Secrets = Annotated[tuple[SecretRef, ...], Field(max_length=2)]
_WITHOUT_MACS: Final = frozenset({*FEED_DIFFS, ADVISORIES})


def _in_capitals(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


_MacName = Annotated[
    str,
    BeforeValidator(_in_capitals),
    StringConstraints(pattern=r"^[!-~]+$", max_length=128),
]


class SenderLimits(StrictModel):
    """Limits of one sender; a request over one of them is refused with 413 or 429."""

    events_per_request: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class SenderConfig(StrictModel):
    """One sender.

    - `kind`: what it may submit at most
    - `secrets`: sent with each request; `hmac_keys`: keys of the HMAC of NanoMDM's webhooks
    - `device_tokens`: secrets from which the token of each Mac is derived; a Mac's own program
      sends its token, and submits events about this Mac alone
    - `event_types`: of the types of its kind only these
    - `devices`: UDIDs and serial numbers of the only Macs that it may report on
    """

    name: SenderName
    kind: Kind
    secrets: _Secrets = ()
    hmac_keys: _Secrets = ()
    device_tokens: _Secrets = ()
    event_types: Annotated[frozenset[str], Field(min_length=1)] | None = None
    devices: Annotated[frozenset[_MacName], Field(min_length=1)] | None = None
    limits: SenderLimits = SenderLimits()

    @field_validator("hmac_keys")
    @classmethod
    def _kind_signs(cls, value: tuple[SecretRef, ...], info: Any) -> tuple[SecretRef, ...]:
        """Return the keys unchanged. Raises ValueError if requests of the kind are not signed."""
        if value and info.data.get("kind") not in HMAC_KEYS:
            raise ValueError(f"only requests of {', '.join(HMAC_KEYS)} are signed")
        return value

    @field_validator("event_types")
    @classmethod
    def _kind_has_types(cls, value: frozenset[str] | None, info: Any) -> frozenset[str] | None:
        """Return the types unchanged. Raises ValueError for one that the kind may not submit."""
        kind = info.data.get("kind")
        if value is None or kind not in SCOPES:
            return value
        known = event_types(SCOPES[kind])
        wrong = sorted(value - known)
        if wrong:
            raise ValueError(f"{kind} may not submit {wrong[0]}; it has {', '.join(sorted(known))}")
        return value

    @field_validator("devices", "device_tokens")
    @classmethod
    def _kind_has_macs(cls, value: Any, info: Any) -> Any:
        """Return the value unchanged. Raises ValueError if the kind reports on no Macs."""
        if value and info.data.get("kind") in _WITHOUT_MACS:
            raise ValueError("this kind reports on no Macs")
        return value

    @field_validator("device_tokens")
    @classmethod
    def _kind_is_of_macs(cls, value: tuple[SecretRef, ...], info: Any) -> tuple[SecretRef, ...]:
        """Return the secrets unchanged. Raises ValueError for an MDM server and an operator.

        A Mac must not state its own enrollment, nor its owner.
        """
        kind = info.data.get("kind")
        if value and kind in MDM_KINDS:
            raise ValueError("an MDM server has one login; its Macs report through it")
        if value and kind == ADMIN:
            raise ValueError("an operator's login is on no Mac")
        return value

    @model_validator(mode="after")
    def _has_a_secret(self) -> Self:
        """Return the sender. Raises ValueError without a secret, or with two lists of Macs."""
        if not (self.secrets or self.hmac_keys or self.device_tokens):
            raise ValueError("has no secret: give it secrets, hmac_keys or device_tokens")
        if self.device_tokens and self.devices is not None:
            raise ValueError("a token is valid for its own Mac: `devices` has no meaning here")
        return self


class SendersConfig(StrictModel):
    """The whole file."""

    version: Literal[1] = 1
    senders: tuple[SenderConfig, ...]

    @field_validator("senders")
    @classmethod
    def _names_are_unique(cls, value: tuple[SenderConfig, ...]) -> tuple[SenderConfig, ...]:
        """Return the senders unchanged. Raises ValueError if two have one name."""
        counts = Counter(one.name for one in value)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(f"two senders are called {repeated[0]}")
        return value


class SendersError(YamlFileError):
    """The text is no valid senders file; `problems` are in the order of their lines."""

    KIND = "senders file"


def parse_senders(text: str) -> tuple[SendersConfig, Located]:
    """Return the senders of a YAML text. Raises SendersError with all problems."""
    try:
        return read_model(text, SendersConfig)
    except YamlFileError as error:
        raise SendersError(error.problems) from None
