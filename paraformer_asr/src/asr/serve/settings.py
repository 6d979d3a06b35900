"""Every limit of the service in one place, with its unit in its name."""

import dataclasses

from asr.errors import UserError

MIB = 1 << 20
MAY_BE_ZERO = ("max_requests_per_minute", "max_sound_s_per_minute", "batch_rows", "batch_wait_s", "max_hotwords")
MAY_BE_ZERO += ("stream_wait_s",)


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """The limits of the service; `docs/serving.md` explains them, and the metrics report them."""

    # The sender.
    max_body_bytes: int = 25 * MIB  # largest upload, counted as it arrives
    max_field_bytes: int = 64 * 1024  # largest field of a form, apart from the file
    max_parts: int = 64  # most parts of a form
    max_part_header_bytes: int = 8 * 1024  # largest header of a part
    headers_timeout_s: float = 10.0  # time to send the headers of a request
    body_timeout_s: float = 60.0  # time to send a body, and in addition its size over the next limit
    min_body_bytes_per_s: float = 50 * 1024  # slowest sender accepted
    idle_timeout_s: float = 15.0  # longest pause within a body
    keep_alive_s: float = 5.0  # how long an unused connection stays open
    max_connections: int = 256  # connections at once
    max_requests_per_minute: int = 0  # of one key; 0: no limit
    max_sound_s_per_minute: float = 0.0  # sound of one key; 0: no limit
    max_hotwords: int = 100  # hot words of a request; 0: none, and no programs are compiled for them
    max_hotword_characters: int = 64  # longest hot word

    # The sound.
    max_sound_s: float = 600.0  # longest sound, once decoded
    max_channels: int = 8  # most channels
    min_rate_hz: int = 4000  # lowest sampling rate
    max_rate_hz: int = 192_000  # highest sampling rate
    decode_workers: int = 2  # processes that decode
    decode_timeout_s: float = 30.0  # time to decode an upload; a process that takes longer is replaced
    decode_memory_bytes: int = 2048 * MIB  # address space of a process
    decode_waiting: int = 64  # uploads that wait for a process or are in one
    decode_waiting_bytes: int = 256 * MIB  # their size

    # The engine.
    queue_sound_s: float = 600.0  # sound that waits for the device; decoded sound is refused at twice that
    request_share_s: float = 60.0  # how much of one request counts towards it, as requests take turns
    max_wait_s: float = 10.0  # time that new sound would wait, by the speed of late
    held_sound_s: float = 7200.0  # sound in memory, of all requests
    deadline_s: float = 300.0  # time from the end of an upload to its answer
    batch_rows: int = 0  # most rows of a batch; 0: 4 on a CPU, which gains little from more, and 16 elsewhere
    batch_lengths: int = 4  # lengths of batches: parts that the longest segment is divided into
    batch_wait_s: float = 0.01  # how long a segment waits for company if the device was busy just before

    # Live streams.
    max_streams: int = 16  # live streams at once; each step computes for so many
    stream_wait_s: float = 0.005  # how long a chunk waits for those of other streams

    # Websockets.
    websocket_message_bytes: int = MIB  # largest message
    websocket_config_bytes: int = 64 * 1024  # largest text message
    websocket_after_text_s: float = 10.0  # wait after a text for the next sound or the end
    websocket_sounds_bytes: int = 256 * MIB  # sounds that have not ended, of all websockets
    websocket_buffer_s: float = 30.0  # sound of a live session that is not recognised yet
    websocket_idle_s: float = 60.0  # longest pause between messages
    websocket_session_s: float = 4 * 3600.0  # longest conversation

    def __post_init__(self):
        for name, value in self.numbers().items():
            if not (value > 0 or value == 0 and name in MAY_BE_ZERO):
                raise UserError(f"limit {name}: expected a number above 0, found {value:g}")

    def numbers(self) -> dict[str, float]:
        """Return the limits by name."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items()}
