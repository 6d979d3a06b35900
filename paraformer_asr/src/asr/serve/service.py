"""Everything a service consists of, apart from its protocols: the model, the engine, the decoders, the metrics."""

import time
from collections.abc import Sequence
from pathlib import Path

import jax

from asr.api import load
from asr.inference.transcriber import Transcriber
from asr.serve.decoding import DecodePool
from asr.serve.engine import Engine
from asr.serve.live import LiveEngine
from asr.serve.metrics import Metrics
from asr.serve.settings import ServeSettings
from asr.serve.speech import make_finder


class Service:
    """A model that is ready to be called by many clients. Call `start`, later `drain` and `stop`.

    Attributes:
        settings: the limits.
        name: of the model, as clients call it.
        aliases: more names for it.
        created: when the service was made, in seconds since 1970.
        metrics: what it measures.
        engine: owns the device.
        pool: decodes uploads.
        live: hears speech while it is spoken; None without a streaming model.
    """

    def __init__(
        self,
        model: Transcriber | str | Path,
        settings: ServeSettings | None = None,
        *,
        name: str = "",
        aliases: Sequence[str] = (),
        punct: str | Path | None = None,
        streaming: Transcriber | None = None,
    ):
        """Make a service of a transcriber, or of a run directory or model folder; `punct` is a punctuation model's.

        `streaming` is a model of the kind streaming: its streams use the detector and the punctuation of the other.
        """
        self.settings = settings or ServeSettings()
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs, too, if there is a cache
        transcriber = model if isinstance(model, Transcriber) else load(model, punct=punct)
        self.name = name or (transcriber.config.name if isinstance(model, Transcriber) else Path(model).resolve().name)
        self.aliases, self.created = tuple(aliases), int(time.time())
        self.metrics = Metrics(self.settings)
        self.engine = Engine(transcriber, self.settings, self.metrics)
        self.pool = DecodePool(transcriber.config, self.settings, self.metrics, make_finder(transcriber))
        self.engine.uploads = self.pool.waiting
        self.live = None
        if streaming is not None:
            streaming.vad, streaming.punctuator = transcriber.vad, transcriber.punctuator
            self.live = LiveEngine(streaming, self.engine, self.settings, self.metrics)

    @property
    def transcriber(self) -> Transcriber:
        """The model."""
        return self.engine.transcriber

    @property
    def ready(self) -> bool:
        """Whether new requests are accepted."""
        return self.engine.ready and not self.engine.draining

    def start(self) -> None:
        """Start the decoders and compile; returns when the first request can be answered."""
        self.pool.start()
        if self.transcriber.vad:
            self.transcriber.vad.warm_up()
        if self.live:
            self.live.start()
        self.engine.start()

    def drain(self) -> None:
        """Refuse new requests; those that have begun are finished."""
        self.engine.drain()

    def stop(self) -> None:
        """Stop at once."""
        if self.live:
            self.live.stop()
        self.engine.stop()
        self.pool.stop()
