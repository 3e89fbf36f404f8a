"""What people ask of a running service and tell it to do, as JSON."""

import json
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline.embedded import commands
from pipeline.embedded.intake import again
from pipeline.embedded.service import Service
from pipeline.embedded.status import read_status
from pipeline.embedded.worker import Input, Prepare, Question
from pipeline.ingest.redaction import Redactor
from schemas.envelope import ApprovalGrantedEvent, InvalidEvent, decode
from schemas.events.control import HaltScope
from schemas.ids import TextField

MAX_BYTES: Final = 256 * 1024
Person = Annotated[TextField, StringConstraints(min_length=1, max_length=128)]


class InvalidOrderError(ValueError):
    """What was asked for cannot be done; `status` is the HTTP status to say so with."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


class HaltOrder(BaseModel):
    """`scope` is `all`, `site:<site>` or `advisory:<id>`."""

    model_config = ConfigDict(extra="forbid")

    scope: str
    by: Person
    why: TextField = ""
    until: AwareDatetime | None = None


def scope_of(text: str) -> HaltScope:
    """The scope of this key. Raises InvalidOrderError."""
    kind, _, name = text.partition(":")
    try:
        if text == "all":
            return HaltScope(everything=True)
        if kind == "site":
            return HaltScope(site=name)
        if kind == "advisory" and name:
            return HaltScope(advisory_id=name)
    except ValidationError:
        raise InvalidOrderError(f"{name!r} is no name of a site") from None
    raise InvalidOrderError(f"a scope is all, site:<site> or advisory:<id>, not {text!r}")


def halt(raw: bytes) -> Prepare:
    """A HaltOrder as JSON. Raises InvalidOrderError."""
    try:
        order = HaltOrder.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidOrderError(f"{where or 'body'}: {first['msg']}") from None
    scope = scope_of(order.scope)

    def prepare(_: Service, now: datetime) -> Input:
        event = commands.halt(scope, order.by, order.why, order.until, now)
        return Input(events=(event,), answer={"halted": scope.key})

    return prepare


def resume(scope_key: str, by: str) -> Prepare:
    """Clear a halt. Raises InvalidOrderError, when prepared where there is none (404)."""
    scope = scope_of(scope_key)

    def prepare(service: Service, now: datetime) -> Input:
        if scope not in [one.scope for one in service.engine.fleet.halts()]:
            raise InvalidOrderError(f"nothing is halted as {scope.key}", 404)
        event = commands.resume(scope, by, now)
        return Input(events=(event,), answer={"resumed": scope.key})

    return prepare


def approve(raw: bytes) -> Prepare:
    """An ApprovalGranted event, signed by the approver. Raises InvalidOrderError."""
    try:
        event = decode(raw)
    except InvalidEvent as error:
        raise InvalidOrderError(str(error)) from None
    if not isinstance(event, ApprovalGrantedEvent):
        raise InvalidOrderError(f"{event.type} is no granted approval")
    approval = event.data.approval

    def prepare(service: Service, _: datetime) -> Input:
        wrong = service.objection(event)
        if wrong is not None:
            raise InvalidOrderError(wrong, 403)
        return Input(events=(event,), answer={"approved": approval.job_id})

    return prepare


def replay(seq: int, redactor: Redactor) -> Prepare:
    """Translate a dead letter again, now that what failed on it is mended.

    Raises InvalidOrderError when prepared: there is none (404), or it still cannot be used (409).
    """

    def prepare(service: Service, now: datetime) -> Input:
        letters = service.store.dead_letters(seq=seq)
        if not letters:
            raise InvalidOrderError(f"there is no dead letter {seq}", 404)
        if letters[0].replayed_at is not None:
            raise InvalidOrderError(f"dead letter {seq} was replayed already", 409)
        try:
            done = again(letters[0], now, redactor)
        except ValueError as error:
            raise InvalidOrderError(f"dead letter {seq}: {error}", 409) from None
        objections = [letter.detail for letter in done.dead_letters]
        objections += [wrong for event in done if (wrong := service.objection(event)) is not None]
        if objections:
            raise InvalidOrderError(f"dead letter {seq}: {objections[0]}", 409)
        answer = {"replayed": seq, "events": len(done.events)}
        return Input(done.events, replayed=(seq,), answer=answer)

    return prepare


def status(service: Service, now: datetime) -> Any:
    """How the fleet stands."""
    return read_status(service.store, now).to_json()


def device(name: str) -> Question:
    """All that is known of the Mac of this UDID, serial number or enrollment id; None if none."""

    def answer(service: Service, _: datetime) -> Any:
        fleet = service.engine.fleet
        udid = fleet.find(name)
        if udid is None:
            return None
        decided = service.store.last_decision(udid)
        return {
            "udid": udid,
            "device": fleet.view(udid).to_wire(),
            "jobs": [entry.to_wire() for entry in fleet.ledgers.get(udid, ())],
            "decision": None if decided is None else json.loads(decided)["decision"],
        }

    return answer
