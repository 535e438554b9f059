"""The server's metrics, for Prometheus."""

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from imgpipe.components.common.drift import FALSE_ALARM_RATE, WINDOW
from imgpipe.components.common.log import log_event

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

        self._drift_distance = Gauge(
            "imgpipe_drift_distance",
            f"Distance of the last {WINDOW} images from the evaluation's; NaN before.",
            registry=self._registry,
        )
        self._drift_p_value = Gauge(
            "imgpipe_drift_p_value",
            f"p-value of that distance, at least 0.001; NaN before the first {WINDOW} images.",
            registry=self._registry,
        )
        self._drift_distance.set(math.nan)
        self._drift_p_value.set(math.nan)
        self._drift_windows = Counter(
            "imgpipe_drift_windows", f"Windows of {WINDOW} images that were tested.", registry=self._registry
        )
        self._drift_alarms = Counter(
            "imgpipe_drift_alarms",
            f"Windows with a p-value of at most {FALSE_ALARM_RATE}.",
            registry=self._registry,
        )

    def observe_drift(self, distance: float, p_value: float) -> None:
        """Records a window of served images."""
        self._drift_distance.set(distance)
        self._drift_p_value.set(p_value)
        self._drift_windows.inc()
        if p_value <= FALSE_ALARM_RATE:
            self._drift_alarms.inc()
            log_event(
                "drift",
                f"serve: the last {WINDOW} images differ from the evaluation's: distance {distance:.2f}, "
                f"p-value {p_value:.3g}",
                severity="WARNING",
                distance=distance,
                p_value=p_value,
            )

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        page: bytes = generate_latest(self._registry)
        return page
