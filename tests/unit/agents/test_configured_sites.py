"""Access to the Macs of configured sites: permissions, servers, the store of answers."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import CapturingLogger

from agents.config.file import parse_agent_config
from agents.config.servers import ServerConfigError
from agents.configured_sites import (
    ANSWERS_FILE,
    SitePermissions,
    _enrollment_profile,
    _erase_pin,
    finding_reporter,
)
from agents.mac import UnreachableError
from agents.mdm.answers import Finding, FindingKind
from agents.mdm.mac import MdmMacs
from agents.mdm.metrics import MdmMetrics
from agents.preflight import Limits
from agents.ssh.mac import SshMacs
from runtime.secret_refs import SecretRef
from schemas.jobs import Action, Job, Method
from tests.configured_world import CONFIG, ENVIRONMENT, open_sites
from tests.factories.sites import START, a_job, an_erasing_job
from tests.fake_mdm import SECRETS, FakeMdm

WITH_SSH = CONFIG.replace("startosinstall", "softwareupdate")
OVER_SSH = a_job(serial="C02MAC-1")
DDM = a_job(method=Method.DDM, serial="C02MAC-1")
PERMISSIONS = SitePermissions(parse_agent_config(CONFIG).config.sites["london"])
JOBS = {
    "listed": (DDM, None),
    "not listed": (a_job(method=Method.MDM_COMMAND), "method_not_allowed"),
    "not listed, over SSH": (
        a_job(Action.REENROLL, Method.PROFILES_RENEW, intent="x", target=None),
        "method_not_allowed",
    ),
    "not listed, erases": (an_erasing_job(Method.ASR, serial="C02MAC-1"), "method_not_allowed"),
    "upgrades another Mac": (
        a_job(Action.UPGRADE, Method.STARTOSINSTALL, serial="C02MAC-2"),
        "locked",
    ),
    "upgrades a listed Mac": (
        a_job(Action.UPGRADE, Method.STARTOSINSTALL, serial="C02MAC-1"),
        None,
    ),
    "erases another Mac": (an_erasing_job(serial="C02MAC-2"), "locked"),
    "erases an unknown Mac": (an_erasing_job(), "locked"),
    "erases a listed Mac": (an_erasing_job(serial="C02MAC-1"), None),
}


@pytest.mark.parametrize(("job", "code"), JOBS.values(), ids=JOBS.keys())
def test_configuration_permits_its_methods_and_macs_only(job: Job, code: str | None) -> None:
    refusal = PERMISSIONS.refuse(job)
    assert (refusal and refusal.error_code) == code
    assert refusal is None or refusal.outcome == "refused"


def test_site_that_is_not_configured_is_in_dry_run(tmp_path: Path) -> None:
    with closing(open_sites(tmp_path, FakeMdm(START))) as sites:
        assert sites.access("tokyo") is None
        access = sites.access("london")
        assert access is not None
        assert access.limits == Limits()


def test_limits_of_the_configuration_are_those_of_the_executor(tmp_path: Path) -> None:
    text = CONFIG + "    limits: {disk_update_gb: 30, battery_intel: 60}\n"
    with closing(open_sites(tmp_path, FakeMdm(START), text)) as sites:
        access = sites.access("london")
        assert access is not None
        assert access.limits == Limits(disk_update_gb=30, battery_intel=60)


def test_order_reaches_the_configured_servers(tmp_path: Path) -> None:
    mdm = FakeMdm(START)
    mdm.enroll("MAC-1", OSVersion="26.1", BuildVersion="25B78")
    with closing(open_sites(tmp_path, mdm)) as sites:
        sites.add_events(mdm.take_events(), START, {"log": 2})
        assert sites.position("log") == 2
        access = sites.access("london")
        assert access is not None
        assert access.mac_for(DDM).act("declare", DDM, 1).error_code is None
    assert [mdm.commands[uuid]["RequestType"] for uuid in mdm.queues["MAC-1"]] == [
        "DeclarativeManagement"
    ]
    assert len(mdm.enrollment_sets["MAC-1"]) == 1


def test_method_has_its_own_way_to_the_mac(tmp_path: Path) -> None:
    with closing(open_sites(tmp_path, FakeMdm(START), WITH_SSH)) as sites:
        access = sites.access("london")
        assert access is not None
        assert access.refusal(OVER_SSH) is None
        assert isinstance(access.mac_for(OVER_SSH), SshMacs)
        assert isinstance(access.mac_for(DDM), MdmMacs)


def test_order_over_ssh_leaves_nothing_to_withdraw(tmp_path: Path) -> None:
    with closing(open_sites(tmp_path, FakeMdm(START), WITH_SSH)) as sites:
        access = sites.access("london")
        assert access is not None
        assert access.withdraw_order is not None
        assert access.withdraw_order(OVER_SSH, "order") == ""


def test_answer_names_the_mac_whose_jobs_are_due(tmp_path: Path) -> None:
    mdm = FakeMdm(START)
    mdm.enroll("MAC-1", OSVersion="26.1", BuildVersion="25B78")
    with closing(open_sites(tmp_path, mdm)) as sites:
        sites.add_events(mdm.take_events(), START, {})
        access = sites.access("london")
        assert access is not None
        access.mac_for(DDM).act("declare", DDM, 1)
        mdm.report("MAC-2", "Idle")
        assert set(sites.add_events(mdm.take_events(), START, {})) == set()
        mdm.report("MAC-1", "Acknowledged", mdm.report("MAC-1", "Idle"))
        assert set(sites.add_events(mdm.take_events(), START, {})) == {"MAC-1"}


def test_new_secret_is_used_without_a_restart(tmp_path: Path) -> None:
    mdm = FakeMdm(START)
    mdm.enroll("MAC-1", OSVersion="26.1", BuildVersion="25B78")
    environment = {**ENVIRONMENT}
    del environment["NANOMDM_API_KEY"]
    with closing(open_sites(tmp_path, mdm, environment=environment)) as sites:
        sites.add_events(mdm.take_events(), START, {})
        access = sites.access("london")
        assert access is not None
        with pytest.raises(UnreachableError, match="env:NANOMDM_API_KEY: this variable is not"):
            access.mac_for(DDM).act("declare", DDM, 1)
        environment["NANOMDM_API_KEY"] = "an old key"
        assert access.mac_for(DDM).act("declare", DDM, 1).error_code == "mdm_login_refused"
        environment |= ENVIRONMENT
        assert access.mac_for(DDM).act("declare", DDM, 1).error_code is None


def test_damaged_store_is_replaced_and_filled_again(tmp_path: Path) -> None:
    mdm = FakeMdm(START)
    (tmp_path / ANSWERS_FILE).write_bytes(b"no database" * 1000)
    with closing(open_sites(tmp_path, mdm)) as sites:
        assert sites.position("log") is None
    assert len([*tmp_path.glob(f"{ANSWERS_FILE}.damaged-*")]) == 1


def test_missing_certificates_are_one_clear_error(tmp_path: Path) -> None:
    text = CONFIG.replace("        max_req", "        ca_file: /none/ca.pem\n        max_req")
    with pytest.raises(ServerConfigError, match=r"ca_file /none/ca\.pem: No such file"):
        open_sites(tmp_path, FakeMdm(START), text)


PINS = {
    "six digits": ("604113", "604113"),
    "with a line end": ("604113\n", "604113"),
    "five digits": ("60411", None),
    "letters": ("abcdef", None),
    "unset": (None, None),
}


@pytest.mark.parametrize(("value", "pin"), PINS.values(), ids=PINS.keys())
def test_pin_for_an_erase_is_six_digits(value: str | None, pin: str | None) -> None:
    environment = {} if value is None else {"PIN": value}
    assert _erase_pin(SecretRef(source="env", name="PIN"), environment) == pin


def test_unexpected_answer_is_logged_and_counted(tmp_path: Path) -> None:
    mdm, registry, lines = FakeMdm(START), CollectorRegistry(), CapturingLogger()
    report = finding_reporter(
        structlog.wrap_logger(lines, processors=[structlog.processors.JSONRenderer()]),
        MdmMetrics(registry),
    )
    mdm.enroll("MAC-1", OSVersion="26.1", BuildVersion="25B78")
    found: list[Finding] = []
    with closing(open_sites(tmp_path, mdm, findings=found)) as sites:
        sites.add_events(mdm.take_events(), START, {})
        access = sites.access("london")
        assert access is not None
        access.mac_for(DDM).act("declare", DDM, 1)
        uuid = mdm.report("MAC-1", "Idle")
        for status in ("Acknowledged", "Error"):
            mdm.report("MAC-1", status, uuid)
            sites.add_events(mdm.take_events(), START, {})
    (finding,) = found
    report(finding)
    (call,) = lines.calls
    line = json.loads(call.args[0])
    assert (line["udid"], line["reason"], line["outcome"]) == (
        "MAC-1",
        "different_answer",
        "Error",
    )
    assert line["job_id"] == DDM.job_id
    sample = registry.get_sample_value(
        "drydock_mdm_answer_findings_total", {"kind": FindingKind.DIFFERENT_ANSWER}
    )
    assert sample == 1
    assert not any(secret in call.args[0] for secret in SECRETS)


def test_enrollment_profile_is_read_for_each_order(tmp_path: Path) -> None:
    path = tmp_path / "enroll.mobileconfig"
    text = CONFIG.replace(
        "        max_requests", f"        enrollment_profile: {path}\n        max_requests"
    )
    site = parse_agent_config(text).config.sites["london"]
    assert _enrollment_profile(site, "main") is None
    for content in (b"first", b"second"):
        path.write_bytes(content)
        assert _enrollment_profile(site, "main") == content
    assert _enrollment_profile(site, "other") is None
    plain = parse_agent_config(CONFIG).config.sites["london"]
    assert _enrollment_profile(plain, "main") is None
