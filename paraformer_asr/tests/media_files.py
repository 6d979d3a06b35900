"""Media files as phones, browsers and cameras make them, written with PyAV."""

import io
from fractions import Fraction

import av
import numpy as np


def make_media(
    wave, kind, codec, rate_hz=48000, layout="mono", *, video=False, sound=True, title="", start_s=0.0, live=False
):
    """Return the bytes of a file of the container `kind`.

    `wave` is float32[n], the same in all channels, or float32[n, c]; it begins at `start_s`. `video` adds a second of
    black pictures, `sound=False` leaves the sound out, and `live` states no length, as browsers do.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options={"live": "1"} if live else {}) as container:
        if title:
            container.metadata["title"] = title
        picture = _add_pictures(container) if video else None
        if sound:
            _add_sound(container, wave, codec, rate_hz, layout, start_s)
        if picture:
            for number in range(10):
                frame = av.VideoFrame(32, 32, "yuv420p")
                frame.pts = number
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
    return file.getvalue()


def _add_pictures(container):
    picture = container.add_stream("libvpx" if container.format.name == "webm" else "mpeg4", rate=10)
    picture.width = picture.height = 32
    picture.pix_fmt = "yuv420p"
    return picture


def _add_sound(container, wave, codec, rate_hz, layout, start_s):
    stream = container.add_stream(codec, rate=rate_hz, layout=layout)
    if codec.startswith("wma"):
        stream.bit_rate = 64_000
    num_channels = stream.codec_context.channels
    wave_cn = np.ascontiguousarray(wave.T if wave.ndim == 2 else np.tile(wave, (num_channels, 1)), np.float32)
    whole = av.AudioFrame.from_ndarray(wave_cn, "fltp", layout)
    whole.rate = rate_hz
    samples, place = av.AudioFifo(), round(start_s * rate_hz)
    for part in av.AudioResampler(format=stream.format, layout=layout, rate=rate_hz).resample(whole):
        samples.write(part)
    size = stream.codec_context.frame_size or 1024
    while part := samples.read(size) or samples.read():
        part.pts, part.time_base, part.rate = place, Fraction(1, rate_hz), rate_hz
        place += part.samples
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))
