"""What the server counts, in Prometheus' form."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measurements:
    """Counters of one server; each server has its own registry.

    Args:
        waiting_images: Returns how many images wait now.
        version: Returns the version that is served now.
    """

    def __init__(self, waiting_images: Callable[[], float], version: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "imgpipe_requests", "Requests by HTTP status.", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "imgpipe_predict_seconds",
            "Time of a predict request that was answered, from its first byte to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch_images = Histogram(
            "imgpipe_batch_images",
            "Images that went through the model together.",
            buckets=_IMAGES,
            registry=self._registry,
        )
        Gauge(
            "imgpipe_waiting_images", "Images that wait for the model.", registry=self._registry
        ).set_function(waiting_images)
        Gauge("imgpipe_model_version", "The version that is served.", registry=self._registry).set_function(
            version
        )

    def text(self) -> bytes:
        """Returns the page that Prometheus reads."""
        page: bytes = generate_latest(self._registry)
        return page
