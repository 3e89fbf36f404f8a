"""Output of installations: progress, failures, and streams that are cut at any character."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.mac import InstallState
from agents.ssh.update_output import UpdateOutput, read_update_output
from schemas.results import ErrorCode
from tests.unit.agents.ssh.cli_samples import samples

RUN = (
    "Software Update Tool\n\nDownloading macOS Tahoe 26.7\n"
    "\rDownloading: 0.00%\rDownloading: 30.00%\rDownloading: 60.10%\n"
    "Downloaded: macOS Tahoe 26.7\n\rPreparing: 0.0%\rPreparing: 45.5%"
)
RANKS = [
    InstallState.NONE,
    InstallState.DOWNLOADING,
    InstallState.INSTALLING,
]

STATES = {
    "nothing": ("", UpdateOutput()),
    "head": ("Software Update Tool\n\n", UpdateOutput()),
    "download begins": ("Downloading macOS 27\n", UpdateOutput(InstallState.DOWNLOADING)),
    "download": (
        "Downloading macOS 27\n\rDownloading: 30.00%",
        UpdateOutput(InstallState.DOWNLOADING, 30),
    ),
    "number that is cut off": (
        "\rDownloading: 30.00%\rDownloading: 3",
        UpdateOutput(InstallState.DOWNLOADING, 30),
    ),
    "downloaded": (
        "\rDownloading: 99.00%\nDownloaded: macOS 27\n",
        UpdateOutput(InstallState.INSTALLING),
    ),
    "preparation": (RUN, UpdateOutput(InstallState.INSTALLING, 45)),
    "staged": (
        "Downloaded: macOS 27\nDone with macOS 27\nDone.\n",
        UpdateOutput(InstallState.PREPARED),
    ),
    "restart": (
        "Preparing to run macOS Installer...\nPreparing: 100.0%\nRestarting...\n",
        UpdateOutput(InstallState.INSTALLING, 100),
    ),
}
FAILURES = {
    "disk, with exit status 0": (
        "Not enough free disk space: a total of 17.13 GB is required.\n",
        ErrorCode.NO_DISK_SPACE,
    ),
    "no volume owner, after the download": (
        "Downloading macOS 27\nDownloaded: macOS 27\nFailed to authenticate\nPassword:\n",
        ErrorCode.NO_VOLUME_OWNER,
    ),
    "startosinstall without an owner": (
        "Preparing to run macOS Installer...\nError: could not get authorization...\n",
        ErrorCode.NO_VOLUME_OWNER,
    ),
    "unknown label": ("macOS 26.9: No such update\n", ErrorCode.UPDATE_NOT_OFFERED),
    "nothing to install": ("No updates are available.\n", ErrorCode.UPDATE_NOT_OFFERED),
    "server, curly apostrophe": (
        "Can\u2019t connect to the Apple Software Update server\n",
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
    ),
    "server, plain apostrophe": (
        "Couldn't communicate with the server\n",
        ErrorCode.UPDATE_SERVER_UNREACHABLE,
    ),
    "download": ("Failed to download & prepare update\n", ErrorCode.DOWNLOAD_FAILED),
    "downloads": ("Error downloading updates.\n", ErrorCode.DOWNLOAD_FAILED),
    "any other error": ("Error: the app is damaged\n", ErrorCode.INSTALL_FAILED),
}


@pytest.mark.parametrize(("text", "state"), STATES.values(), ids=STATES)
def test_output_gives_the_state(text: str, state: UpdateOutput) -> None:
    assert read_update_output(text) == state


@pytest.mark.parametrize(("text", "code"), FAILURES.values(), ids=FAILURES)
def test_failure_has_its_code_and_line(text: str, code: ErrorCode) -> None:
    found = read_update_output(text)
    assert (found.state, found.error_code) == (InstallState.FAILED, code)
    assert found.detail
    assert found.detail in text.replace("\u2019", "'")


def test_first_failure_counts() -> None:
    found = read_update_output("Failed to authenticate\nError: something else\n")
    assert found.error_code is ErrorCode.NO_VOLUME_OWNER


@given(st.integers(0, len(RUN)))
def test_output_that_is_cut_anywhere_is_never_ahead(length: int) -> None:
    state = read_update_output(RUN[:length]).state
    assert RANKS.index(state) <= RANKS.index(read_update_output(RUN).state)


@given(st.text())
def test_any_text_has_a_state(text: str) -> None:
    found = read_update_output(text)
    assert (found.state is InstallState.FAILED) is (found.error_code is not None)


def test_outputs_of_real_macs_are_read(reference_data: Path) -> None:
    one = samples(reference_data)
    found = {
        command: read_update_output(text)
        for command, (text, *_) in one.items()
        if "--install" in command or "startosinstall" in command
    }
    codes = [state.error_code for state in found.values()]
    assert codes == [
        ErrorCode.NO_DISK_SPACE,
        ErrorCode.NO_VOLUME_OWNER,
        ErrorCode.UPDATE_NOT_OFFERED,
        None,
        None,
        None,
    ]
    states = [state.state for state in found.values()]
    assert states[3:] == [InstallState.INSTALLING, InstallState.NONE, InstallState.INSTALLING]
