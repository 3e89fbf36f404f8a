"""Configuration of sites: valid files, each error with its line, and no secret in a message."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.config.file import AgentConfigError, parse_agent_config, read_agent_config
from agents.config.model import AgentConfig
from agents.config.ssh_access import address_of
from agents.ssh.connection import NotConnectedError
from runtime.secret_refs import SecretRef
from runtime.yaml_file import UnreadableFileError
from schemas.jobs import Method

WHOLE = """\
version: 1
sites:
  london:
    time_zone: Europe/London
    mdm_servers:
      - name: main
        kind: nanomdm
        url: https://mdm.example.org/nano/
        login: env:NANOMDM_API_KEY
        ddm: {url: "http://127.0.0.1:9002", login: file:/etc/drydock/kmfddm.key}
        max_requests_per_s: 2.5
        max_open_commands: 40
        timeout_s: 3
        ca_file: /etc/drydock/mdm-ca.pem
    methods: [ddm, erase_device]
    allow_destructive: [c02xk1zyjhd3, "123456789012"]
    limits: {disk_update_gb: 20}
"""
SITE = "sites:\n  london:\n    time_zone: Europe/London\n"
SERVER = """\
    mdm_servers:
      - name: main
        kind: nanomdm
        url: https://mdm.example.org
        login: env:KEY
"""
SECRET = "Tr0ub4dor-and-3"
SSH = (
    SITE
    + """\
    ssh:
      user: drydock
      key: /etc/drydock/ssh/id_ed25519
      known_hosts: /etc/drydock/ssh/known_hosts
      address: "{serial}.macs.example.org"
      addresses: {c02xk1zyjhd3: 10.1.2.3}
      volume_owner: {user: itadmin, password: env:OWNER_PASSWORD}
    methods: [softwareupdate]
"""
)


def test_whole_file_is_read() -> None:
    site = parse_agent_config(WHOLE).config.sites["london"]
    (server,) = site.mdm_servers
    assert site.methods == (Method.DDM, Method.ERASE_DEVICE)
    assert site.allow_destructive == {"C02XK1ZYJHD3", "123456789012"}
    assert (site.limits.disk_update_gb, site.limits.battery_intel) == (20, 50)
    assert server.url == "https://mdm.example.org/nano"
    assert server.login == SecretRef(source="env", name="NANOMDM_API_KEY")
    assert server.ddm is not None
    assert str(server.ddm.login) == "file:/etc/drydock/kmfddm.key"


def test_file_without_permitted_serial_numbers_permits_none() -> None:
    config = parse_agent_config(SITE + SERVER + "    methods: [mdm_command]\n").config
    assert config.sites["london"].allow_destructive == frozenset()


def test_configuration_survives_a_round_trip() -> None:
    config = parse_agent_config(WHOLE).config
    assert AgentConfig.model_validate_json(config.model_dump_json()) == config


def test_access_over_ssh_is_read() -> None:
    ssh = parse_agent_config(SSH).config.sites["london"].ssh
    assert ssh is not None
    assert (ssh.user, ssh.port) == ("drydock", 22)
    assert address_of(ssh, "C02XK1ZYJHD3") == "10.1.2.3"
    assert address_of(ssh, "C02OTHER0001") == "c02other0001.macs.example.org"


def test_mac_without_an_address_is_named() -> None:
    text = SSH.replace('      address: "{serial}.macs.example.org"\n', "")
    ssh = parse_agent_config(text).config.sites["london"].ssh
    assert ssh is not None
    with pytest.raises(NotConnectedError, match="no address of C02OTHER0001") as error:
        address_of(ssh, "C02OTHER0001")
    assert error.value.obstacle is not None


def with_server(text: str) -> str:
    return SITE + SERVER + text + "    methods: [mdm_command]\n"


BROKEN = {
    "empty": ("", 1, "", "the file is empty"),
    "no sites": ("version: 1\n", 1, "sites", "is required and missing"),
    "sites without a site": ("sites: {}\n", 1, "sites", "must not be empty"),
    "later version": ("version: 2\n" + WHOLE.removeprefix("version: 1\n"), 1, "version", "must be"),
    "name of a site": (
        SSH.replace("london", "Lon don"),
        2,
        "sites.Lon don",
        "a site's name is lower-case",
    ),
    "unknown key of a site": (
        WHOLE.replace("allow_destructive", "allow_destructiv"),
        16,
        "sites.london.allow_destructiv",
        "unknown key; did you mean 'allow_destructive'?",
    ),
    "unknown key of a server": (
        with_server("        timeouts: 3\n"),
        9,
        "sites.london.mdm_servers[0].timeouts",
        "unknown key; did you mean 'timeout_s'?",
    ),
    "unknown time zone": (
        WHOLE.replace("Europe/London", "London"),
        4,
        "sites.london.time_zone",
        "did you mean Europe/London?",
    ),
    "unknown method": (
        WHOLE.replace("[ddm, erase_device]", "[dmd]"),
        15,
        "sites.london.methods[0]",
        "did you mean 'ddm'?",
    ),
    "repeated method": (
        WHOLE.replace("[ddm, erase_device]", "[ddm, ddm]"),
        15,
        "sites.london.methods",
        "ddm is listed twice",
    ),
    "no method": (SITE + "    methods: []\n", 4, "sites.london.methods", "must not be empty"),
    "MDM method without a server": (
        SITE + "    methods: [erase_device]\n",
        4,
        "sites.london.methods",
        "erase_device needs an entry in `mdm_servers`",
    ),
    "declarations without their server": (
        SITE + SERVER + "    methods: [ddm]\n",
        9,
        "sites.london.methods",
        "ddm needs a server with `ddm`",
    ),
    "profile without its file": (
        SITE + SERVER + "    methods: [install_profile]\n",
        9,
        "sites.london.methods",
        "install_profile needs a server with `enrollment_profile`",
    ),
    "two servers of one name": (
        SITE + SERVER + SERVER.split("\n", 1)[1] + "    methods: [mdm_command]\n",
        5,
        "sites.london.mdm_servers",
        "two servers are called main",
    ),
    "server of another kind": (
        WHOLE.replace("kind: nanomdm", "kind: nanomdn"),
        7,
        "sites.london.mdm_servers[0].kind",
        "must be 'nanomdm'; did you mean 'nanomdm'?",
    ),
    "URL without a scheme": (
        WHOLE.replace("https://mdm.example.org/nano/", "mdm.example.org"),
        8,
        "sites.london.mdm_servers[0].url",
        "must be a URL",
    ),
    "URL of a file": (
        WHOLE.replace("https://mdm.example.org/nano/", "file:///etc/passwd"),
        8,
        "sites.london.mdm_servers[0].url",
        "must be a URL",
    ),
    "URL with a port that is none": (
        WHOLE.replace("mdm.example.org", "mdm.example.org:port"),
        8,
        "sites.london.mdm_servers[0].url",
        "must be a URL",
    ),
    "URL with a login": (
        WHOLE.replace("https://", f"https://nanomdm:{SECRET}@"),
        8,
        "sites.london.mdm_servers[0].url",
        "has a login",
    ),
    "URL with a query": (
        WHOLE.replace("nano/", f"nano?key={SECRET}"),
        8,
        "sites.london.mdm_servers[0].url",
        "must have no query",
    ),
    "literal secret": (
        WHOLE.replace("env:NANOMDM_API_KEY", SECRET),
        9,
        "sites.london.mdm_servers[0].login",
        "the secret itself never belongs in this file",
    ),
    "literal secret after a scheme": (
        WHOLE.replace("env:NANOMDM_API_KEY", f"env:{SECRET}"),
        9,
        "sites.london.mdm_servers[0].login",
        "the secret itself never belongs in this file",
    ),
    "literal secret in a mapping": (
        WHOLE.replace("env:NANOMDM_API_KEY", f"{{password: {SECRET}}}"),
        9,
        "sites.london.mdm_servers[0].login",
        "the secret itself never belongs in this file",
    ),
    "secret that is a number": (
        WHOLE.replace("env:NANOMDM_API_KEY", "12345678"),
        9,
        "sites.london.mdm_servers[0].login",
        "the secret itself never belongs in this file",
    ),
    "relative file of a secret": (
        WHOLE.replace("file:/etc/drydock/kmfddm.key", "file:kmfddm.key"),
        10,
        "sites.london.mdm_servers[0].ddm.login",
        "file:/absolute/path",
    ),
    "relative file of certificates": (
        WHOLE.replace("/etc/drydock/mdm-ca.pem", "mdm-ca.pem"),
        14,
        "sites.london.mdm_servers[0].ca_file",
        "must be an absolute path",
    ),
    "rate of zero": (
        WHOLE.replace("per_s: 2.5", "per_s: 0"),
        11,
        "sites.london.mdm_servers[0].max_requests_per_s",
        "must be greater than 0",
    ),
    "pattern of serial numbers": (
        WHOLE.replace("c02xk1zyjhd3", '"C02*"'),
        16,
        "sites.london.allow_destructive[0]",
        "patterns are not allowed",
    ),
    "placeholder for a serial number": (
        WHOLE.replace("c02xk1zyjhd3", "unknown"),
        16,
        "sites.london.allow_destructive[0]",
        "is a placeholder",
    ),
    "serial number without quotes": (
        WHOLE.replace('"123456789012"', "123456789012"),
        16,
        "sites.london.allow_destructive[1]",
        'write it in quotes: "123456789012"',
    ),
    "method over SSH without `ssh`": (
        SITE + "    methods: [softwareupdate]\n",
        4,
        "sites.london.methods",
        "softwareupdate needs `ssh`",
    ),
    "SSH without an address": (
        SSH.replace('      address: "{serial}.macs.example.org"\n', "").replace(
            "      addresses: {c02xk1zyjhd3: 10.1.2.3}\n", ""
        ),
        5,
        "sites.london.ssh",
        "needs `address` or `addresses`",
    ),
    "address without the serial number": (
        SSH.replace("{serial}", "mac"),
        8,
        "sites.london.ssh.address",
        "must have {serial} once",
    ),
    "address with a port": (
        SSH.replace("10.1.2.3", "'10.1.2.3:22'"),
        9,
        "sites.london.ssh.addresses.c02xk1zyjhd3",
        "must be a host name or an IP address",
    ),
    "activation without its configuration": (
        SSH.replace("methods: [", "methods: [activation_command, "),
        11,
        "sites.london.methods",
        "activation_command needs `activations` in `ssh`",
    ),
    "relative command of an activation": (
        SSH.replace(
            "    methods:",
            "      activations: {office: {test: [/bin/true], command: [office]}}\n    methods:",
        ),
        11,
        "sites.london.ssh.activations.office.command",
        "of which the first is an absolute path",
    ),
    "literal password of the volume owner": (
        SSH.replace("env:OWNER_PASSWORD", SECRET),
        10,
        "sites.london.ssh.volume_owner.password",
        "the secret itself never belongs in this file",
    ),
    "account with a space": (
        SSH.replace("user: drydock", "user: dry dock"),
        5,
        "sites.london.ssh.user",
        "",
    ),
    "relative key": (
        SSH.replace("/etc/drydock/ssh/id_ed25519", "id_ed25519"),
        6,
        "sites.london.ssh.key",
        "must be an absolute path",
    ),
    "permission for every Mac": (
        WHOLE.replace('[c02xk1zyjhd3, "123456789012"]', "true"),
        16,
        "sites.london.allow_destructive",
        "must be a list",
    ),
}


@pytest.mark.parametrize(("text", "line", "path", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_error_has_its_line_and_no_secret(text: str, line: int, path: str, message: str) -> None:
    with pytest.raises(AgentConfigError) as error:
        parse_agent_config(text)
    (problem,) = error.value.problems
    assert (problem.line, problem.path) == (line, path)
    assert message in problem.message
    assert SECRET not in str(error.value)


def test_all_errors_are_reported_at_once() -> None:
    text = WHOLE.replace("Europe/London", "Londn").replace("nanomdm\n", "jamf\n")
    with pytest.raises(AgentConfigError) as error:
        parse_agent_config(text)
    assert [problem.line for problem in error.value.problems] == [4, 7]
    assert str(error.value).startswith("invalid configuration: line 4:")
    assert str(error.value).endswith("(and 1 more)")


@given(st.text(min_size=8, max_size=40) | st.from_regex(r"(env|file):.{4,20}", fullmatch=True))
def test_text_is_a_reference_or_refused_without_naming_it(text: str) -> None:
    try:
        reference, message = SecretRef.model_validate(text), ""
    except ValidationError as refused:
        reference, message = None, str(refused)
    assert reference is None or str(reference) == text
    assert text not in message


def test_file_that_is_missing_or_no_text_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"cannot read .*agent\.yaml: No such file"):
        read_agent_config(tmp_path / "agent.yaml")
    (tmp_path / "agent.yaml").write_bytes(b"sites:\n  \xff: 1\n")
    with pytest.raises(UnreadableFileError, match=r"is not UTF-8 text: line 2"):
        read_agent_config(tmp_path / "agent.yaml")
