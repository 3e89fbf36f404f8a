"""The image from which a returned loan unit is restored. Pure.

An image restores a state and never changes a version: macOS, build, firmware and model must be
those of the Mac already. The decision has proved this from the reports; the Mac itself is compared
again before the order, and by `scripts/restore.sh` just before it erases the volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agents.installers.source import StoredFile
from agents.mac import Obstacle
from agents.ssh.mac_facts import parse_apple_silicon, parse_system
from agents.ssh.report import Report
from schemas.jobs import Job
from schemas.macos import Build, OSVersion
from schemas.results import ErrorCode


@dataclass(frozen=True, slots=True)
class Image:
    """One image and its manifest.

    `models` are globs. `firmware` is that of the Mac from which it was made. `volume` is the name
    of the volume on each Mac that is erased and restored; the Mac must not run from it. `url`,
    `size_bytes` and `sha256` as for `agents.installers.source.Installer`. `stored` is its file in a
    bucket, from which a site cache fetches it; None without one.
    """

    name: str
    models: tuple[str, ...]
    version: OSVersion
    build: Build
    firmware: str
    volume: str
    url: str
    size_bytes: int
    sha256: str
    stored: StoredFile | None = None


def fitting_image(images: Sequence[Image], job: Job, report: Report) -> Image | Obstacle:
    """Return the image of the job's release that fits the Mac, else the evidence against each."""
    system = parse_system(report.facts.get("system", ""))
    model = report.facts.get("model", "").strip()
    if parse_apple_silicon(report.facts.get("apple_silicon", "")) is not False:
        return _unfit("only an Intel Mac can be restored from an image")
    if "T2" in report.facts.get("bridge", "T2"):
        return _unfit("a Mac with a T2 cannot be restored from an image")
    if job.target is None:
        return _unfit("a restore without a release")
    against = []
    for image in images:
        lower = model.lower()
        facts = {
            "release": (image.version, image.build) == (job.target.version, job.target.build),
            "build": (image.version, image.build) == (system.version, system.build),
            "model": any(fnmatchcase(lower, glob.lower()) for glob in image.models),
            "firmware": firmware_of(report) == image.firmware.split(" ", 1)[0],
        }
        if all(facts.values()):
            return image
        against.append(
            f"{image.name}: other {', '.join(k for k, same in facts.items() if not same)}"
        )
    return _unfit("; ".join(against) or "the site has no image")


def firmware_of(report: Report) -> str | None:
    """Return the version of the firmware from `system_profiler`, without the T2's in brackets."""
    for line in report.facts.get("hardware", "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"System Firmware Version", "Boot ROM Version"}:
            return value.strip().split(" ", 1)[0] or None
    return None


def restore_arguments(image: Image, report: Report) -> list[str]:
    """Return the facts with which `restore.sh` compares the Mac again."""
    model = report.facts.get("model", "").strip()
    return [image.volume, str(image.version), str(image.build), image.firmware, model]


def _unfit(detail: str) -> Obstacle:
    return Obstacle(ErrorCode.IMAGE_UNFIT, detail[:200])
