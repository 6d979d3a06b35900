"""What the service counts, for Prometheus. No label holds anything that a client sent."""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one service, in a registry of their own, so that a process may hold several services."""

    def __init__(self):
        self.registry = CollectorRegistry()

        def new(kind, name, text, labels=(), **options):
            return kind(f"seg_{name}", text, labels, registry=self.registry, **options)

        self.requests = new(Counter, "requests", "Answers.", ("route", "status"))
        self.answers = new(Counter, "answers", "Masks by format.", ("format",))
        self.refusals = new(Counter, "refusals", "Refused requests by the code of the error.", ("code",))
        self.request_s = new(
            Histogram, "request_seconds", "From the request to its answer.", ("route",), buckets=SECONDS
        )
        self.running = new(Gauge, "running_requests", "Requests that are being answered.")
        self.bytes_in_flight = new(Gauge, "bytes_in_flight", "Bytes of the bodies held.")
        self.megapixels = new(Counter, "megapixels", "Megapixels segmented.")
        self.queued_megapixels = new(Gauge, "queued_megapixels", "Megapixels that wait for the device or are on it.")
        self.queue_s = new(Histogram, "queue_seconds", "Wait of an image for the device.", buckets=SECONDS)
        self.batch_images = new(Histogram, "batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64))
        self.padding = new(Histogram, "batch_padding_ratio", "Windows of a batch that hold no image.")
        self.device_s = new(Histogram, "device_seconds", "Time of one batch on the device.", buckets=SECONDS)
        self.decode_s = new(Histogram, "decode_seconds", "Time to read an image.", buckets=SECONDS)
        self.draw_s = new(Histogram, "draw_seconds", "Time to write an answer.", buckets=SECONDS)
        self.restarts = new(Counter, "worker_restarts", "Worker processes that were replaced.")
        self.dropped = new(Counter, "dropped_images", "Images whose client went away before they were segmented.")
        self.retried = new(Counter, "retried_images", "Images of a failed batch that were tried alone.")
        self.compilations = new(Gauge, "compilations_after_ready", "Programs compiled while clients wait; stays 0.")
        new(Gauge, "resident_bytes", "Memory of the server's process.").set_function(resident_bytes)

    def exposition(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)


def resident_bytes() -> float:
    """Return the memory of this process, or 0 where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
