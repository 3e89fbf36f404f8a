"""`agent check` and `doctor`: summaries, warnings and exit codes; no secret is printed."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from agents.cli import app
from agents.config.doctor import Check, Level, examine
from agents.config.file import parse_agent_config
from agents.config.lint import lint
from agents.config.secrets import SecretError, read_secret
from pipeline.cli.app import app as drydock
from runtime.secret_refs import SecretRef, weak_permissions

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
KEY = "the-key-of-the-test"
SITE = """\
sites:
  london:
    time_zone: Europe/London
    mdm_servers:
      - name: main
        kind: nanomdm
        url: https://mdm.example.org
        login: env:NANOMDM_API_KEY
        ddm: {url: "https://ddm.example.org", login: env:KMFDDM_API_KEY}
        max_requests_per_s: 1000
    methods: [ddm]
"""
UNLOCKED = "    allow_destructive: [C02XK1ZYJHD3]\n"
SSH = """\
sites:
  london:
    time_zone: Europe/London
    ssh:
      user: drydock
      key: /etc/drydock/ssh/key
      known_hosts: /etc/drydock/ssh/known_hosts
      address: "{serial}.macs.example.org"
      volume_owner: {user: itadmin, password: env:OWNER_PASSWORD}
    methods: [softwareupdate]
"""
ENVIRONMENT = {"NANOMDM_API_KEY": KEY, "KMFDDM_API_KEY": KEY}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "agent.yaml"
    path.write_text(SITE)
    return path


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


# --- check ---


def test_valid_file_is_summarized_without_its_secrets(config: Path) -> None:
    done = run("check", config)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[:2] == ["london (Europe/London)", "methods: ddm"]
    assert "login: env:NANOMDM_API_KEY is set" in lines
    assert "erase, reinstall and migration: locked for every Mac" in lines
    assert lines[-1] == "every other site is in dry run"
    assert KEY not in done.output


def test_both_programs_have_the_command(config: Path) -> None:
    done = CliRunner().invoke(drydock, ["agent", "check", str(config)])
    assert (done.exit_code, done.stdout) == (0, run("check", config).stdout)


def test_json_of_a_site_has_the_lock_and_the_places_of_secrets(config: Path) -> None:
    text = SITE.replace("[ddm]", "[ddm, erase_device]") + "    allow_destructive: [b2, a1]\n"
    config.write_text(text)
    done = run("check", config, "--json")
    (site,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (site["locked"], site["allow_destructive"]) == (["erase_device"], ["A1", "B2"])
    (server,) = site["mdm_servers"]
    assert server["login"] == {"from": "env:NANOMDM_API_KEY", "is_set": True, "problem": None}
    assert KEY not in done.stdout


def test_secret_that_cannot_be_read_exits_1(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMFDDM_API_KEY")
    done = run("check", config)
    assert done.exit_code == 1
    assert "login: env:KMFDDM_API_KEY: this variable is not set" in done.stdout
    assert done.stderr == f"drydock: {config}: 1 secret cannot be used here\n"


@pytest.fixture
def ssh_config(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OWNER_PASSWORD", KEY)
    (tmp_path / "key").write_text("a private key")
    config.write_text(SSH.replace("/etc/drydock/ssh/key", str(tmp_path / "key")))
    return config


def test_access_over_ssh_is_summarized_without_its_secrets(
    ssh_config: Path, tmp_path: Path
) -> None:
    done = run("check", ssh_config)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "SSH as drydock to {serial}.macs.example.org, 0 by serial number, port 22" in lines
    assert f"key: {tmp_path}/key; host keys: /etc/drydock/ssh/known_hosts" in lines
    assert "volume owner itadmin: env:OWNER_PASSWORD is set" in lines
    (site,) = [json.loads(line) for line in run("check", ssh_config, "--json").stdout.splitlines()]
    assert site["ssh"]["volume_owner"]["password"]["is_set"] is True
    assert KEY not in done.output


def test_ssh_key_or_password_that_cannot_be_read_exits_1(
    ssh_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OWNER_PASSWORD")
    (tmp_path / "key").unlink()
    done = run("check", ssh_config)
    assert done.exit_code == 1
    assert f"key: {tmp_path}/key: No such file or directory" in done.stdout
    assert done.stderr.endswith("2 secrets cannot be used here\n")


INSTALLERS = """\
    installers:
      bucket:
        name: macs
        endpoint: https://s3.example.org
        access_key: env:AK
        secret_key: env:SK
      folder: /var/lib/drydock/installers
      listen: 127.0.0.1:8790
      url: http://agent.example.org:8790
      report_secret: env:REPORTS
"""
IMAGE = """\
      images:
        - name: loan
          url: https://images.example.org/loan.dmg
          size_bytes: 12000000000
          sha256: "%s"
          models: ["MacBookPro13,*"]
          version: "12.7.6"
          build: 21H1320
          firmware: 529.140.2.0.0
          volume: Loan
""" % ("0" * 64)


ACTIVATION = """\
      activations:
        office:
          test: [/bin/test, -e, /Library/office.licence]
          command: [/usr/local/bin/office-activate, --from-stdin]
          secret: env:LICENCE
"""


def test_activations_are_summarized_without_their_secrets(
    ssh_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ssh_config.read_text().replace("[softwareupdate]", "[activation_command]")
    ssh_config.write_text(text.replace("    methods:", ACTIVATION + "    methods:"))
    line = "activation office: /usr/local/bin/office-activate, env:LICENCE"
    missing = run("check", ssh_config)
    assert missing.exit_code == 1
    monkeypatch.setenv("LICENCE", "licence-4711")
    done = run("check", ssh_config)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{line} is set" in [row.strip() for row in done.stdout.splitlines()]
    (site,) = [json.loads(row) for row in run("check", ssh_config, "--json").stdout.splitlines()]
    assert site["ssh"]["activations"]["office"]["secret"]["is_set"] is True
    assert "licence-4711" not in done.output


def test_images_and_the_cache_of_installers_are_summarized_without_secrets(
    ssh_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AK", "SK", "REPORTS"):
        monkeypatch.setenv(name, KEY)
    text = ssh_config.read_text()
    images = IMAGE + "      images_from: {name: images, region: eu-west-2}\n"
    ssh_config.write_text(text.replace("    methods:", images + "    methods:") + INSTALLERS)
    done = run("check", ssh_config)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert (
        "image loan: macOS 12.7.6 (21H1320), firmware 529.140.2.0.0, for MacBookPro13,*, 12 GB at"
        " https://images.example.org/loan.dmg, restored to the volume Loan"
    ) in lines
    assert "images of bucket images/ at Amazon S3, region eu-west-2" in lines
    assert "installers: bucket macs/ at https://s3.example.org" in lines
    assert "login: env:AK is set, env:SK is set" in lines
    assert (
        "cache: /var/lib/drydock/installers, at most 80 GB, 2 GB of the volume stay free; served"
        " at http://agent.example.org:8790 by 127.0.0.1:8790"
    ) in lines
    assert "reports of content caches: env:REPORTS is set" in lines
    (site,) = [json.loads(line) for line in run("check", ssh_config, "--json").stdout.splitlines()]
    assert site["installers"]["bucket"]["secret_key"]["is_set"] is True
    assert site["ssh"]["images"][0]["volume"] == "Loan"
    assert KEY not in done.output


def test_login_of_the_bucket_that_cannot_be_read_exits_1(
    ssh_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AK", KEY)
    ssh_config.write_text(ssh_config.read_text() + INSTALLERS)
    done = run("check", ssh_config)
    assert done.exit_code == 1
    assert "login: env:AK is set, env:SK: this variable is not set" in done.stdout
    assert done.stderr.endswith("2 secrets cannot be used here\n")


def test_doctor_finds_weak_files_of_the_pin_and_of_the_bucket(
    ssh_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AK", KEY)
    (tmp_path / "pin").write_text("604113")
    (tmp_path / "pin").chmod(0o644)
    text = ssh_config.read_text() + INSTALLERS + f"    erase_pin: file:{tmp_path}/pin\n"
    ssh_config.write_text(text)
    done = run("doctor", "--config", ssh_config)
    assert done.exit_code == 1
    assert f"PIN for an erase: file:{tmp_path}/pin" in done.stdout
    assert "secret key of the bucket: env:SK: this variable is not set" in done.stdout
    assert "604113" not in done.output
    assert KEY not in done.output


def test_site_without_a_cache_of_installers_is_named(config: Path) -> None:
    assert "installers: each Mac fetches its own from Apple" in run("check", config).stdout


@pytest.mark.parametrize(("pin", "code"), [("604113", 0), ("6041", 1), ("hunter2", 1)])
def test_pin_for_an_erase_is_checked_and_not_shown(
    config: Path, monkeypatch: pytest.MonkeyPatch, pin: str, code: int
) -> None:
    monkeypatch.setenv("PIN", pin)
    config.write_text(SITE + "    erase_pin: env:PIN\n")
    done = run("check", config)
    assert done.exit_code == code
    shown = "env:PIN is set" if code == 0 else "env:PIN: is not six digits"
    assert f"PIN for an erase: {shown}" in done.stdout
    assert pin not in done.output


def test_invalid_file_exits_1_with_a_line_per_problem(config: Path) -> None:
    config.write_text(SITE.replace("env:NANOMDM_API_KEY", KEY).replace("[ddm]", "[dmd]"))
    done = run("check", config)
    assert done.exit_code == 1
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        f"{config}:8:16",
        f"{config}:11:15",
    ]
    assert done.stderr == f"drydock: {config} is not a valid configuration: 2 problems\n"
    assert KEY not in done.output


def test_unreadable_file_exits_2(tmp_path: Path) -> None:
    done = run("check", tmp_path / "none.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("drydock: cannot read ")


def test_warnings_exit_1_only_with_strict(config: Path) -> None:
    config.write_text(SITE.replace("[ddm]", "[ddm, erase_device]"))
    lenient, strict = run("check", config), run("check", config, "--strict")
    assert (lenient.exit_code, strict.exit_code) == (0, 1)
    assert lenient.stdout.startswith(f"{config}:11:14: warning: sites.london.methods: erase_device")


WARNINGS = {
    "SSH without a method": (
        SITE + SSH[SSH.index("    ssh:") : SSH.index("    methods:")],
        "ssh",
        "no method of this site uses SSH",
    ),
    "SSH without a volume owner": (
        SSH.replace("      volume_owner: {user: itadmin, password: env:OWNER_PASSWORD}\n", ""),
        "ssh",
        "without `volume_owner`",
    ),
    "unused server": (
        SITE.replace("    methods: [ddm]\n", "") + SSH[SSH.index("    ssh:") :],
        "mdm_servers",
        "no method of",
    ),
    "plain HTTP": (SITE.replace("https://mdm", "http://mdm"), "mdm_servers[0].url", "without TLS"),
    "plain HTTP of KMFDDM": (
        SITE.replace("https://ddm", "http://ddm"),
        "mdm_servers[0].ddm.url",
        "without TLS",
    ),
    "locked for all": (SITE.replace("[ddm]", "[erase_device]"), "methods", "locked for every Mac"),
    "permission without a method": (
        SITE + UNLOCKED,
        "allow_destructive",
        "no method of this site erases",
    ),
}


@pytest.mark.parametrize(("text", "path", "message"), WARNINGS.values(), ids=WARNINGS.keys())
def test_odd_setting_has_a_warning(text: str, path: str, message: str) -> None:
    found = [(one.path, one.message) for one in lint(parse_agent_config(text))]
    assert any(where == f"sites.london.{path}" and message in what for where, what in found)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_plain_http_on_this_machine_has_no_warning(host: str) -> None:
    text = SITE.replace("https://mdm.example.org", f"http://{host}:9000")
    assert lint(parse_agent_config(text)) == []


# --- secrets ---


def test_secret_of_a_file_has_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    secret = read_secret(SecretRef.model_validate(f"file:{tmp_path / 'key'}"), {})
    assert secret.get_secret_value() == KEY
    assert KEY not in f"{secret!r} {secret}"


UNUSABLE = {
    "empty": (b" \n", "is empty"),
    "two lines": (f"{KEY}\n{KEY}".encode(), "more than one line"),
    "binary": (b"\xff\xfe" + KEY.encode(), "is no text"),
    "large": (KEY.encode() * 10_000, "is larger than 64 KiB"),
    "missing": (None, "No such file"),
}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_secret_is_refused_without_its_value(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    reference = SecretRef.model_validate(f"file:{tmp_path / 'key'}")
    with pytest.raises(SecretError, match=message) as error:
        read_secret(reference, {})
    assert str(reference) in str(error.value)
    assert KEY not in f"{error.value!r} {error.value.__cause__!r}"


@pytest.mark.parametrize(("mode", "weak"), [(0o600, False), (0o640, False), (0o604, True)])
def test_file_that_every_user_can_read_is_weak(tmp_path: Path, mode: int, *, weak: bool) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    assert (weak_permissions(SecretRef.model_validate(f"file:{path}")) is not None) is weak


# --- doctor ---


class FakeServers(httpx.BaseTransport):
    """NanoMDM and KMFDDM as they answer the requests of the doctor; attributes change that."""

    version = "unknown"
    skew = timedelta(0)
    key = KEY
    with_api = True
    anyone = False
    is_open = False
    body: bytes | None = None

    def __init__(self) -> None:
        self.seen: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response of the server that the host names."""
        self.seen.append(f"{request.method} {request.url.path}")
        date = {"Date": format_datetime(NOW + self.skew, usegmt=True)}
        if request.url.path == "/version":
            body = self.body or json.dumps({"version": self.version}).encode()
            return httpx.Response(200, headers=date, content=body)
        is_nano = request.url.host == "mdm.example.org"
        if request.url.path == "/tokens" and not is_nano:
            return httpx.Response(200 if self.is_open else 404)
        if not self.with_api:
            return httpx.Response(404)
        wanted = httpx.BasicAuth("nanomdm" if is_nano else "kmfddm", self.key)
        expected = next(wanted.auth_flow(httpx.Request("GET", request.url)))
        if expected.headers["Authorization"] != request.headers["Authorization"]:
            return httpx.Response(400 if self.anyone else 401)
        return httpx.Response(400 if is_nano else 200, json=[])


def diagnose(servers: httpx.BaseTransport, text: str = SITE) -> Iterator[Check]:
    return examine(parse_agent_config(text), ENVIRONMENT, lambda: NOW, servers)


def serious(found: Iterator[Check]) -> list[str]:
    return [f"{one.level}: {one.message}" for one in found if one.level not in ("ok", "note")]


def test_healthy_servers_have_notes_only_and_are_not_changed() -> None:
    servers = FakeServers()
    found = list(diagnose(servers))
    assert serious(iter(found)) == []
    assert {one.message for one in found if one.level is Level.OK} == {
        "NanoMDM responds, version unknown",
        "NanoMDM accepts the login",
        "KMFDDM responds, version unknown",
        "KMFDDM accepts the login",
    }
    assert sum("storage cannot be seen" in one.message for one in found) == 1
    assert {line.split()[0] for line in servers.seen} == {"GET"}
    assert KEY not in repr(found)


SICK = {
    "wrong key": (
        {"key": "another"},
        "error: https://mdm.example.org refuses the login of nanomdm",
    ),
    "without an API": ({"with_api": False}, "error: NanoMDM has no API at this URL"),
    "no login needed": ({"anyone": True}, "warning: NanoMDM does not refuse a wrong login"),
    "another program": ({"body": b"<html>"}, "warning: /version is not that of NanoMDM"),
    "untested version": ({"version": "v0.8.0"}, "warning: NanoMDM v0.8.0 is not tested; v0.9.0"),
    "clock behind": ({"skew": -timedelta(minutes=5)}, "300 s behind this machine's"),
    "clock ahead": ({"skew": timedelta(minutes=5)}, "300 s ahead of this machine's"),
    "open protocol": ({"is_open": True}, "endpoints for Macs can be reached over the network"),
}


@pytest.mark.parametrize(("changes", "message"), SICK.values(), ids=SICK.keys())
def test_weak_setting_of_a_server_is_found(changes: dict[str, object], message: str) -> None:
    servers = FakeServers()
    vars(servers).update(changes)
    assert any(message in line for line in serious(diagnose(servers)))


def test_small_difference_of_clocks_is_accepted() -> None:
    servers = FakeServers()
    servers.skew = timedelta(seconds=20)
    assert serious(diagnose(servers)) == []


def test_server_that_is_away_is_an_error() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    found = serious(diagnose(httpx.MockTransport(refuse)))
    assert found == [
        "error: NanoMDM does not respond: https://mdm.example.org: connection refused",
        "error: KMFDDM does not respond: https://ddm.example.org: connection refused",
    ]


def test_missing_secret_and_missing_certificates_are_errors(tmp_path: Path) -> None:
    text = SITE.replace("env:KMFDDM_API_KEY", "env:NONE")
    assert serious(diagnose(FakeServers(), text)) == [
        "error: KMFDDM's login: env:NONE: this variable is not set"
    ]
    text = SITE + "".join(f"    # {n}\n" for n in range(2))
    ca = text.replace(
        "max_requests_per_s", f"ca_file: {tmp_path / 'ca.pem'}\n        max_requests_per_s"
    )
    (found,) = serious(diagnose(FakeServers(), ca))
    assert found == f"error: ca_file {tmp_path / 'ca.pem'}: No such file or directory"


def test_doctor_exits_1_for_a_server_that_does_not_respond(config: Path) -> None:
    config.write_text(
        SITE.replace("https://mdm.example.org", "http://127.0.0.1:1").replace(
            "https://ddm.example.org", "http://127.0.0.1:1"
        )
    )
    done = CliRunner().invoke(drydock, ["doctor", "--config", str(config), "--json"])
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["level"] for row in rows] == ["error", "note", "note", "error"]
    assert {(row["kind"], row["site"], row["server"]) for row in rows} == {
        ("check", "london", "main")
    }
    assert done.stderr == f"drydock: {config}: 2 warnings or errors\n"
    assert KEY not in done.output


def examine_ssh(folder: Path) -> list[str]:
    text = SSH.replace("/etc/drydock/ssh", str(folder))
    found = examine(parse_agent_config(text), {"OWNER_PASSWORD": KEY}, lambda: NOW)
    return [one.line() for one in found if one.level is not Level.NOTE]


def test_login_over_ssh_without_a_fault_has_no_warning(tmp_path: Path) -> None:
    for name in ("key", "known_hosts"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    assert examine_ssh(tmp_path) == []


def test_weak_or_missing_file_of_the_login_over_ssh_is_found(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x")
    (tmp_path / "key").chmod(0o604)
    missing, weak = examine_ssh(tmp_path)
    assert missing == f"london/ssh: error: login: {tmp_path}/known_hosts: No such file or directory"
    assert weak.startswith("london/ssh: warning: key: ")
