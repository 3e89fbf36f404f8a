"""The simulated Mac speaks Apple's protocol to NanoMDM and KMFDDM, as a real Mac does."""

import json
import plistlib
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest

from agents.simulated.spec import ALWAYS, Faults, Period, SimulatedRelease
from schemas.macos import parse_build, parse_os_version
from tests.factories.sites import a_spec
from tests.mdm.commands import Response
from tests.mdm.declarations import ACTIVATION, ENFORCEMENT, SUBSCRIPTIONS
from tests.mdm.fleet import ManualClock, MdmFleet
from tests.mdm.mac import Behavior, ManagedMac
from tests.mdm.servers import MdmServers
from tests.mdm.webhooks import Webhooks, payload
from tests.waiting import wait_until

START = datetime(2026, 11, 30, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
RELEASES = tuple(
    SimulatedRelease(version=parse_os_version(version), build=parse_build(build))
    for version, build in (
        ("12.7.6", "21H1320"),
        ("13.7.8", "22H730"),
        ("26.2", "25C56"),
        ("26.2.1", "25C70"),
        ("26.2.1 (a)", "25C771170a"),
    )
)
ITEMS = (
    "device.operating-system.version",
    "device.operating-system.build-version",
    "softwareupdate.install-state",
    "softwareupdate.install-reason",
    "softwareupdate.pending-version",
    "test.no-such-item",
)


class OneMac:
    """A fleet of one enrolled Mac, on a clock that the test sets."""

    def __init__(self, servers: MdmServers, behavior: Behavior, **spec: Any) -> None:
        udid = str(uuid.uuid4()).upper()
        if "os_version" in spec:
            spec["os_version"] = parse_os_version(spec["os_version"])
            spec["build"] = parse_build(spec["build"])
        made = a_spec(udid, serial="C02FAKE00001", **spec)
        self.servers = servers
        self.clock = ManualClock(START)
        self.fleet = MdmFleet(
            servers, [made], self.clock, releases=RELEASES, behaviors={udid: behavior}
        )
        self.fleet.enroll()
        self.fleet.settle()

    @property
    def mac(self) -> ManagedMac:
        [mac] = self.fleet.macs.values()
        return mac

    @property
    def udid(self) -> str:
        return self.mac.spec.udid

    @property
    def version(self) -> str:
        return str(self.mac.physics.os_version)

    @property
    def answers(self) -> list[tuple[str, str]]:
        return [(each.request_type, each.status) for each in self.mac.received]

    @property
    def performed(self) -> list[str]:
        return [each.what for each in self.mac.performed]

    def command(self, request_type: str, **more: Any) -> None:
        """Queue a command, notify the Mac, and let it do what is due."""
        self.servers.nanomdm.enqueue(self.udid, str(uuid.uuid4()), request_type, push=True, **more)
        self.fleet.settle()

    def declare(self, local: str, *targets: dict[str, str]) -> None:
        """Declare updates to these targets at this local time, with a subscription."""
        updates = [
            {
                "Type": ENFORCEMENT,
                "Identifier": f"{self.udid}.update.{number}",
                "Payload": {"TargetLocalDateTime": local, **target},
            }
            for number, target in enumerate(targets)
        ]
        subscription = {
            "Type": SUBSCRIPTIONS,
            "Identifier": f"{self.udid}.status",
            "Payload": {"StatusItems": [{"Name": name} for name in ITEMS]},
        }
        listed = [each["Identifier"] for each in (*updates, subscription)]
        activation = {
            "Type": ACTIVATION,
            "Identifier": f"{self.udid}.activation",
            "Payload": {"StandardConfigurations": listed},
        }
        kmfddm = self.servers.kmfddm
        kmfddm.declare(self.udid, *updates, subscription, activation, name=self.udid, notify=False)
        self.command("DeclarativeManagement")

    def pass_time(self, duration: timedelta) -> None:
        """Set the clock ahead by hours, and let the Mac do what is due after each."""
        end = self.clock.now + duration
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + HOUR / 4)
            self.fleet.settle()

    def status(self) -> dict[str, Any]:
        """Return the newest status report that KMFDDM has."""
        found = self.servers.kmfddm.request("GET", f"status-report/{self.udid}?index=0")
        report: dict[str, Any] = found.raise_for_status().json()
        return report


Make = Callable[..., OneMac]


@pytest.fixture
def make(site: MdmServers) -> Iterator[Make]:
    made: list[OneMac] = []

    def one(behavior: Behavior | None = None, **spec: Any) -> OneMac:
        made.append(OneMac(site, behavior or Behavior(), **spec))
        return made[-1]

    yield one
    for each in made:
        each.fleet.close()


def test_webhooks_have_the_form_of_captured_ones(
    make: Make, webhooks: Webhooks, reference_data: Path
) -> None:
    mac = make()
    mac.command("DeviceInformation", Queries=["UDID", "OSVersion", "SerialNumber", "Unknown"])
    mac.command("SecurityInfo")
    mac.declare("2026-12-01T18:00:00", {"TargetOSVersion": "26.2.1"})
    mac.command("NoSuchThing")
    wanted = {
        "01-authenticate": "mdm.Authenticate",
        "02-tokenupdate-1": "mdm.TokenUpdate",
        "03-connect-idle": "mdm.Connect",
        "04-setbootstraptoken": "mdm.SetBootstrapToken",
        "07-connect-ack-deviceinformation": "mdm.Connect",
        "11-connect-ack-securityinfo": "mdm.Connect",
        "17-connect-error-unknown": "mdm.Connect",
        "20-ddm-tokens": "mdm.DeclarativeManagement",
        "25-ddm-status-downloading": "mdm.DeclarativeManagement",
    }
    wait_until(
        lambda: any("ErrorChain" in one for one in webhooks.messages("mdm.Connect", mac.udid)),
        10,
        "the last answer did not arrive",
    )
    schema = json.loads((reference_data / "mdm/nanomdm/webhook-event.schema.json").read_text())
    for body in webhooks.bodies:
        jsonschema.validate(body, schema)
    for name, topic in wanted.items():
        captured = json.loads((reference_data / f"mdm/nanomdm-live/{name}.json").read_text())
        ours = [form(one) for one in webhooks.messages(topic, mac.udid)]
        assert any(form(payload(captured)) <= one for one in ours), name


def form(message: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the keys of a message with the types of their values."""
    optional = {"Topic", "ModelName", "AwaitingConfiguration"}
    return {(key, type(value).__name__) for key, value in message.items() if key not in optional}


def test_a_declared_update_is_installed_at_the_macs_own_time(make: Make) -> None:
    mac = make(Behavior(zone=ZoneInfo("Asia/Tokyo")))
    # 18:00 in Tokyo is 09:00 UTC, an hour from now.
    mac.declare("2026-11-30T18:00:00", {"TargetOSVersion": "26.2.1"})
    assert mac.answers == [("DeclarativeManagement", "Acknowledged")]
    first = mac.status()
    assert first["FullReport"] is True
    assert first["StatusItems"]["softwareupdate"]["install-state"] == "none"
    assert first["Errors"] == [
        {"StatusItem": "test.no-such-item", "Reasons": [{"Code": "Error.StatusItemNotSupported"}]}
    ]
    mac.pass_time(HOUR / 2)
    assert mac.version == "26.1"
    waiting = mac.status()["StatusItems"]
    assert "device" not in waiting  # unchanged
    assert waiting["softwareupdate"]["install-state"] == "prepared"
    assert waiting["softwareupdate"]["pending-version"]["os-version"] == "26.2.1"
    mac.pass_time(HOUR * 2)
    assert mac.version == "26.2.1"
    after = mac.status()
    assert after["StatusItems"]["device"]["operating-system"]["version"] == "26.2.1"
    assert after["StatusItems"]["softwareupdate"]["install-state"] == "none"
    assert "FullReport" not in after
    assert mac.performed == ["26.2.1"]


def test_a_target_without_a_patch_is_the_newest_patch(make: Make) -> None:
    mac = make()
    mac.declare("2026-11-30T08:30:00", {"TargetOSVersion": "26.2"})
    mac.pass_time(HOUR * 2)
    assert mac.version == "26.2.1"


def test_a_supplement_is_installed_after_its_release(make: Make) -> None:
    mac = make()
    base = {"TargetOSVersion": "26.2.1"}
    mac.declare("2026-11-30T08:30:00", base, base | {"TargetBuildVersion": "25C771170a"})
    mac.pass_time(HOUR * 4)
    assert mac.performed == ["26.2.1", "26.2.1 (a)"]
    assert mac.version == "26.2.1 (a)"


def test_a_withdrawn_update_is_not_installed(make: Make) -> None:
    mac = make()
    mac.declare("2026-11-30T18:00:00", {"TargetOSVersion": "26.2.1"})
    mac.pass_time(HOUR)
    mac.servers.kmfddm.withdraw(mac.udid, mac.udid, notify=False)
    mac.command("DeclarativeManagement")
    mac.pass_time(HOUR * 12)
    assert mac.version == "26.1"


@pytest.mark.parametrize(
    "target",
    [
        pytest.param({"TargetOSVersion": "26.9.9"}, id="not offered by Apple"),
        pytest.param({"TargetOSVersion": "13.7.8"}, id="older"),
    ],
)
def test_a_target_that_cannot_be_installed_changes_nothing(
    make: Make, target: dict[str, str]
) -> None:
    mac = make()
    mac.declare("2026-11-30T08:30:00", target)
    mac.pass_time(HOUR * 2)
    assert (mac.version, mac.performed) == ("26.1", [])


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"os_version": "13.7", "build": "22H123"}, id="macOS 13"),
        pytest.param({"supervised": False}, id="not supervised"),
    ],
)
def test_an_unsupported_declaration_is_invalid(make: Make, spec: dict[str, Any]) -> None:
    mac = make(**spec)
    mac.declare("2026-11-30T08:30:00", {"TargetOSVersion": "26.2.1"})
    declarations = mac.status()["StatusItems"]["management"]["declarations"]
    [update] = [one for one in declarations["configurations"] if ".update." in one["identifier"]]
    assert (update["active"], update["valid"]) == (False, "invalid")
    assert update["reasons"] == [{"code": "Error.ConfigurationNotSupported"}]


@pytest.mark.parametrize(
    ("running", "build", "target", "status", "then"),
    [
        pytest.param("12.7", "21G816", "12.7.6", "Acknowledged", "12.7.6", id="macOS 12"),
        pytest.param("13.7", "22H123", "13.7.8", "Acknowledged", "13.7.8", id="macOS 13"),
        pytest.param("11.7.10", "20G1427", "13.7.8", "Acknowledged", "11.7.10", id="macOS 11"),
        pytest.param("27.0", "26A428", "27.1", "Error", "27.0", id="macOS 27 has no command"),
    ],
)
def test_an_update_by_command(
    make: Make, running: str, build: str, target: str, status: str, then: str
) -> None:
    mac = make(os_version=running, build=build)
    mac.command(
        "ScheduleOSUpdate", Updates=[{"InstallAction": "InstallASAP", "ProductVersion": target}]
    )
    assert mac.answers == [("ScheduleOSUpdate", status)]
    mac.pass_time(HOUR * 2)
    assert mac.version == then


def test_a_command_is_ignored_beside_a_declared_update(make: Make) -> None:
    mac = make()
    mac.declare("2026-11-30T18:00:00", {"TargetOSVersion": "26.2.1"})
    mac.command(
        "ScheduleOSUpdate", Updates=[{"InstallAction": "InstallASAP", "ProductVersion": "26.2.1"}]
    )
    mac.pass_time(HOUR)
    assert mac.version == "26.1"


def test_a_declined_command_is_carried_out_later_without_a_second_one(make: Make) -> None:
    mac = make(Behavior(not_now={"SecurityInfo": 2}))
    mac.command("SecurityInfo")
    assert mac.answers == [("SecurityInfo", "NotNow")]
    mac.pass_time(HOUR * 2)
    assert [status for _, status in mac.answers] == ["NotNow", "NotNow", "Acknowledged"]
    assert len({each.uuid for each in mac.mac.received}) == 1


def test_a_mac_that_acknowledges_and_does_nothing(make: Make) -> None:
    mac = make(faults=Faults(ignored=ALWAYS))
    mac.declare("2026-11-30T08:30:00", {"TargetOSVersion": "26.2.1"})
    mac.pass_time(HOUR * 6)
    assert mac.version == "26.1"
    assert mac.status()["StatusItems"]["softwareupdate"]["install-state"] == "none"


def test_a_mac_that_is_offline_gets_its_command_when_it_is_back(make: Make) -> None:
    mac = make(faults=Faults(offline=(Period(START + HOUR, START + 3 * HOUR),)))
    mac.pass_time(HOUR * 1.5)
    mac.command("SecurityInfo")
    assert mac.answers == []
    mac.pass_time(HOUR * 2)
    assert mac.answers == [("SecurityInfo", "Acknowledged")]


def test_a_dead_enrollment_gets_nothing(make: Make) -> None:
    mac = make(Behavior(dies_at=START))
    mac.command("SecurityInfo")
    mac.pass_time(HOUR * 24)
    assert mac.answers == []


def test_an_erased_mac_enrolls_again_with_another_identity(make: Make, webhooks: Webhooks) -> None:
    mac = make()
    before = mac.mac.token
    mac.command("EraseDevice", ObliterationBehavior="DoNotObliterate")
    mac.servers.nanomdm.enqueue(mac.udid, str(uuid.uuid4()), "SecurityInfo")
    assert mac.answers == [("EraseDevice", "Acknowledged")]
    mac.pass_time(HOUR * 3)
    assert mac.performed == ["erase"]
    # The server's queue is cleared by the new Authenticate.
    assert mac.answers == [("EraseDevice", "Acknowledged")]
    assert mac.mac.token != before
    assert len(webhooks.messages("mdm.Authenticate", mac.udid)) == 2
    mac.command("SecurityInfo")
    assert mac.answers[-1] == ("SecurityInfo", "Acknowledged")


@pytest.mark.parametrize(
    ("behavior", "content", "status", "erased"),
    [
        pytest.param(
            Behavior(eacs_preflight="no bootstrap token"),
            {"ObliterationBehavior": "DoNotObliterate"},
            "Error",
            False,
            id="refused",
        ),
        pytest.param(
            Behavior(eacs_preflight="no bootstrap token"), {}, "Error", True, id="erased anyway"
        ),
        pytest.param(Behavior(pin_required=True), {}, "Error", False, id="no PIN"),
        pytest.param(
            Behavior(pin_required=True), {"PIN": "123456"}, "Acknowledged", True, id="with PIN"
        ),
    ],
)
def test_an_erasure_by_its_conditions(
    make: Make, behavior: Behavior, content: dict[str, str], status: str, erased: bool
) -> None:
    mac = make(behavior)
    mac.command("EraseDevice", **content)
    assert mac.answers == [("EraseDevice", status)]
    assert mac.performed == (["erase"] if erased else [])


@pytest.mark.parametrize("answers", [False, True])
def test_a_new_enrollment_profile_begins_an_enrollment(
    make: Make, webhooks: Webhooks, answers: bool
) -> None:
    mac = make(Behavior(answers_enrollment_profile=answers))
    content = [{"PayloadType": "com.apple.mdm"}]
    mac.command("InstallProfile", Payload=plistlib.dumps({"PayloadContent": content}))
    mac.pass_time(HOUR)
    assert len(webhooks.messages("mdm.Authenticate", mac.udid)) == 2
    answered = [
        one for one in webhooks.messages("mdm.Connect", mac.udid) if one["Status"] != "Idle"
    ]
    assert len(answered) == answers


def test_an_invalid_profile_is_a_format_error(make: Make) -> None:
    mac = make()
    mac.command("InstallProfile", Payload=b"not a profile")
    assert mac.answers == [("InstallProfile", "CommandFormatError")]


def test_a_scripted_error_comes_once(make: Make) -> None:
    error = Response.error(12, "SomeDomain", "text")
    mac = make(Behavior(errors={"SecurityInfo": (error,)}))
    mac.command("SecurityInfo")
    mac.command("SecurityInfo")
    assert mac.answers == [("SecurityInfo", "Error"), ("SecurityInfo", "Acknowledged")]


def test_a_mac_in_setup_assistant_awaits_configuration(make: Make, webhooks: Webhooks) -> None:
    mac = make(Behavior(awaiting_configuration=True))
    [message] = webhooks.messages("mdm.TokenUpdate", mac.udid)
    assert message["AwaitingConfiguration"] is True


def test_a_repeated_answer_costs_the_next_command_on_the_default_storage(make: Make) -> None:
    mac = make(Behavior(repeats_answers=True))
    for _ in range(3):
        mac.servers.nanomdm.enqueue(mac.udid, str(uuid.uuid4()), "SecurityInfo")
    mac.command("SecurityInfo")
    mac.pass_time(HOUR * 7)
    assert len(mac.answers) < 4
