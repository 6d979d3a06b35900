"""Lets clients speak live, in real time, to a server of a streaming model of AN4's size; reports how soon text comes.

    python tests/stress/load_live.py --streams 16 --rounds 3 --vad tests/recorded/vad_tiny --out live.json

Weights are random: the text means nothing, its cost is that of a trained model. The server runs on core 0, the clients
on core 1, over the loopback interface. Each client sends 60 ms of sound every 60 ms, as FunASR does, for `--seconds`,
and ends; then it begins again on a new connection, `--rounds` times. Clients begin at random within a second.

    first_text_ms    from the first sound to the first text, which cannot come before the first chunk and its look-ahead
    final_ms         from the end of the sound to the acknowledgement, behind the last text
    late_ms          by how much a client sent its sound too late: a busy machine
    uploads          of `--uploads-per-s`, recognised offline meanwhile: their latencies, and how many were answered
    processor        cores that the server took
    memory_mib       of the server, before and after, and after `--memory` more short conversations
"""

import argparse
import asyncio
import dataclasses
import json
import os
import random
import tempfile
import time
from pathlib import Path

from loading.clients import RATE_HZ, Load, Sound, open_loop, percentiles
from loading.server import Server, save_model

FRAME_S, PATIENCE_S = 0.06, 120
FRAME_BYTES = round(FRAME_S * RATE_HZ) * 2


@dataclasses.dataclass
class Talk:
    """What the clients saw; seconds.

    Attributes:
        failed: conversations that ended with an error, or without an acknowledgement.
    """

    first_text: list[float] = dataclasses.field(default_factory=list)
    final: list[float] = dataclasses.field(default_factory=list)
    late: list[float] = dataclasses.field(default_factory=list)
    conversations: int = 0
    failed: int = 0
    characters: int = 0

    def report(self) -> dict:
        """Return the figures."""
        latencies = {name: percentiles(getattr(self, name)) for name in ("first_text", "final", "late")}
        counts = {name: getattr(self, name) for name in ("conversations", "failed", "characters")}
        return {f"{name}_ms": values for name, values in latencies.items()} | counts


async def speak(port: int, sound: Sound, mode: str, talk: Talk, *, in_real_time: bool = True) -> None:
    """Hold one conversation and note what came of it."""
    import websockets

    content, sent_at = (sound.wave_n * 32767).astype("<i2").tobytes(), {}
    talk.conversations += 1

    async def listen(socket) -> bool:
        has_text = False
        async for message in socket:
            frame, now = json.loads(message), time.perf_counter()
            if "error" in frame:
                return False
            if frame.get("is_end"):
                talk.final.append(now - sent_at["end"])
                return True
            talk.characters += len(frame["text"])
            if frame["text"] and not has_text:
                has_text = True
                talk.first_text.append(now - sent_at["start"])
        return False

    async def send(socket) -> None:
        sent_at["start"] = planned = time.perf_counter()
        for start in range(0, len(content), FRAME_BYTES):
            if in_real_time:
                await asyncio.sleep(max(planned - time.perf_counter(), 0))
                talk.late.append(max(time.perf_counter() - planned, 0.0))
            await socket.send(content[start : start + FRAME_BYTES])
            planned += FRAME_S
        sent_at["end"] = time.perf_counter()
        await socket.send(json.dumps({"is_speaking": False, "is_end": True}))

    try:
        async with websockets.connect(f"ws://127.0.0.1:{port}/", ping_interval=None) as socket:
            await socket.send(json.dumps({"mode": mode, "audio_fs": RATE_HZ, "wav_format": "pcm"}))
            listening = asyncio.create_task(listen(socket))
            await send(socket)
            talk.failed += not await asyncio.wait_for(listening, PATIENCE_S)
    except (OSError, websockets.WebSocketException, TimeoutError):
        talk.failed += 1


async def speak_together(
    port: int, sounds: list[Sound], mode: str, streams: int, rounds: int, uploads_per_s: float = 0.0
) -> tuple[Talk, Load]:
    """Let this many clients hold conversations at once, while others upload the same sounds at random times."""
    talk, rng = Talk(), random.Random(0)
    seconds = rounds * max(sound.seconds for sound in sounds) if uploads_per_s else 0.0
    uploads = asyncio.create_task(open_loop(port, sounds, uploads_per_s or 1.0, seconds))

    async def client(number: int) -> None:
        for turn in range(rounds):
            await asyncio.sleep(rng.uniform(0, 1))
            await speak(port, sounds[(number + turn) % len(sounds)], mode, talk)

    await asyncio.gather(*(client(number) for number in range(streams)))
    return talk, await uploads


async def speak_shortly(port: int, mode: str, number: int) -> Talk:
    """Hold short conversations, eight at a time, as fast as they go."""
    talk, sounds = Talk(), [Sound(1 + 0.2 * seed, seed) for seed in range(8)]
    for _ in range(number // len(sounds)):
        await asyncio.gather(*(speak(port, sound, mode, talk, in_real_time=False) for sound in sounds))
    return talk


def measure(server: Server, mode: str, arguments: argparse.Namespace) -> dict:
    """Return the figures of one mode."""
    sounds = [Sound(arguments.seconds, seed) for seed in range(8)]
    asyncio.run(speak_shortly(server.port, mode, 16))  # warms up
    before_mib, before_s, start = server.memory_mib(), server.processor_s(), time.perf_counter()
    rounds, uploads_per_s = arguments.rounds, arguments.uploads_per_s
    talk, uploads = asyncio.run(speak_together(server.port, sounds, mode, arguments.streams, rounds, uploads_per_s))
    seconds = time.perf_counter() - start
    cores = {part: round((spent - before_s[part]) / seconds, 2) for part, spent in server.processor_s().items()}
    memory_mib = [before_mib, server.memory_mib()]
    if arguments.memory:
        short = asyncio.run(speak_shortly(server.port, mode, arguments.memory))
        memory_mib.append(server.memory_mib())
        talk.failed += short.failed
    steps = server.metric("asr_live_step_streams_count")
    return talk.report() | {
        "seconds": round(seconds, 1),
        "uploads": uploads.report(),
        "processor": cores,
        "memory_mib": [round(mib, 1) for mib in memory_mib],
        "streams_per_step": round(server.metric("asr_live_step_streams_sum") / max(steps, 1), 2),
        "step_ms": round(1000 * server.metric("asr_live_step_seconds_sum") / max(steps, 1), 1),
    }


def main() -> None:
    """Run the modes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=16, help="clients at once (default: 16)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of sound in a conversation (default: 15)")
    parser.add_argument("--rounds", type=int, default=3, help="conversations of each client (default: 3)")
    parser.add_argument("--uploads-per-s", type=float, default=0.0, help="of the same sounds, meanwhile (default: 0)")
    parser.add_argument("--memory", type=int, default=0, help="short conversations afterwards (default: 0)")
    parser.add_argument("--vad", type=Path, help="detector: mode 2pass is measured, too")
    parser.add_argument("--port", type=int, default=18010)
    parser.add_argument("--out", type=Path, help="file of the figures, JSON")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    report: dict = {"load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        offline, streaming = Path(folder) / "offline", Path(folder) / "streaming"
        save_model(offline)
        save_model(streaming, "an4_streaming")
        options = ["--streaming", str(streaming), "--limit", f"max_streams={arguments.streams}"]
        for mode in ("online", "2pass") if arguments.vad else ("online",):
            vad = ["--vad", str(arguments.vad)] if mode == "2pass" else []
            server = Server(offline, arguments.port, 0, [*options, *vad])
            try:
                report[mode] = measure(server, mode, arguments) | {"start_s": round(server.start_s, 1)}
                report[mode]["compilations_after_ready"] = server.metric("asr_compilations_after_ready")
            finally:
                server.stop()
    text = json.dumps(report, indent=1)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
