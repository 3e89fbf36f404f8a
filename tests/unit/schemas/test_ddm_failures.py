"""Texts in which Macs report that a declared update failed."""

import pytest

from schemas.ddm_failures import failure_code
from schemas.results import ErrorCode

TEXTS = [
    pytest.param("InsufficientDiskSpace", ErrorCode.NO_DISK_SPACE, id="disk-one-word"),
    pytest.param("Not enough free disk space", ErrorCode.NO_DISK_SPACE, id="disk-sentence"),
    pytest.param("InstallInsufficientSpace", ErrorCode.NO_DISK_SPACE, id="disk-of-a-command"),
    pytest.param("{reason=BatteryTooLow}", ErrorCode.LOW_POWER, id="battery"),
    pytest.param("DownloadInsufficientPower", ErrorCode.LOW_POWER, id="power-of-a-command"),
    pytest.param("Failed to authenticate", ErrorCode.NO_BOOTSTRAP_TOKEN, id="authentication"),
    pytest.param("No bootstrap token", ErrorCode.NO_BOOTSTRAP_TOKEN, id="token"),
    pytest.param("Can\u2019t connect", ErrorCode.DOWNLOAD_FAILED, id="curly-apostrophe"),
    pytest.param("can't connect", ErrorCode.DOWNLOAD_FAILED, id="plain-apostrophe"),
    pytest.param(
        "Error Domain=NSURLErrorDomain Code=-1001", ErrorCode.DOWNLOAD_FAILED, id="network"
    ),
    pytest.param("someday new", ErrorCode.INSTALL_FAILED, id="unknown"),
    pytest.param("", ErrorCode.INSTALL_FAILED, id="empty"),
    pytest.param(None, ErrorCode.INSTALL_FAILED, id="absent"),
]


@pytest.mark.parametrize(("text", "code"), TEXTS)
def test_text_of_a_failure_gives_its_error_code(text: str | None, code: ErrorCode) -> None:
    assert failure_code(text) is code
