"""Strikes: statements about advisories that a person deleted, and what is left of them. Pure.

| struck | effect | ends |
| --- | --- | --- |
| a statement | as if the source had not made it | the source states something else |
| a value of a field | the field has no value | the source states another value |
| one value of a list | the list lacks it | (only by a person) |

A person can end each of them. A statement that repeats the struck content stays struck: its SHA-256
is compared, not its time, so that the order of the events does not matter.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Self

from schemas.events.advisory import AdvisorySnapshot
from schemas.events.control import Strike, StrikeCleared, StrikeScope, StrikeSet

_EXPLOITED: Final = "exploited_cves"


class StrikeState(NamedTuple):
    """The newest act of a person about a scope, and its time in us since 1970.

    `strike` is None if the person ended the strike.
    """

    us: int
    scope: StrikeScope
    strike: Strike | None
    by: str
    why: str

    @property
    def sort_key(self) -> tuple[int, bool, str, str, str]:
        """The key of which the greatest wins: time, then the strike before its end, then texts."""
        content = "" if self.strike is None else self.strike.model_dump_json()
        return self.us, self.strike is not None, content, self.by, self.why

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        struck = None if self.strike is None else self.strike.model_dump(mode="json")
        scope = self.scope.model_dump(mode="json", exclude_none=True)
        return {"us": self.us, "scope": scope, "strike": struck, "by": self.by, "why": self.why}

    @classmethod
    def from_json(cls, wire: Mapping[str, Any]) -> Self:
        """Return the state that `as_json` wrote. Raises ValueError, KeyError or TypeError."""
        struck = wire["strike"]
        return cls(
            int(wire["us"]),
            StrikeScope.model_validate(wire["scope"]),
            None if struck is None else Strike.model_validate(struck),
            str(wire["by"]),
            str(wire["why"]),
        )


def acts_of(data: StrikeSet | StrikeCleared, us: int) -> Iterator[StrikeState]:
    """Yield a person's act for each scope of the event's data; `us` is the event's time."""
    if isinstance(data, StrikeSet):
        for strike in data.strikes:
            yield StrikeState(us, strike.scope, strike, data.by, data.why)
    else:
        for scope in data.scopes:
            yield StrikeState(us, scope, None, data.by, data.why)


def content_sha256(snapshot: AdvisorySnapshot, field: str | None) -> str:
    """Return the SHA-256, in hex, of a statement or of the value of a field.

    Values that equal the default are left out: a field that a later version of Drydock adds does
    not change the content.
    """
    content = snapshot.model_dump(mode="json", exclude_defaults=True)
    value = content if field is None else content.get(field)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def values_of(snapshot: AdvisorySnapshot, field: str) -> tuple[str, ...]:
    """Return the values of a field that is a list, as texts; empty if it has none."""
    return tuple(map(str, getattr(snapshot, field) or ()))


def is_struck(strike: Strike, snapshot: AdvisorySnapshot) -> bool:
    """Return True if the source's statement still has the struck content."""
    if strike.value is not None and strike.field is not None:
        return strike.value in values_of(snapshot, strike.field)
    return strike.sha256 == content_sha256(snapshot, strike.field)


def without_struck(
    snapshot: AdvisorySnapshot, strikes: Iterable[Strike]
) -> AdvisorySnapshot | None:
    """Return what is left of a source's statement; None if the whole of it is struck.

    The same object if nothing of it is struck.
    """
    changed: dict[str, Any] = {}
    for strike in strikes:
        if not is_struck(strike, snapshot):
            continue
        if strike.field is None:
            return None
        if strike.value is None:
            changed[strike.field] = AdvisorySnapshot.model_fields[strike.field].default
        elif changed.get(strike.field, ()) is not None:
            kept = changed.get(strike.field, getattr(snapshot, strike.field))
            changed[strike.field] = tuple(one for one in kept if str(one) != strike.value)
    return snapshot.model_copy(update=changed) if changed else snapshot


def struck_until_us(states: Iterable[StrikeState], cve: str | None = None) -> int:
    """Return the time of the newest strike of a whole statement, 0 without one.

    With `cve` also the strikes of its exploitation, or of the whole list of exploited CVEs, count.
    """
    return max((one.us for one in states if one.strike and _is_of(one.scope, cve)), default=0)


def _is_of(scope: StrikeScope, cve: str | None) -> bool:
    if scope.field is None:
        return True
    return cve is not None and scope.field == _EXPLOITED and scope.value in (None, cve)
