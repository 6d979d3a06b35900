"""What the service measures of itself, as Prometheus reads it. Labels never hold a user's text."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from asr.serve.settings import ServeSettings

if TYPE_CHECKING:
    from asr.serve.engine import Engine
    from asr.serve.queue import SegmentQueue

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self, settings: ServeSettings):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("asr_requests", "Requests answered", ["route", "status", "format"], registry=registry)
        self.rejections = Counter("asr_rejections", "Requests refused", ["reason"], registry=registry)
        self.request_s = Histogram(
            "asr_request_seconds",
            "From the upload's end to the answer",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.first_delta_s = Histogram(
            "asr_first_delta_seconds", "Until the first part of a streamed answer", registry=registry, buckets=SECONDS
        )
        self.sessions = Gauge("asr_sessions", "Websocket conversations", registry=registry)
        self.sound_s = Counter("asr_sound_seconds", "Seconds of sound decoded, or heard live", registry=registry)
        self.decode_s = Histogram("asr_decode_seconds", "Time to decode an upload", registry=registry, buckets=SECONDS)
        self.decode_restarts = Counter("asr_decode_restarts", "Decoding processes replaced", registry=registry)
        self.decode_waiting = Gauge("asr_decode_waiting", "Uploads that wait or are decoded", registry=registry)
        self.queue_s = Gauge("asr_queue_seconds", "Seconds of sound that wait for the device", registry=registry)
        self.queue_requests = Gauge("asr_queue_requests", "Requests with sound that waits", registry=registry)
        self.wait_s = Histogram("asr_wait_seconds", "Time of a segment in it", registry=registry, buckets=SECONDS)
        self.batch_rows = Histogram("asr_batch_rows", "Segments in a batch", registry=registry, buckets=ROWS)
        self.padding = Histogram("asr_batch_padding_ratio", "Padding of a batch", registry=registry, buckets=SHARES)
        self.device_s = Histogram("asr_device_seconds", "Time of a batch", registry=registry, buckets=SECONDS)
        self.batch_failures = Counter("asr_batch_failures", "Batches that failed", registry=registry)
        self.rtfx = Gauge("asr_rtfx", "Seconds of sound per second of device time, recently", registry=registry)
        self.dropped = Counter("asr_dropped_segments", "Segments dropped unrecognised", ["reason"], registry=registry)
        self.live_streams = Gauge("asr_live_streams", "Live streams that are open", registry=registry)
        self.live_first_text_s = Histogram(
            "asr_live_first_text_seconds", "From the first sound of a live stream", registry=registry, buckets=SECONDS
        )
        self.live_final_s = Histogram(
            "asr_live_final_seconds",
            "From a live sound's end to its last text",
            registry=registry,
            buckets=SECONDS,
        )
        self.live_step_s = Histogram("asr_live_step_seconds", "Time of a step", registry=registry, buckets=SECONDS)
        self.live_step_streams = Histogram(
            "asr_live_step_streams", "Live streams in a step", registry=registry, buckets=ROWS
        )
        self.compilations = Gauge("asr_compilations", "Programs compiled at the start", registry=registry)
        self.late_compilations = Gauge(
            "asr_compilations_after_ready", "Programs compiled since; 0 is right", registry=registry
        )
        self.ready = Gauge("asr_ready", "1 while requests are accepted", registry=registry)
        limits = Gauge("asr_limit", "Limits in force", ["name"], registry=registry)
        for name, value in settings.numbers().items():
            limits.labels(name).set(value)

    def watch(self, engine: "Engine", queue: "SegmentQueue") -> None:
        """Read from an engine and its queue what is asked of them."""
        self.late_compilations.set_function(lambda: engine.compilations_after_ready)
        self.queue_s.set_function(queue.seconds)
        self.queue_requests.set_function(lambda: len(queue))
        self.rtfx.set_function(lambda: engine.speed)
        self.ready.set_function(lambda: engine.ready and not engine.draining)

    def text(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self.registry)
