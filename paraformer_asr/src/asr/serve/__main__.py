"""Serve a trained model: `asr serve --model FOLDER`, or `python -m asr.serve …`."""

import argparse
import dataclasses
import difflib
import importlib.util
import logging
import socket
import sys
from pathlib import Path
from typing import Any

from asr.arguments import add_dtype, add_model, add_punct, add_vad, part_vad_settings
from asr.cli import leave_at_once, run_command
from asr.errors import EXIT_OK, UserError
from asr.published.funasr_config import read_settings
from asr.published.funasr_punctuation_config import open_punctuation_folder
from asr.serve.hosts import allowed_hosts, is_loopback
from asr.serve.streaming_model import check_streaming, load_streaming, part_streaming_settings
from asr.untrusted import escaped

EXTRA = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "av", "websockets")
"""Modules of the extra `serve`."""
INSTALL = 'pip install "paraformer-asr[serve]"'


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr serve",
        description="Serve a model in the protocols that clients already speak: OpenAI's /v1/audio/transcriptions, "
        "FunASR's websocket, and a page for browsers. It listens on this machine only, unless --host says otherwise.",
        epilog="Exit codes: 0 stopped by SIGTERM or Ctrl-C with every request answered, 2 wrong input.",
    )
    add_model(parser)
    parser.add_argument(
        "--streaming",
        type=Path,
        metavar="FOLDER",
        help="streaming model that recognises speech while it is spoken, for websockets in the modes online and, with "
        "--vad, 2pass; its settings as streaming.KEY=VALUE (default: sound is recognised when it has ended)",
    )
    add_punct(parser)
    add_dtype(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument(
        "--name", default="", help="of the model, for clients (default: that of the folder, or of the run)"
    )
    parser.add_argument(
        "--alias", action="append", default=[], help="one more name, such as whisper-1; may be repeated"
    )
    parser.add_argument("--language", default="", help="of the model, such as en; answers state it")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that clients may use, one a line; those in the variable ASR_API_KEYS count too",
    )
    parser.add_argument("--no-auth", action="store_true", help="serve other machines without keys")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="pages of this server may use the service"
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="one more name of this server, as behind a proxy",
    )
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE", help="change a limit of docs/serving.md"
    )
    parser.add_argument(
        "--drain-seconds", type=float, default=30.0, metavar="S", help="to finish after SIGTERM (default: 30)"
    )
    parser.add_argument("--no-metrics", action="store_true", help="without /metrics")
    parser.add_argument("--no-docs", action="store_true", help="without /docs and /openapi.json")
    parser.add_argument("--selftest", action="store_true", help="start on a free port, transcribe a sound, stop")
    add_vad(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as inference.decoder=ctc")
    arguments = parser.parse_intermixed_args()
    arguments.overrides += [f"inference.dtype={arguments.dtype}"] if arguments.dtype else []
    return arguments


def check_extra() -> None:
    """Raise a UserError unless the packages of the extra are installed."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise UserError(f"asr serve needs more packages ({', '.join(missing)}): {INSTALL}")


def read_limits(texts: list[str]) -> dict[str, Any]:
    """Return the limits in texts like `max_sound_s=3600`, for `ServeSettings`.

    Raises:
        UserError: no such limit, or a value that it cannot have.
    """
    from asr.serve.settings import MAY_BE_ZERO, ServeSettings

    defaults = {field.name: field.default for field in dataclasses.fields(ServeSettings)}
    defaults = {name: default for name, default in defaults.items() if type(default) in (int, float)}
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(defaults)}"
            raise UserError(f"--limit {escaped(text)}: no limit has this name; {hint}")
        kind = type(defaults[name])
        try:
            limits[name] = kind(value)
        except ValueError:
            limits[name] = -1
        if not 0 <= limits[name] < 2**53 or not limits[name] and name not in MAY_BE_ZERO:
            number = "a whole number" if kind is int else "a number"
            low = "from 0 up" if name in MAY_BE_ZERO else "above 0"
            raise UserError(f"--limit {escaped(text)}: expected {name}=N, N {number} {low}")
    return limits


def check_exposure(arguments: argparse.Namespace, keys: list[str]) -> None:
    """Refuse to serve other machines without keys, unless --no-auth allows it."""
    if not is_loopback(arguments.host) and not keys and not arguments.no_auth:
        raise UserError(
            f"--host {arguments.host}: other machines could use the service; name keys with --api-key-file FILE, or "
            "allow everyone with --no-auth"
        )


def make_server(arguments: argparse.Namespace, keys: list[str], listener: socket.socket):
    """Return the server that the arguments describe."""
    from asr import api
    from asr.serve.app import make_app
    from asr.serve.server import Server
    from asr.serve.service import Service
    from asr.serve.settings import ServeSettings

    settings = ServeSettings(**read_limits(arguments.limit))
    folder = arguments.run or arguments.model
    overrides, streaming_settings = part_streaming_settings(arguments.overrides, arguments.streaming)
    overrides, vad_settings = part_vad_settings(overrides, arguments.vad)
    parts = {"vad": api.load_part("vad", arguments.vad, vad_settings), "punct": arguments.punct}
    transcriber = api.load(folder, checkpoint=arguments.checkpoint, overrides=overrides, **parts)
    name = arguments.name or (arguments.model.resolve().name if arguments.model else transcriber.config.name)
    streaming = load_streaming(arguments.streaming, streaming_settings, arguments.dtype)
    service = Service(transcriber, settings, name=name, aliases=arguments.alias, streaming=streaming)
    options = {"with_docs": not arguments.no_docs, "with_metrics": not arguments.no_metrics}
    hosts = allowed_hosts(arguments.host, arguments.allowed_host)
    app = make_app(service, keys, arguments.allow_origin, hosts, language=arguments.language, **options)
    return Server(service, app, listener, arguments.drain_seconds)


def main() -> int:
    """Serve until a signal ends it; return the exit code."""
    arguments = parse_arguments()
    check_extra()
    # Mistakes are reported before jax is imported.
    overrides, streaming_settings = part_streaming_settings(arguments.overrides, arguments.streaming)
    overrides, _ = part_vad_settings(overrides, arguments.vad)
    read_settings(arguments.run or arguments.model, overrides)
    if arguments.streaming:
        check_streaming(arguments.streaming, streaming_settings)
    if arguments.punct:
        open_punctuation_folder(arguments.punct)
    from asr.serve.keys import read_keys
    from asr.serve.selftest import run_selftest
    from asr.serve.server import bind

    read_limits(arguments.limit)
    keys = read_keys(arguments.api_key_file)
    check_exposure(arguments, keys)
    allowed_hosts(arguments.host, arguments.allowed_host)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.ERROR, stream=sys.stderr)
    logging.getLogger("asr").setLevel(logging.INFO)  # libraries may quote what clients send: only their errors
    with bind(arguments.host, 0 if arguments.selftest else arguments.port) as listener:
        server = make_server(arguments, keys, listener)
        if arguments.selftest:
            print(run_selftest(server, keys[0] if keys else ""))
        else:
            server.serve_until_stopped()
            if server.is_compiling:  # the compiler cannot be interrupted
                leave_at_once(EXIT_OK)
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
