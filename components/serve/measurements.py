"""The server's metrics, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measurements:
    """The metrics of one server, in a registry of its own.

    Args:
        waiting_images: Returns the number of images in the queue.
        version: Returns the served version.
    """

    def __init__(self, waiting_images: Callable[[], float], version: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "imgpipe_requests", "Requests by HTTP status.", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "imgpipe_predict_seconds",
            "Seconds from the first byte of a successful predict request to its response.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch_images = Histogram(
            "imgpipe_batch_images",
            "Images per batch.",
            buckets=_IMAGES,
            registry=self._registry,
        )
        Gauge(
            "imgpipe_waiting_images", "Images waiting for the model.", registry=self._registry
        ).set_function(waiting_images)
        Gauge("imgpipe_model_version", "The served version.", registry=self._registry).set_function(version)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        page: bytes = generate_latest(self._registry)
        return page
