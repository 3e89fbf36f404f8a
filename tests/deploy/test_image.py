"""The images have a numeric user, pinned and hashed parts, and only the files that they need."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from tests.deploy.chart import ROOT, Helm, pod, workloads

DOCKERFILE = (ROOT / "Dockerfile").read_text()
AGENT = "/opt/drydock-agent"  # the environment of a site's agent
Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, with lines joined and ARGs replaced."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found, defaults = [], {}
    for line in re.sub(r"\\\n\s*", "", kept).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            if word == "ARG":
                name, _, value = rest.partition("=")
                defaults[name] = value
            for name, value in defaults.items():
                rest = rest.replace("${" + name + "}", value)
            found.append((word, rest))
    return found


def stages(text: str) -> dict[str, list[Instruction]]:
    """Return the instructions of each stage by its name, after those of the stage it starts from.

    The last stage, which `docker build` builds, has the name "".
    """
    found: dict[str, list[Instruction]] = {}
    name = ""
    for word, rest in instructions(text):
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            found[name] = list(found.get(image, []))
        if name in found:
            found[name].append((word, rest))
    return found


def images_of(text: str) -> list[str]:
    """Return the images that stages start from, without the names of earlier stages."""
    named = stages(text)
    starts = [rest.partition(" AS ")[0] for word, rest in instructions(text) if word == "FROM"]
    return [image for image in starts if image not in named]


def stage_complaints(name: str, program: str, stage: list[Instruction]) -> Iterator[str]:
    """Yield the violations of our rules in a stage that is an image."""
    user = [rest for word, rest in stage if word == "USER"]
    if not user or not re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", user[-1]):
        yield f"{name} USER: not a number, so Kubernetes cannot check that it is not root"
    if ("ENTRYPOINT", f'["{program}"]') not in stage:
        yield f"{name} ENTRYPOINT: not {program}, or through a shell"
    if ("HEALTHCHECK", "NONE") not in stage:
        yield f"{name} HEALTHCHECK: not NONE, but each program has another address"
    if any(re.search(r"\b(pip|apt-get) ", rest) for word, rest in stage if word == "RUN"):
        yield f"{name}: the last stage installs"


def complaints(text: str) -> list[str]:
    """Return the violations of our rules in a Dockerfile."""
    found = [
        f"FROM {image}: not pinned"
        for image in images_of(text)
        if not re.fullmatch(r"[^:@]+(:\d+\.\d+\.\d+-slim-\w+|@sha256:[0-9a-f]{64})", image)
    ]
    parsed, by_name = instructions(text), stages(text)
    found += stage_complaints("", "drydock", by_name[""])
    found += stage_complaints("agent", "drydock-agent", by_name["agent"])
    copies = [rest for word, rest in by_name["agent"] if word == "COPY"]
    if copies != [f"--from=agent-build {AGENT} {AGENT}"]:
        found.append(f"agent: has other files than {AGENT}")
    found += [f"{word}: use COPY" for word, _ in parsed if word == "ADD"]
    for word, rest in parsed:
        for install in re.findall(r"pip \S+ \S+ install\b([^&]*)", rest) if word == "RUN" else []:
            if "--require-hashes" not in install and "--no-deps" not in install:
                found.append(f"pip install{install.rstrip()}: without hashes")
    return found


def test_dockerfile_keeps_the_rules() -> None:
    assert complaints(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param("3.11.14-slim-trixie", "latest", "not pinned", id="latest"),
        pytest.param("3.11.14-slim-trixie", "3.11-slim", "not pinned", id="minor-only"),
        pytest.param("USER 10001:10001", "USER drydock", "USER", id="user-by-name"),
        pytest.param("USER 10001:10001\n", "", "USER", id="root"),
        pytest.param('ENTRYPOINT ["drydock"]', "ENTRYPOINT drydock", "ENTRYPOINT", id="shell"),
        pytest.param("HEALTHCHECK NONE", "HEALTHCHECK CMD true", "HEALTHCHECK", id="healthcheck"),
        pytest.param("--require-hashes ", "", "without hashes", id="no-hashes"),
        pytest.param("--no-deps ", "", "without hashes", id="with-dependencies"),
        pytest.param("=agent-build /opt/drydock-agent", "=build /opt/drydock", "other", id="all"),
        pytest.param("COPY schemas", "ADD schemas", "ADD", id="add"),
        pytest.param("USER 10001", "RUN apt-get install -y curl\nUSER 10001", "last", id="apt"),
    ],
)
def test_planted_fault_in_the_dockerfile_is_found(old: str, new: str, problem: str) -> None:
    assert old in DOCKERFILE
    assert any(problem in complaint for complaint in complaints(DOCKERFILE.replace(old, new)))


def sent(paths: list[str], ignore: str) -> list[str]:
    """Return the paths that a .dockerignore lets through: the last matching line decides."""

    def fits(path: str, pattern: str) -> bool:
        parts = path.split("/")
        starts = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            return any(fnmatchcase(part, pattern[3:]) for part in parts)
        return any(fnmatchcase(start, pattern) for start in starts)

    lines = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    through = []
    for path in paths:
        fitting = [line for line in lines if fits(path, line.removeprefix("!"))]
        if not fitting or fitting[-1].startswith("!"):
            through.append(path)
    return through


def copied() -> list[str]:
    """Return the paths that the Dockerfile copies from the project."""
    lines = [rest for word, rest in instructions(DOCKERFILE) if word == "COPY"]
    return [name for rest in lines if "--from" not in rest for name in rest.split()[:-1]]


def test_build_context_has_the_copied_files_and_no_others() -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    assert copied() == sent(copied(), ignore)
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    kept = ["keys/jobs.pem", ".git/config", ".venv/bin/python", "tests/conftest.py", ".tools/x"]
    kept += ["drydock-data/keys/admin.token", "pipeline/cli/__pycache__/app.pyc", "demo.pem"]
    assert sent(kept, ignore) == []
    assert sent(["pipeline/cli/app.py"], ignore) == ["pipeline/cli/app.py"]


def test_images_hold_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(copied())


def test_chart_and_image_agree_on_the_user(helm: Helm) -> None:
    user = [rest for word, rest in instructions(DOCKERFILE) if word == "USER"][-1]
    for one in workloads(helm.objects("production")):
        security = pod(one)["securityContext"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == user


@pytest.mark.parametrize("name", ["agent.lock", "server.lock"])
def test_lock_of_an_image_has_hashes(name: str) -> None:
    assert "--hash=sha256:" in (ROOT / "requirements" / name).read_text()
