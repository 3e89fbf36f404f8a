"""Contract of every adapter of `MdmServer`; a `Form` has one server and one of its Macs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pytest

from agents.mdm.commands import declarative_management, device_information
from agents.mdm.declarations import enforcement, set_name
from agents.mdm.server import (
    DeclarationSet,
    LoginRefusedError,
    MdmServer,
    ServerUnavailableError,
    Withdrawal,
)
from schemas.jobs import Target
from schemas.macos import parse_os_version
from tests.factories.sites import START, hours

ORDER = "job-0123456789abcdef0123456789abcdef/1/declare"


@dataclass(frozen=True, kw_only=True)
class Form:
    """One adapter, connected to a running server in which one Mac is enrolled.

    `next_command` sends Idle and returns the CommandUUID that the Mac gets; `answer` reports a
    status for one. `items` are the Mac's declarations with their server tokens. `foreign` gives the
    Mac another program's declaration and returns its identifier. `secrets` must never be shown.
    """

    server: MdmServer
    wrong_login: MdmServer
    down: MdmServer
    enrollment_id: str
    next_command: Callable[[], str | None]
    answer: Callable[[str, str], str | None]
    items: Callable[[], dict[str, str]]
    send_status: Callable[[dict[str, Any]], None]
    foreign: Callable[[], str]
    secrets: tuple[str, ...]


def declared(order: str = ORDER, version: str = "26.2.1") -> DeclarationSet:
    target = Target(version=parse_os_version(version))
    return enforcement(order, target, START + hours(9), UTC)


class MdmServerContract:
    """The tests; a subclass has the fixture `form`."""

    def test_command_is_delivered_once_although_it_is_queued_twice(self, form: Form) -> None:
        command = device_information(f"{ORDER}/once")
        first = form.server.enqueue(form.enrollment_id, command)
        again = form.server.enqueue(form.enrollment_id, command)
        assert (first.known_before, again.known_before) == (False, True)
        assert form.next_command() == command.uuid
        assert form.answer(command.uuid, "Acknowledged") is None
        assert form.next_command() is None

    def test_answered_command_is_not_queued_again(self, form: Form) -> None:
        command = device_information(f"{ORDER}/answered")
        form.server.enqueue(form.enrollment_id, command)
        form.next_command()
        form.answer(command.uuid, "Error")
        assert form.server.enqueue(form.enrollment_id, command).known_before
        assert form.next_command() is None

    def test_time_of_the_queueing_is_the_servers_own(self, form: Form) -> None:
        at = form.server.enqueue(form.enrollment_id, declarative_management(f"{ORDER}/time")).at
        assert at is not None
        assert at.tzinfo is not None

    def test_queued_command_cannot_be_withdrawn(self, form: Form) -> None:
        command = device_information(f"{ORDER}/withdrawn")
        form.server.enqueue(form.enrollment_id, command)
        outcome = form.server.withdraw(form.enrollment_id, command.uuid)
        assert outcome is Withdrawal.MAY_STILL_BE_DELIVERED
        assert form.next_command() == command.uuid
        form.answer(command.uuid, "Acknowledged")

    def test_declared_twice_the_mac_has_the_declarations_once_and_unchanged(
        self, form: Form
    ) -> None:
        form.server.declare(form.enrollment_id, declared())
        before = form.items()
        form.server.declare(form.enrollment_id, declared())
        assert form.items() == before
        assert {*before} >= {one.identifier for one in declared().declarations}
        assert form.server.observe(form.enrollment_id).sets >= {set_name(ORDER)}

    def test_declaration_sends_no_command_by_itself(self, form: Form) -> None:
        form.server.declare(form.enrollment_id, declared())
        form.server.withdraw(form.enrollment_id, set_name(ORDER))
        assert form.next_command() is None

    def test_withdrawal_leaves_the_declarations_of_other_programs_and_orders(
        self, form: Form
    ) -> None:
        foreign = form.foreign()
        other = ORDER.replace("/1/", "/2/")
        form.server.declare(form.enrollment_id, declared())
        form.server.declare(form.enrollment_id, declared(other))
        kept = {one.identifier for one in declared(other).declarations} | {foreign}
        for _ in range(2):
            outcome = form.server.withdraw(form.enrollment_id, set_name(ORDER))
            assert outcome is Withdrawal.WITHDRAWN
            assert {*form.items()} == kept
        assert form.server.observe(form.enrollment_id).sets == {set_name(other)}
        form.server.withdraw(form.enrollment_id, set_name(other))
        assert {*form.items()} == {foreign}

    def test_set_of_another_program_is_never_withdrawn(self, form: Form) -> None:
        foreign = form.foreign()
        outcome = form.server.withdraw(form.enrollment_id, "org.example.set")
        assert outcome is Withdrawal.MAY_STILL_BE_DELIVERED
        assert foreign in form.items()

    def test_newest_status_report_is_observed_with_its_time(self, form: Form) -> None:
        for state in ("downloading", "prepared"):
            update: dict[str, Any] = {"install-state": state, "unknown-item": [{}]}
            form.send_status({"StatusItems": {"softwareupdate": update}, "Errors": []})
        report = form.server.observe(form.enrollment_id).report
        assert report is not None
        assert report.status.install_state == "prepared"
        assert report.at.tzinfo is not None

    def test_enrollment_that_the_server_does_not_know_has_nothing(self, form: Form) -> None:
        view = form.server.observe("00000000-0000-4000-8000-00000000FFFF")
        assert (view.sets, view.report) == (frozenset(), None)

    def test_wrong_login_is_refused_without_an_effect(self, form: Form) -> None:
        command = device_information(f"{ORDER}/login")
        with pytest.raises(LoginRefusedError) as refused:
            form.wrong_login.enqueue(form.enrollment_id, command)
        assert form.next_command() is None
        assert not any(secret in str(refused.value) for secret in form.secrets)

    def test_server_that_does_not_respond_is_unavailable(self, form: Form) -> None:
        command = device_information(f"{ORDER}/down")
        with pytest.raises(ServerUnavailableError) as unavailable:
            form.down.enqueue(form.enrollment_id, command)
        assert not any(secret in str(unavailable.value) for secret in form.secrets)
        with pytest.raises(ServerUnavailableError):
            form.down.observe(form.enrollment_id)

    def test_no_representation_shows_a_secret(self, form: Form) -> None:
        shown = repr(form.server) + repr(vars(form.server)) + str(form.server)
        assert not any(secret in shown for secret in form.secrets)
