"""Tools of the chart's tests: Helm, kubeconform, and the schemas of Kubernetes."""

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
    """Helm; if it is missing, the test is skipped, and fails in CI."""
    return Helm(_found("helm", "helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def kubeconform() -> Path:
    """The program kubeconform; if it is missing, the test is skipped, and fails in CI."""
    return _found("kubeconform", "kubeconform")


@pytest.fixture(scope="session")
def kubernetes_schemas() -> Path:
    """Folder with one folder of schemas for each version of Kubernetes."""
    return _found("kubernetes-schemas", "recipe").parent
