"""`drydock run` as a process, and the commands that use its data directory."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded.log import Log
from schemas.envelope import encode
from tests.drydock_process import running
from tests.embedded_world import POLICY
from tests.factories.sites import osquery_report
from tests.factories.sofa import feed, line, release
from tests.feed_server import feed_server
from tests.waiting import wait_until


def drydock(*arguments: str) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, stdout and stderr."""
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def as_json(*arguments: str) -> Any:
    code, out, err = drydock(*arguments, "--json")
    assert code in (0, 1), err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.slow
def test_commands_work_with_a_running_service_and_without(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    data_dir = tmp_path / "data"
    here = ("--data-dir", str(data_dir))
    with running(data_dir, "--policy", str(policy)) as service:
        client = httpx.Client(base_url=service.url, trust_env=False)
        with client:
            body = encode(osquery_report("MAC-1", os_version="26.1", build="25B78"))
            assert client.post("/v1/events", content=body).status_code == 200
            assert client.post("/webhooks/jamf", content=b"{").status_code == 200
        assert drydock("halt", "site:london", "--why", "drill", *here)[0] == 0
        (status,) = as_json("status", *here)
        assert (status["devices"], status["halts"]) == (1, ["site:london"])
        assert status["dead_letters"] == {"not_json": 1}
        code, out, _ = drydock("status", *here)
        assert code == 0
        assert "site:london" in out
        assert drydock("resume", "site:london", *here)[0] == 0
        assert "is not halted" in drydock("resume", "site:london", *here)[2]
        (refused,) = as_json("dead-letters", "replay", *here)
        assert (refused["seq"], refused["replayed"]) == (1, False)
        code, _, err = drydock("run", *here, "--listen", "127.0.0.1:0")
        assert code == 2
        assert "in use by another" in err
        assert service.end(signal.SIGTERM) == 0
    messages = [json.loads(line)["event"] for line in service.log_lines]
    assert any(message.startswith("dry run") for message in messages)
    assert messages[-1] == "stopped"

    # The same commands while no service runs.
    assert drydock("halt", "all", *here)[0] == 0
    assert as_json("status", *here)[0]["halts"] == ["all"]
    (letter,) = as_json("dead-letters", "list", *here)
    assert (letter["seq"], letter["code"], letter["source"]) == (1, "not_json", "jamf")
    assert drydock("dead-letters", "show", "1", "--raw", *here)[0] == 2
    with Log.open(data_dir) as log:
        kinds = [row.type for row in log.entries(kind="event")]
    assert kinds == [
        "drydock.policy.changed.v1",
        "drydock.inventory.reported.v1",
        "drydock.halt.set.v1",
        "drydock.halt.cleared.v1",
        "drydock.halt.set.v1",
    ]


@pytest.mark.slow
def test_service_polls_the_named_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("DRYDOCK_FEEDS_INTERVAL_S", "0.2")
    data_dir = tmp_path / "data"
    good = feed(line("Tahoe 26", release("26.2"), release("26.1")))
    with feed_server() as web, running(data_dir, "--sofa", f"{web.url}/sofa") as service:

        def polls(outcome: str, count: int) -> None:
            sample = f'drydock_feed_polls_total{{outcome="{outcome}",source="sofa"}} '

            def there() -> bool:
                text = httpx.get(f"{service.url}/metrics", trust_env=False).text
                return float(text.partition(sample)[2].partition("\n")[0]) >= count

            wait_until(there, 60, f"the feed was not {count} times {outcome}")

        polls("unreachable", 1)
        web.documents["/sofa"] = good
        polls("accepted", 1)
        polls("unchanged", 2)
        web.documents["/sofa"] = good[:-1]
        polls("unreadable", 3)
        assert service.end(signal.SIGTERM) == 0
    assert web.responses["/sofa", 304] > 0
    assert (data_dir / "feeds" / "sofa.json").read_bytes() == good
    with Log.open(data_dir) as log:
        kinds = [row.type for row in log.entries(kind="event")]
        assert kinds == ["drydock.advisory.published.v1"] * 2
        assert log.dead_letter_counts() == {"not_json": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--listen", "8080"), "is not HOST:PORT"),
        (("--listen", "0.0.0.0:0"), "without any secret only this machine is served"),
        (("--listen", "192.0.2.1:0"), "cannot listen on 192.0.2.1:0: Cannot assign"),
        (("--policy", "no-such-file"), "cannot read no-such-file"),
        (("--dry-run", "--simulate", "1"), "choose one"),
    ],
    ids=["listen", "open to all", "not ours", "no policy", "both"],
)
def test_an_error_at_the_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    if "192.0.2.1:0" in arguments:
        monkeypatch.setenv("DRYDOCK_EVENTS_SECRET", "long enough")
    code, out, err = drydock("run", "--data-dir", str(tmp_path / "data"), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_commands_refuse_a_missing_data_directory(tmp_path: Path) -> None:
    here = ("--data-dir", str(tmp_path))
    for command in (("status",), ("halt", "all"), ("approve", "MAC-1"), ("dead-letters", "list")):
        code, _, err = drydock(*command, *here)
        assert code == 2
        assert "is this a data directory of Drydock?" in err
