"""Connections to a real OpenSSH server: pinned host keys, logins, limits, secrets."""

from pathlib import Path

import pytest

from agents.mac import UnreachableError
from agents.ssh.connection import NotConnectedError, SshConnection, Timeouts
from schemas.results import ErrorCode
from tests.kafka.brokers import free_ports
from tests.ssh.bench import MacBench, processes_of
from tests.waiting import wait_until


def test_command_gives_both_streams_and_its_status(bench: MacBench) -> None:
    output = bench.connection().run(["sh", "-c", "cat; echo oops >&2; exit 7"], "a b\n")
    assert (output.exit_status, output.stdout, output.stderr) == (7, "a b\n", "oops\n")


@pytest.mark.parametrize("word", ["a b", "'", '"$HOME"', "`id`", "*", "", "\u2019", "-n"])
def test_arguments_arrive_as_they_are(bench: MacBench, word: str) -> None:
    output = bench.connection().run(["printf", "%s|", word, "end"])
    assert output.stdout == f"{word}|end|"


def test_bytes_that_are_no_text_do_no_harm(bench: MacBench) -> None:
    assert bench.connection().run(["printf", r"\377a"]).stdout == "\ufffda"


def test_certificate_logs_in_at_a_certified_host(bench: MacBench) -> None:
    server = bench.server
    connection = bench.connection(
        key=server.certified_key,
        certificate=server.certificate,
        known_hosts=server.known_authority,
    )
    assert connection.run(["true"]).exit_status == 0


@pytest.mark.parametrize("certificate", [False, True], ids=["unknown key", "key without its own"])
def test_login_that_the_mac_refuses_is_named(bench: MacBench, certificate: bool) -> None:
    key = bench.server.certified_key if certificate else bench.server.stranger_key
    with pytest.raises(NotConnectedError) as caught:
        bench.connection(key=key).run(["true"])
    assert caught.value.obstacle is not None
    assert caught.value.obstacle.error_code is ErrorCode.SSH_LOGIN_REFUSED


def test_other_host_key_is_refused_before_the_login(bench: MacBench) -> None:
    with pytest.raises(NotConnectedError) as caught:
        bench.connection(known_hosts=bench.server.other_hosts).run(["true"])
    assert caught.value.obstacle is not None
    assert caught.value.obstacle.error_code is ErrorCode.HOST_KEY_UNKNOWN


def test_host_without_any_known_key_is_refused(bench: MacBench, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(NotConnectedError) as caught:
        bench.connection(known_hosts=tmp_path / "empty").run(["true"])
    assert caught.value.obstacle is not None
    assert caught.value.obstacle.error_code is ErrorCode.HOST_KEY_UNKNOWN


@pytest.mark.parametrize("name", ["key", "known_hosts", "certificate"])
def test_missing_file_of_the_login_is_no_connection(
    bench: MacBench, name: str, tmp_path: Path
) -> None:
    with pytest.raises(NotConnectedError) as caught:
        bench.connection(**{name: tmp_path / "missing"}).run(["true"])
    assert caught.value.obstacle is None


def test_key_that_is_none_is_no_connection(bench: MacBench, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(NotConnectedError, match="unusable") as caught:
        bench.connection(key=tmp_path / "key").run(["true"])
    assert caught.value.obstacle is None


def test_mac_that_is_off_is_no_connection(bench: MacBench) -> None:
    (bench.port,) = free_ports(1)
    with pytest.raises(NotConnectedError) as caught:
        bench.connection().run(["true"])
    assert caught.value.obstacle is None


def test_command_that_is_too_slow_ends_the_wait_only(bench: MacBench, tmp_path: Path) -> None:
    bench.timeouts = Timeouts(connect_s=20, command_s=2)
    with pytest.raises(UnreachableError) as caught:
        bench.connection().run(["sh", "-c", f"sleep 8; touch '{tmp_path}/done'"])
    assert not isinstance(caught.value, NotConnectedError)
    assert not (tmp_path / "done").exists()
    wait_until((tmp_path / "done").exists, 30, "the command ended with its connection")


def test_endless_output_is_cut(bench: MacBench) -> None:
    with pytest.raises(UnreachableError):
        bench.connection().run(["yes", "drydock" * 100])


def test_standard_input_is_in_no_command_line(bench: MacBench, tmp_path: Path) -> None:
    script = f"read line; tr '\\0' ' ' </proc/$$/cmdline >'{tmp_path}/own'; sleep 0.2"
    bench.connection().run(["sh", "-c", script], "top-secret\n")
    assert "top-secret" not in (tmp_path / "own").read_text()
    assert processes_of(tmp_path) == []


def test_settings_of_this_machines_client_do_not_count(
    bench: MacBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  User nobody-else\n  Port 1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "no-agent"))
    connection: SshConnection = bench.connection()
    assert connection.run(["id", "-un"]).stdout.strip() == bench.server.user
