"""The settings of a recogniser that hears sound in chunks, as it is spoken.

Neither jax nor numpy is imported here.
"""

import dataclasses
from typing import Literal

from asr.config.fields import setting
from asr.errors import UserError

Compat = Literal["none", "funasr", "funasr_onnx"]
"""Whose arithmetic the steps follow: ours, that of FunASR, or that of FunASR's exported pair of graphs."""


@dataclasses.dataclass(frozen=True)
class ChunkLayout:
    """How a sequence of encoder frames is cut into chunks, and what a chunk sees.

    A step takes `size` new frames. Its window is these and the `left + right` frames before them; the answer for the
    `right` newest frames waits for the next step, so that each frame is decoded with at least that much look-ahead:

        window   | left | size: decoded now | right: look-ahead |
                            the new frames: | size              |

    Attributes:
        left, size, right: frames; FunASR's `chunk_size`.
        encoder_look_back: earlier chunks whose keys the encoder attends to; -1: all.
        decoder_look_back: earlier chunks whose frames the decoder attends to; -1: all.
        compat: see docs/streaming.md.
    """

    left: int
    size: int
    right: int
    encoder_look_back: int
    decoder_look_back: int
    compat: Compat = "none"

    @property
    def window(self) -> int:
        """Frames of a window."""
        return self.left + self.size + self.right

    @property
    def context(self) -> int:
        """Frames of a window that came with earlier steps."""
        return self.left + self.right

    @property
    def num_kept(self) -> int:
        """Frames of a window whose keys the encoder keeps: those that leave it, and once more `left` in FunASR."""
        return self.size if self.compat == "none" else self.left + self.size

    def num_cached(self, look_back: int) -> int:
        """Return the frames of a cache; of one without end, those that it begins with."""
        return max(look_back, 0) * self.size

    def num_windows(self, num_frames: int) -> int:
        """Return the windows of an utterance: one for each whole chunk, and a last one, perhaps without a new frame."""
        return num_frames // self.size + 1

    def final_pieces(self, num_rest: int) -> list[tuple[int, bool]]:
        """Return (new frames, whether the stream ends) of the steps at its end, for `num_rest` frames not yet heard.

        Ours decodes what is left in whole chunks and then the rest, with its look-ahead. FunASR's programs cut samples,
        not frames: the rest is less than a chunk of samples, and is no frame at all if it is shorter than 60 ms. Its
        exported pair decodes `size` rows at most. If the rest and its look-ahead are more, a second step hears the last
        k frames again: −k.
        """
        if self.compat == "none":
            return [(self.size, False)] * (num_rest // self.size) + [(num_rest % self.size, True)]
        again = min(num_rest + self.right - self.size, num_rest)
        if self.compat == "funasr_onnx" and again > 0:
            return [(num_rest, False), (-again, True)]
        return [(num_rest, True)]


@dataclasses.dataclass(frozen=True)
class StreamingConfig:
    """Recognition in chunks; model streaming. A frame is `FeaturesConfig.output_shift_ms` long."""

    chunk_size: tuple[int, int, int] = setting(
        (0, 10, 5), "frames of a window: left context, decoded, look-ahead", 0, 1000
    )
    encoder_look_back: int = setting(4, "earlier chunks that the encoder attends to; -1: all", -1, 1000)
    decoder_look_back: int = setting(1, "earlier chunks that the decoder attends to; -1: all", -1, 1000)
    training_chunks: tuple[tuple[int, ...], ...] = setting(
        (), "chunk sizes of which one is drawn for each batch; []: chunk_size alone", 0, 1000
    )
    offline_share: float = setting(0.0, "share of the training batches that are heard as a whole, without chunks", 0, 1)
    full_context: bool = setting(
        False, "transcribe files without chunks, for models that were trained with offline_share; streams have chunks"
    )
    compat: Compat = setting(
        "none", "arithmetic of the steps: none: without the faults of FunASR's; see docs/streaming.md"
    )

    @property
    def layout(self) -> ChunkLayout:
        """How sound is cut."""
        return self.with_chunks(self.chunk_size)

    @property
    def training_layouts(self) -> tuple[ChunkLayout, ...]:
        """The ways to cut of which each batch of training draws one."""
        return tuple(self.with_chunks(size) for size in self.training_chunks or (self.chunk_size,))

    def with_chunks(self, chunk_size: tuple[int, ...]) -> ChunkLayout:
        """Return the layout of other chunks.

        Raises:
            UserError: no chunk size, or what FunASR's pair of graphs cannot do.
        """
        chunk_size = check_chunk_size(chunk_size)
        look_backs = self.encoder_look_back, self.decoder_look_back
        if self.compat == "funasr_onnx" and (chunk_size[0] == 0 or look_backs != (0, 0)):
            expected = "left context in chunk_size, such as [5, 10, 5], and encoder_look_back and decoder_look_back 0"
            found = f"{list(chunk_size)} and {look_backs[0]}, {look_backs[1]}"
            raise UserError(f"model.streaming: compat funasr_onnx: expected {expected}, found {found}")
        return ChunkLayout(*chunk_size, *look_backs, self.compat)


def check_chunk_size(chunk_size: tuple[int, ...]) -> tuple[int, ...]:
    """Return a chunk size; refuse what is no three numbers of frames, or has no frame that is decoded."""
    is_whole = all(isinstance(frames, int) and not isinstance(frames, bool) for frames in chunk_size)
    if not is_whole or len(chunk_size) != 3 or min(chunk_size) < 0 or chunk_size[1] < 1 or max(chunk_size) > 1000:
        expected = "[left, decoded, look-ahead] in frames, at least one decoded, such as [0, 10, 5]"
        raise UserError(f"chunk_size: expected {expected}, found {list(chunk_size)}")
    return chunk_size
