"""Requests of operators to a service, with JSON bodies and responses."""

import base64
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Annotated, Any, Final, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline.embedded import control_events
from pipeline.embedded.mac_names import UnknownMacError, udid_of
from pipeline.embedded.read_api import MAX_SEQ
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import AcceptedInput, ReadRequest, WriteRequest
from pipeline.embedded.write_requests import retranslate
from pipeline.gateway.endpoint import HttpError
from pipeline.ingest.redaction import Redactor
from pipeline.policy.file import PolicyError
from pipeline.trust.senders import Sender
from schemas.decisions import Reason
from schemas.envelope import ApprovalGrantedEvent, InvalidEvent, decode
from schemas.events.control import AttemptsReset, HaltScope, ResetScope
from schemas.ids import TextField
from schemas.results import ErrorCode

MAX_BYTES: Final = 256 * 1024
_CLOCKS_DIFFER: Final = timedelta(minutes=5)
_Request = TypeVar("_Request", bound=BaseModel)
Person = Annotated[TextField, StringConstraints(min_length=1, max_length=128)]


class InvalidRequestError(HttpError):
    """The request cannot be served; `status` is the HTTP status of the response."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(status, detail)


class HaltRequest(BaseModel):
    """The body of a halt. `scope` is `all`, `site:<site>[/<action>]` or `advisory:<id>`.

    `by` and `why` are the person's name and reason. Without `until` the halt lasts until it is
    cleared.
    """

    model_config = ConfigDict(extra="forbid")

    scope: str
    by: Person
    why: TextField = ""
    until: AwareDatetime | None = None


class ResetRequest(BaseModel):
    """The body of a reset of attempts.

    `scope` is `all`, `site:<site>`, or a Mac's UDID, serial number or enrollment id. With `cause`,
    only jobs that failed with this code. `by` and `why` are the person's name and reason.
    """

    model_config = ConfigDict(extra="forbid")

    scope: str
    cause: ErrorCode | None = None
    by: Person
    why: Annotated[TextField, StringConstraints(min_length=1)]


def read_body(model: type[_Request], raw: bytes) -> _Request:
    """Return the body of a request. Raises InvalidRequestError (400) for an invalid one."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"{where or 'body'}: {first['msg']}") from None


def parse_scope(text: str) -> HaltScope:
    """Return the scope of a key: `all`, `site:<site>`, `site:<site>/<action>`, `advisory:<id>`.

    Raises InvalidRequestError (400) for any other text.
    """
    kind, _, name = text.partition(":")
    try:
        if text == "all":
            return HaltScope(everything=True)
        if kind == "site":
            site, slash, action = name.partition("/")
            return HaltScope.model_validate({"site": site} | ({"action": action} if slash else {}))
        if kind == "advisory" and name:
            return HaltScope(advisory_id=name)
    except ValidationError:
        wrong = f"{name!r} is not the name of a site, or not one with an action"
        raise InvalidRequestError(wrong) from None
    raise InvalidRequestError(
        f"{text!r} is not a scope: give all, site:<site>, site:<site>/<action> or advisory:<id>"
    )


def _known_sites(service: Service) -> Collection[str]:
    """Return the sites of the policy in force; none while there is no valid policy."""
    try:
        policy = service.reconciler.policy
    except PolicyError:  # a halt must work also then
        return ()
    return () if policy is None else policy.sites


def unknown_site(name: str, sites: Collection[str]) -> str:
    """Return the error for the name of a site that is none of `sites`."""
    near = get_close_matches(name.lower(), sites, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no site {name!r}; {hint}the sites are {', '.join(sorted(sites)) or 'not known'}"


def unknown_advisory(name: str, advisories: Collection[str]) -> str:
    """Return the error for the name of an advisory that is none of `advisories`."""
    by_lower = {one.lower(): one for one in advisories}
    near = get_close_matches(name.lower(), by_lower, n=1)
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else ""
    return f"no release has the advisory {name!r}{hint}"


def _known_advisories(service: Service) -> frozenset[str]:
    """Return the ids of the releases that are known; empty before the first feed."""
    lines = service.reconciler.fleet.advisories.lines.values()
    return frozenset(release.advisory_id for releases in lines for release in releases)


def halt(raw: bytes) -> WriteRequest:
    """Return the request that halts new jobs in a scope; `raw` is a HaltRequest as JSON.

    Its response has the scope's key as `halted`. Raises InvalidRequestError for an invalid body or
    scope (400); when prepared, for an end that is not in the future (400), a site that the policy
    in force does not have, or an advisory that no known release has (404).
    """
    request = read_body(HaltRequest, raw)
    scope = parse_scope(request.scope)

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        sites = _known_sites(service)
        if scope.site is not None and sites and scope.site not in sites:
            raise InvalidRequestError(unknown_site(scope.site, sites), 404)
        advisories = _known_advisories(service)
        if scope.advisory_id is not None and advisories and scope.advisory_id not in advisories:
            raise InvalidRequestError(unknown_advisory(scope.advisory_id, advisories), 404)
        if request.until is not None and request.until <= now:
            until = request.until.isoformat()
            raise InvalidRequestError(f"until: {until} is not in the future")
        event = control_events.halt_set(scope, request.by, request.why, request.until, now)
        return AcceptedInput(events=(event,), response={"halted": scope.key})

    return prepare


def resume(scope_key: str, by: str, why: str | None) -> WriteRequest:
    """Return the request that clears the halt of exactly this scope.

    `by` and `why` are the person's name and reason.
    Its response has the scope's key as `resumed`. Raises InvalidRequestError for a bad scope (400);
    when prepared, if the scope is not halted (404).
    """
    scope = parse_scope(scope_key)

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        if scope not in [one.scope for one in service.reconciler.fleet.halts()]:
            raise InvalidRequestError(
                f"{scope.key} is not halted: `drydock status` lists the halts", 404
            )
        event = control_events.halt_cleared(scope, by, now, why)
        return AcceptedInput(events=(event,), response={"resumed": scope.key})

    return prepare


def reset_attempts(raw: bytes) -> WriteRequest:
    """Return the request that resets failed attempts; `raw` is a ResetRequest as JSON.

    Its response has the scope's key as `reset`. Raises InvalidRequestError: an invalid body (400);
    when prepared, no Mac has the name, or no site of the policy (404).
    """
    request = read_body(ResetRequest, raw)
    reset = parse_reset(request)

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        scope, policy = reset.scope, service.reconciler.policy
        if scope.site is not None and (policy is None or scope.site not in policy.sites):
            sites = () if policy is None else policy.sites
            raise InvalidRequestError(unknown_site(scope.site, sites), 404)
        if scope.device is not None:
            try:
                udid = udid_of(service.reconciler.fleet, scope.device)
            except UnknownMacError as error:
                raise InvalidRequestError(str(error), 404) from None
            scope = ResetScope(device=udid)
        event = control_events.attempts_reset(reset.model_copy(update={"scope": scope}), now)
        return AcceptedInput(events=(event,), response={"reset": scope.key})

    return prepare


def parse_reset(request: ResetRequest) -> AttemptsReset:
    """Return the reset of a request; the Mac of its scope has the given name.

    Raises InvalidRequestError (400) for an invalid scope.
    """
    kind, _, name = request.scope.partition(":")
    try:
        if request.scope == "all":
            scope = ResetScope(everything=True)
        elif kind == "site":
            scope = ResetScope(site=name)
        else:
            scope = ResetScope(device=request.scope)
    except ValidationError:
        raise InvalidRequestError(
            f"{request.scope!r} is not a scope: give all, site:<site>, or the serial number or UDID"
            " of a Mac"
        ) from None
    return AttemptsReset(scope=scope, cause=request.cause, by=request.by, why=request.why)


def approve(raw: bytes) -> WriteRequest:
    """Return the request that stores the signed ApprovalGranted event in `raw`.

    Its response has the job's id as `approved`. Raises InvalidRequestError if `raw` is not such an
    event (400); when prepared, if no trusted key signed it (403), or if it is not for a job that
    waits now, with the serial number and method of its Mac and an end that the policy permits
    (409).
    """
    try:
        event = decode(raw)
    except InvalidEvent as error:
        raise InvalidRequestError(str(error)) from None
    if not isinstance(event, ApprovalGrantedEvent):
        raise InvalidRequestError(f"{event.type} is not an approval")
    approval = event.data.approval

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        wrong = service.reject_reason(event)
        if wrong is not None:
            raise InvalidRequestError(wrong, 403)
        wrong = _approval_problem(service, event, now)
        if wrong is not None:
            raise InvalidRequestError(wrong, 409)
        return AcceptedInput(events=(event,), response={"approved": approval.job_id})

    return prepare


def _approval_problem(service: Service, event: ApprovalGrantedEvent, now: datetime) -> str | None:
    """Return the reason for which an approval is not for a job that waits now; None if it is."""
    approval = event.data.approval
    policy, fleet = service.reconciler.policy, service.reconciler.fleet
    if policy is None or approval.udid not in fleet.macs():
        return f"{approval.udid} is no Mac that waits for an approval"
    if event.time > now + _CLOCKS_DIFFER:
        return f"the approval is of {event.time.isoformat()}, which is in the future"
    latest = now + policy.approvals.lasts_at_most
    if not now < approval.expires_at <= latest:
        return f"the policy permits an end until {latest.isoformat(timespec='minutes')}"
    decision = service.decide(approval.udid, now)
    waiting = (decision.job_id, decision.action, decision.serial, decision.method)
    approved = (approval.job_id, approval.action, approval.serial, approval.method)
    if decision.reason is not Reason.AWAITING_APPROVAL or waiting != approved:
        return (
            f"{approval.udid} does not wait for an approval of this job, action, serial number and"
            " method"
        )
    return None


def replay(seq: int, redactor: Redactor, sender_of: Callable[[str], Sender | None]) -> WriteRequest:
    """Return the request that translates a dead letter again and stores its events.

    The dead letter is marked as replayed; the response has its number as `replayed` and the number
    of `events`. `sender_of` returns the sender of a name. When prepared, the request raises
    InvalidRequestError: there is no such dead letter (404); it was replayed before, or a part of it
    still cannot be used (409).
    """

    def prepare(service: Service, now: datetime) -> AcceptedInput:
        letters = service.store.dead_letters(seq=seq) if seq <= MAX_SEQ else ()
        if not letters:
            raise InvalidRequestError(
                f"there is no dead letter {seq}: `drydock dead-letters list` has the numbers", 404
            )
        if letters[0].replayed_at is not None:
            raise InvalidRequestError(f"dead letter {seq} was replayed already", 409)
        try:
            done = retranslate(letters[0], now, redactor, sender_of)
        except ValueError as error:
            raise InvalidRequestError(f"dead letter {seq}: {error}", 409) from None
        objections = [letter.detail for letter in done.dead_letters]
        objections += [
            wrong for event in done if (wrong := service.reject_reason(event)) is not None
        ]
        if objections:
            raise InvalidRequestError(f"dead letter {seq}: {objections[0]}", 409)
        response = {"replayed": seq, "events": len(done.events)}
        return AcceptedInput(done.events, replayed=(seq,), response=response)

    return prepare


def journal(site: str) -> ReadRequest:
    """Return the request that copies the journal of a site's executor.

    It gives {"journal": the content of the file, in base64}; None without such a journal, or if it
    cannot be read.
    """

    def read(service: Service, _: datetime) -> Any:
        if site in service.executors.unusable:
            return None
        copied = service.executors.copy_journal(site)
        return None if copied is None else {"journal": base64.b64encode(copied).decode()}

    return read
