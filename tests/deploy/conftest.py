"""What the chart's tests need beside Python: Helm, kubeconform, Kubernetes' schemas."""

from pathlib import Path

import pytest

from tests.deploy.chart import Helm, tool


def _found(name: str, file: str) -> Path:
    path = tool(name) / file
    if not path.exists():
        pytest.skip(f"{name} is missing: `make tools-deploy` gets it (needs go)")
    return path


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm; missing is a skip, in CI a failure."""
    return Helm(_found("helm", "helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def kubeconform() -> Path:
    """The program."""
    return _found("kubeconform", "kubeconform")


@pytest.fixture(scope="session")
def kubernetes_schemas() -> Path:
    """A folder with one of schemas for each version."""
    return _found("kubernetes-schemas", "recipe").parent
