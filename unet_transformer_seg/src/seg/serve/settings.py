"""Every limit of the service. docs/serving.md has the table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """Limits, each with its unit in its name.

    Attributes:
        max_body_bytes: largest request.
        max_bytes_in_flight: bodies that are held at once, of all requests together.
        max_requests: requests that are answered at once; more get 429.
        max_connections: open connections; more are closed without an answer.
        max_fields: parts of a form besides the file.
        max_field_bytes: longest field of a form.
        max_image_megapixels: largest image, or all images of a stack together.
        max_pages: images of a stack.
        max_queued_megapixels: images that wait for the device, all together; a small one counts as a whole window.
        max_queue_s: longest estimated wait of an image that fits into a window; longer ones are refused.
        deadline_s: longest time for one answer, from the end of the upload.
        headers_timeout_s: time in which a client must send the head of a request.
        idle_timeout_s: longest pause of a client within a body.
        body_timeout_s: time for a body, to which a second is added for each `min_body_bytes_per_s`.
        min_body_bytes_per_s: slowest upload.
        keep_alive_s: time for which an idle connection is kept.
        drain_s: longest wait for running requests when the server is stopped.
        num_workers: processes that read images and draw answers.
        max_jobs: images and answers that wait for a worker process.
        decode_s: longest time to read an image.
        draw_s: longest time to write an answer.
        worker_bytes: memory that a worker may use beyond what it has when idle.
        batch_sizes: numbers of windows that the network is compiled for, ascending from 1. Empty: up to 4 on a CPU,
            which gains little from more, and up to 16 elsewhere.
        large_at_once: images larger than a window that are computed in turn.
        max_requests_per_minute: of one key, or of one address without keys; 0: any number.
        max_megapixels_per_minute: the same for the images.
    """

    max_body_bytes: int = 25 << 20
    max_bytes_in_flight: int = 256 << 20
    max_requests: int = 256
    max_connections: int = 1024
    max_fields: int = 16
    max_field_bytes: int = 4 << 10
    max_image_megapixels: float = 32.0
    max_pages: int = 512
    max_queued_megapixels: float = 128.0
    max_queue_s: float = 10.0
    deadline_s: float = 300.0
    headers_timeout_s: float = 10.0
    idle_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    min_body_bytes_per_s: int = 50 << 10
    keep_alive_s: int = 5
    drain_s: float = 30.0
    num_workers: int = 2
    max_jobs: int = 64
    decode_s: float = 20.0
    draw_s: float = 60.0
    worker_bytes: int = 1 << 30
    batch_sizes: tuple[int, ...] = ()
    large_at_once: int = 2
    max_requests_per_minute: int = 0
    max_megapixels_per_minute: float = 0.0
