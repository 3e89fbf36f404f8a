"""Requests of operators that strike statements about advisories, or let them count again."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from pipeline.embedded import control_events
from pipeline.embedded.operator_requests import (
    InvalidRequestError,
    Person,
    read_body,
    unknown_advisory,
)
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import AcceptedInput, WriteRequest
from pipeline.state.advisories import Advisories
from pipeline.state.strikes import content_sha256, values_of
from schemas.envelope import StrikeClearedEvent, StrikeSetEvent
from schemas.events.advisory import AdvisorySnapshot, AdvisorySource
from schemas.events.control import (
    Strike,
    StrikeCleared,
    StrikeSet,
    StruckField,
)
from schemas.ids import TextField

PATH: Final = "/v1/strikes"
CLEARED_PATH: Final = "/v1/strikes/cleared"
StrikeEvent = StrikeSetEvent | StrikeClearedEvent


class StrikeRequest(BaseModel):
    """The body of a strike, or of its end: an advisory, a source, or both.

    With `field`, only the value of this field, and with `value` only this value of its list. `by`
    and `why` are the person's name and reason.
    """

    model_config = ConfigDict(extra="forbid")

    advisory: TextField | None = None
    source: AdvisorySource | None = None
    field: StruckField | None = None
    value: TextField | None = None
    by: Person
    why: Annotated[TextField, StringConstraints(min_length=1)]

    @model_validator(mode="after")
    def _names_something(self) -> "StrikeRequest":
        if self.advisory is None and self.source is None:
            raise ValueError("name an advisory, a source, or both")
        if self.value is not None and self.field is None:
            raise ValueError("a value belongs to a field")
        return self


def strike(raw: bytes) -> WriteRequest:
    """Return the request that strikes statements; `raw` is a StrikeRequest as JSON.

    Its response has the keys of the scopes as `struck`. Raises InvalidRequestError: an invalid body
    (400); when prepared, no source states such a thing (404).
    """
    return _prepared(read_body(StrikeRequest, raw), strike_event, "struck")


def restore(raw: bytes) -> WriteRequest:
    """Return the request that ends strikes; `raw` is a StrikeRequest as JSON.

    Its response has the keys of the scopes as `restored`. Raises InvalidRequestError: an invalid
    body (400); when prepared, nothing of that is struck (404).
    """
    return _prepared(read_body(StrikeRequest, raw), restore_event, "restored")


def _prepared(
    request: StrikeRequest,
    event_of: Callable[[StrikeRequest, Advisories, datetime], StrikeEvent],
    name: str,
) -> WriteRequest:
    def prepare(service: Service, now: datetime) -> AcceptedInput:
        event = event_of(request, service.reconciler.fleet.advisories, now)
        return AcceptedInput(events=(event,), response={name: scopes_of(event)})

    return prepare


def scopes_of(event: StrikeEvent) -> list[str]:
    """Return the keys of the scopes that the event strikes or restores."""
    data = event.data
    scopes = data.scopes if isinstance(data, StrikeCleared) else data.strikes
    return [one.key for one in scopes]


def strike_event(request: StrikeRequest, advisories: Advisories, now: datetime) -> StrikeSetEvent:
    """Return the event that strikes what the sources state now.

    Raises InvalidRequestError (404) if no source states such a thing.
    """
    wanted = _advisory(request.advisory, advisories)
    strikes = tuple(
        _strike(identity, snapshot, request)
        for identity, known in sorted(advisories.known.items())
        if wanted in {None, identity}
        for source, snapshot in sorted((one, by.snapshot) for one, by in known.by_source.items())
        if request.source in {None, source} and _states(snapshot, request)
    )
    if not strikes:
        raise InvalidRequestError("no source states that", 404)
    struck = StrikeSet(strikes=strikes, by=request.by, why=request.why)
    return control_events.strikes_set(struck, now)


def restore_event(
    request: StrikeRequest, advisories: Advisories, now: datetime
) -> StrikeClearedEvent:
    """Return the event that ends all strikes that the request names.

    Raises InvalidRequestError (404) if it names none.
    """
    wanted = _advisory(request.advisory, advisories)
    scopes = tuple(
        scope
        for scope in (act.scope for act, _ in advisories.strikes())
        if wanted in {None, scope.advisory_id}
        and request.source in {None, scope.source}
        and request.field in {None, scope.field}
        and request.value in {None, scope.value}
    )
    if not scopes:
        raise InvalidRequestError("nothing of that is struck: `drydock status` lists strikes", 404)
    cleared = StrikeCleared(scopes=scopes, by=request.by, why=request.why)
    return control_events.strikes_cleared(cleared, now)


def _advisory(name: str | None, advisories: Advisories) -> str | None:
    """Return the id of the advisory with this id, version or CVE; None for None.

    Raises InvalidRequestError (404) if there is none.
    """
    if name is None:
        return None
    wanted = {name.lower(), f"macos-{name}".lower(), f"cve:{name}".lower()}
    found = next((one for one in advisories.known if one.lower() in wanted), None)
    if found is None:
        raise InvalidRequestError(unknown_advisory(name, advisories.known), 404)
    return found


def _states(snapshot: AdvisorySnapshot, request: StrikeRequest) -> bool:
    if request.field is None:
        return True
    if request.value is not None:
        return request.value in values_of(snapshot, request.field)
    return bool(getattr(snapshot, request.field) not in {None, ()})


def _strike(identity: str, snapshot: AdvisorySnapshot, request: StrikeRequest) -> Strike:
    field, value = request.field, request.value
    return Strike(
        advisory_id=identity,
        source=snapshot.source,
        field=field,
        value=value,
        sha256=content_sha256(snapshot, field) if value is None else None,
    )
