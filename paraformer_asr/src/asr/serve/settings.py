"""Every limit of the service in one place, with its unit in its name."""

import dataclasses

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """The limits of the service; the metrics report them, `docs/serving.md` explains them.

    Attributes:
        max_body_bytes: largest upload, counted as it arrives.
        max_field_bytes: largest field of a form, the file apart.
        max_parts: most parts of a form.
        max_part_header_bytes: largest header of a part.
        headers_timeout_s: time to send the headers of a request.
        body_timeout_s: time to send a body, in addition to its size over `min_body_bytes_per_s`.
        min_body_bytes_per_s: slowest sender accepted.
        idle_timeout_s: longest pause within a body.
        keep_alive_s: how long an unused connection stays open.
        max_connections: connections at once.
        max_requests_per_minute: of one key; 0: no limit.
        max_sound_s_per_minute: seconds of sound of one key; 0: no limit.
        max_hotwords: most hot words in a request.
        max_hotword_characters: longest hot word.
        max_sound_s: longest sound of a request, once decoded.
        max_channels: most channels of a sound.
        min_rate_hz: lowest sampling rate.
        max_rate_hz: highest sampling rate.
        decode_workers: processes that decode uploads.
        decode_timeout_s: time to decode one upload; a worker that takes longer is killed.
        decode_memory_bytes: address space of a worker.
        decode_waiting: uploads that wait for a worker or are in one.
        decode_waiting_bytes: their size.
        queue_sound_s: seconds of sound that wait for the device; more is refused.
        max_wait_s: time in the queue, estimated by the speed of late; more is refused.
        request_share_s: seconds of one request that count towards `queue_sound_s`. Requests take turns, so that a long
            sound delays others by no more.
        held_sound_s: seconds of sound in memory, over all requests.
        deadline_s: time from the end of an upload to its answer.
        batch_rows: most rows of a batch; programs are compiled for 1, 4, 16… rows up to it, and each length. 0: 4 on a
            CPU, which gains little from more, 16 elsewhere.
        batch_lengths: parts that the longest segment is divided into: lengths of a batch.
        batch_wait_s: how long a segment waits for others if the device was busy just before.
        websocket_message_bytes: largest message of a websocket.
        websocket_config_bytes: largest text message.
        websocket_after_text_s: how long the server waits after a text until the client closes or sends another sound.
        websocket_sounds_bytes: sounds of all websockets that have not ended.
        websocket_buffer_s: sound of a live session that is not recognised yet.
        websocket_idle_s: longest pause between messages.
        websocket_session_s: longest conversation.
    """

    max_body_bytes: int = 25 * MIB
    max_field_bytes: int = 64 * 1024
    max_parts: int = 64
    max_part_header_bytes: int = 8 * 1024
    headers_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    min_body_bytes_per_s: float = 50 * 1024
    idle_timeout_s: float = 15.0
    keep_alive_s: float = 5.0
    max_connections: int = 256
    max_requests_per_minute: int = 0
    max_sound_s_per_minute: float = 0.0
    max_hotwords: int = 100
    max_hotword_characters: int = 64
    max_sound_s: float = 600.0
    max_channels: int = 8
    min_rate_hz: int = 4000
    max_rate_hz: int = 192_000
    decode_workers: int = 2
    decode_timeout_s: float = 30.0
    decode_memory_bytes: int = 2048 * MIB
    decode_waiting: int = 64
    decode_waiting_bytes: int = 256 * MIB
    queue_sound_s: float = 600.0
    max_wait_s: float = 10.0
    request_share_s: float = 60.0
    held_sound_s: float = 7200.0
    deadline_s: float = 300.0
    batch_rows: int = 0
    batch_lengths: int = 4
    batch_wait_s: float = 0.01
    websocket_message_bytes: int = MIB
    websocket_config_bytes: int = 64 * 1024
    websocket_after_text_s: float = 10.0
    websocket_sounds_bytes: int = 256 * MIB
    websocket_buffer_s: float = 30.0
    websocket_idle_s: float = 60.0
    websocket_session_s: float = 4 * 3600.0

    def numbers(self) -> dict[str, float]:
        """Return the limits by name."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items()}
