"""The image that fits a returned loan unit, and the evidence against each other one."""

from dataclasses import replace

import pytest

from agents.mac import Obstacle
from agents.ssh.images import Image, firmware_of, fitting_image, restore_arguments
from agents.ssh.report import Report
from schemas.jobs import Job, Target
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode
from tests.factories.sites import an_erasing_reimage

IMAGE = Image(
    name="loan",
    models=("MacBookPro13,*",),
    version=parse_os_version("12.7.6"),
    build=parse_build("21H1320"),
    firmware="529.140.2.0.0",
    volume="Loan",
    url="https://cache.example.org/loan.dmg",
    size_bytes=10,
    sha256="0" * 64,
)
FACTS = {
    "system": "ProductName:\tmacOS\nProductVersion:\t12.7.6\nBuildVersion:\t21H1320\n",
    "model": "MacBookPro13,1\n",
    "apple_silicon": "sysctl: unknown oid 'hw.optional.arm64'\n",
    "bridge": "",
    "hardware": "Hardware:\n\n      System Firmware Version: 529.140.2.0.0\n",
}
TARGET = Target(version=IMAGE.version, build=IMAGE.build)


def reimage(target: Target | None = TARGET) -> Job:
    return an_erasing_reimage().model_copy(update={"target": target})


def fitting(*images: Image, job: Job | None = None) -> Image | Obstacle:
    return fitting_image(images, job or reimage(), Report(FACTS))


def test_image_that_equals_the_mac_in_each_point_fits() -> None:
    assert fitting(replace(IMAGE, build=parse_build("21H1222")), IMAGE) == IMAGE
    assert restore_arguments(IMAGE, Report(FACTS)) == [
        *("Loan", "12.7.6", "21H1320", "529.140.2.0.0", "MacBookPro13,1")
    ]


# what differs -> the point in the evidence
DIFFERENCES = {
    "older build": (
        {"system": "ProductVersion: 12.7.6\nBuildVersion: 21H1222"},
        "loan: other build",
    ),
    "unknown build": ({"system": ""}, "loan: other build"),
    "another model": ({"model": "MacBookPro14,1\n"}, "loan: other model"),
    "other firmware": (
        {"hardware": "      Boot ROM Version: 429.0.0.0.0 (iBridge: 1)\n"},
        "loan: other firmware",
    ),
    "unknown firmware": ({"hardware": ""}, "loan: other firmware"),
    "Apple silicon": ({"apple_silicon": "1\n"}, "only an Intel Mac"),
    "unknown processor": ({"apple_silicon": ""}, "only an Intel Mac"),
    "T2": ({"bridge": "Controller:\n\n      Model Name: Apple T2 Security Chip\n"}, "with a T2"),
}


@pytest.mark.parametrize(("facts", "evidence"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_mac_that_differs_is_refused_with_the_evidence(
    facts: dict[str, str], evidence: str
) -> None:
    found = fitting_image([IMAGE], reimage(), Report(FACTS | facts))
    assert isinstance(found, Obstacle)
    assert found.error_code is ErrorCode.IMAGE_UNFIT
    assert evidence in found.detail


def test_missing_facts_images_and_targets_are_refused() -> None:
    without_bridge = {name: text for name, text in FACTS.items() if name != "bridge"}
    assert isinstance(fitting_image([IMAGE], reimage(), Report(without_bridge)), Obstacle)
    other = Target(version=IMAGE.version, build=parse_build("21H1222"))
    for job in (reimage(None), reimage(other)):
        assert isinstance(fitting(IMAGE, job=job), Obstacle)
    nothing = fitting()
    assert isinstance(nothing, Obstacle)
    assert nothing.detail == "the site has no image"


def test_firmware_is_read_without_the_bridge() -> None:
    text = "      System Firmware Version: 2069.0.0.0.0 (iBridge: 22.16.10353.0.0,0)\n"
    assert firmware_of(Report({"hardware": text})) == "2069.0.0.0.0"
    assert firmware_of(Report()) is None
