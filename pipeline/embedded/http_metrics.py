"""The metrics of the HTTP application of `drydock run`."""

from pipeline.gateway.metrics import InputMetrics
from pipeline.metrics import Metrics


class ServiceHttpMetrics(InputMetrics):
    """Metrics of HTTP in the registry of the service, whose gauge `drydock_ready` it sets."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics.registry)
        self._metrics = metrics

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready`: 1 if inputs are accepted, else 0."""
        self._metrics.set_ready(ready=ready)
