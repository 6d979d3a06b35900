"""Talks to a real server in every way that FunASR's websocket protocol does not allow, and in some that it does.

    python tests/stress/hostile_websockets.py --conversations 500 --good 1000

A server with a tiny random model runs in a process of its own. Each hostile conversation must end with a text, or with
an error and the code that closes the connection, never with a fault of the server; meanwhile /healthz must answer, and
afterwards a good client must get the same text as before. Then good clients come one after the other, and the server's
memory is written down. Exit code 1: something of this does not hold.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from hostile_frames import END, KINDS, pcm, state
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).parents[1]))
AT_ONCE = 8
PATIENCE_S = 60
LIMITS = {"websocket_idle_s": 2.0, "websocket_after_text_s": 2.0, "max_sound_s": 60.0}
EXPECTED = {1000, 1003, 1007, 1008, 1009, 1013}
"""Codes that are no fault of the server; 1006 stands for a connection that the client itself broke off."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a conversation ended.

    Attributes:
        texts: answers with a text.
        error: whether the server explained itself.
        code: that closed the connection.
    """

    texts: tuple[str, ...]
    error: bool
    code: int


async def converse(address: str, frames: list) -> Outcome:
    """Send frames, as `hostile_frames` describes them; return how it ended."""
    texts, error = [], False

    async def listen(socket) -> None:
        nonlocal error
        async for message in socket:
            answer = json.loads(message)
            error |= "error" in answer
            if "text" in answer and "error" not in answer:
                texts.append(answer["text"])

    async with connect(address, max_size=None, ping_interval=None, open_timeout=PATIENCE_S) as socket:
        listening = asyncio.create_task(listen(socket))
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await _send(socket, frame)
        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(listening, PATIENCE_S)
        await socket.wait_closed()
        return Outcome(tuple(texts), error, socket.close_code)


async def _send(socket, frame) -> None:
    if frame is None:
        socket.transport.abort()
    elif isinstance(frame, float):
        await asyncio.sleep(frame)
    elif isinstance(frame, tuple):
        socket.transport.write(frame[1])
    else:
        await socket.send(frame)


async def good_client(address: str) -> str:
    """Return the text of a sound, as a client of today's FunASR gets it."""
    async with connect(address, subprotocols=["binary"], ping_interval=None, open_timeout=PATIENCE_S) as socket:
        await socket.send(state())
        for start in range(0, len(SOUND), 960):
            await socket.send(SOUND[start : start + 960])
        await socket.send(END)
        text = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))["text"]
        assert json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))["is_end"]
        return text


SOUND = pcm(1.5, seed=7)


async def attack(address: str, number: int, seed: int) -> dict[str, list[Outcome | Exception]]:
    """Hold hostile conversations, several at once; return how those of each kind ended."""
    outcomes, turns = collections.defaultdict(list), asyncio.Semaphore(AT_ONCE)

    async def hold(place: int) -> None:
        kind = list(KINDS)[place % len(KINDS)]
        async with turns:
            try:
                outcome = await converse(address, KINDS[kind](np.random.default_rng([seed, place])))
            except (OSError, TimeoutError, AssertionError) as error:
                outcome = error
        outcomes[kind].append(outcome)

    await asyncio.gather(*map(hold, range(number)))
    return outcomes


async def watch_health(address: str, seconds: list[float]) -> None:
    """Ask for /healthz again and again, and keep the seconds it took."""
    while True:
        start = time.perf_counter()
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"http{address[2:]}/healthz", timeout=30).read())
        seconds.append(time.perf_counter() - start)
        await asyncio.sleep(0.1)


def memory_mib(process: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def metric(address: str, name: str) -> float:
    """Return the value of a metric of the server."""
    text = urllib.request.urlopen(f"http{address[2:]}/metrics", timeout=30).read().decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def print_table(outcomes: dict[str, list]) -> bool:
    """Print how the conversations of each kind ended; return whether all ended as they may."""
    print("| conversations | number | text | error and its code | left by the client |\n|---|---|---|---|---|")
    is_fine = True
    for kind in KINDS:
        ends = outcomes[kind]
        codes = collections.Counter(
            end.code for end in ends if isinstance(end, Outcome) and end.code not in (1000, 1006)
        )
        texts = sum(isinstance(end, Outcome) and end.code == 1000 for end in ends)
        left = sum(isinstance(end, Outcome) and end.code == 1006 for end in ends)
        failed = [end for end in ends if not isinstance(end, Outcome)]
        shown = ", ".join(f"{code}: {number}" for code, number in sorted(codes.items()))
        print(f"| {kind} | {len(ends)} | {texts or ''} | {shown} | {left or ''} |")
        may_break = kind in ("clients that leave", "broken websocket frames")
        is_fine &= (
            not failed and codes.keys() <= EXPECTED | ({1002} if may_break else set()) and (may_break or not left)
        )
        for failure in failed:
            print(f"  {kind}: {failure!r}")
    return is_fine


async def run(arguments: argparse.Namespace, address: str, process: int) -> bool:
    """Attack, then measure; return whether everything held."""
    expected, health_s = await good_client(address), []
    watching = asyncio.create_task(watch_health(address, health_s))
    before, start = memory_mib(process), time.monotonic()
    is_fine = print_table(await attack(address, arguments.conversations, arguments.seed))
    watching.cancel()
    print(f"\n{arguments.conversations} hostile conversations, {AT_ONCE} at once, in {time.monotonic() - start:.0f} s")
    print(f"memory of the server: {before:.0f} MiB before, {memory_mib(process):.0f} MiB after")
    print(f"/healthz: {len(health_s)} times, 99 % within {np.quantile(health_s, 0.99) * 1000:.0f} ms")
    await asyncio.sleep(3)
    is_fine &= await good_client(address) == expected and metric(address, "asr_sessions") == 0
    is_fine &= metric(address, "asr_compilations_after_ready") == 0
    memory = []
    for place in range(arguments.good):
        assert await good_client(address) == expected
        if (place + 1) % max(arguments.good // 10, 1) == 0:
            memory.append(memory_mib(process))
    if memory:
        shown = ", ".join(f"{mib:.1f}" for mib in memory)
        print(f"memory of the server in MiB over {arguments.good} good conversations: {shown}")
        is_fine &= memory[-1] - memory[len(memory) // 2] < 8
    return is_fine


def serve() -> None:
    """Run the server of this test, in a process of its own, until its input ends."""
    from asr.serve.service import Service
    from serve.running_server import SETTINGS as SMALL
    from serve.running_server import make_transcriber, serving

    service = Service(make_transcriber(), dataclasses.replace(SMALL, **LIMITS), name="tiny")
    service.start()
    with serving(service) as server:
        print(server.url.replace("http", "ws"), flush=True)
        sys.stdin.read()
    service.stop()


def main() -> int:
    """Run the test as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--conversations", type=int, default=500, help="hostile ones (default: 500)")
    parser.add_argument("--good", type=int, default=1000, help="good ones after them (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        is_fine = asyncio.run(run(arguments, server.stdout.readline().strip(), server.pid))
        server.stdin.close()
    print("everything held" if is_fine else "SOMETHING DID NOT HOLD")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
