"""Serve a trained model over HTTP: `seg serve --model FOLDER`."""

import argparse
import importlib.util
import logging
from pathlib import Path

from seg.arguments import add_model, add_prediction, prediction_overrides
from seg.cli import run_command
from seg.config.reader import load_config
from seg.errors import EXIT_OK, UserError
from seg.serve.hosts import allowed_hosts, is_loopback
from seg.serve.keys import KEYS_VARIABLE, read_keys
from seg.serve.settings import ServeSettings

EXTRA = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg serve",
        description="Answer POST /v1/segment with masks, and show a page at / to try it. docs/serving.md describes it.",
    )
    defaults = ServeSettings()
    add_model(parser)
    add_prediction(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (default: 8000)")
    parser.add_argument("--name", help="of the model, for clients (default: that of its folder)")
    keys = f"file with a key per line, any of which a client must send (or {KEYS_VARIABLE}, separated by commas)"
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help=keys)
    parser.add_argument("--no-auth", action="store_true", help="serve other machines without a key")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="one more name of this server, as behind a proxy",
    )
    parser.add_argument("--no-metrics", action="store_true", help="leave /metrics out")
    parser.add_argument("--no-docs", action="store_true", help="leave /docs out")
    limits = parser.add_argument_group("limits")
    _add_limit(limits, "--max-body-mib", defaults.max_body_bytes / (1 << 20), "largest request, in MiB")
    _add_limit(limits, "--max-megapixels", defaults.max_image_megapixels, "largest image")
    _add_limit(limits, "--max-queued-megapixels", defaults.max_queued_megapixels, "images that wait, together")
    _add_limit(limits, "--deadline", defaults.deadline_s, "longest time for an answer, in seconds")
    _add_limit(limits, "--requests-per-minute", defaults.max_requests_per_minute, "of one client; 0: any number")
    _add_limit(limits, "--megapixels-per-minute", defaults.max_megapixels_per_minute, "of one client; 0: any number")
    limits.add_argument(
        "--workers", type=int, default=defaults.num_workers, help="processes that read and write images"
    )
    sizes = "windows computed at once, ascending from 1 (default: 1,2,4 on a CPU, 1,2,4,8,16 elsewhere)"
    limits.add_argument("--batch-sizes", metavar="N,N…", help=sizes)
    parser.add_argument("--selftest", action="store_true", help="serve one generated image to itself, and stop")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, such as inference.overlap=0.25")
    return parser.parse_intermixed_args()


def _add_limit(group, name: str, default: float, meaning: str) -> None:
    group.add_argument(name, type=float, default=default, metavar="N", help=f"{meaning} (default: {default:g})")


def check_extra() -> None:
    """Refuse to start without the packages of the extra `serve`."""
    if not all(map(importlib.util.find_spec, EXTRA)):
        raise UserError('seg serve needs more packages: pip install "unet-transformer-seg[serve]"')


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of batches, as in "1,4,16"."""
    sizes = tuple(int(word) if word.isdecimal() else 0 for word in text.split(","))
    if sizes[0] != 1 or list(sizes) != sorted(set(sizes)):
        raise UserError(f"--batch-sizes: expected ascending numbers from 1, as in 1,4,16, found {text!r:.80}")
    return sizes


def make_settings(arguments: argparse.Namespace) -> ServeSettings:
    """Return the limits that the options state."""
    for name in ("max_body_mib", "max_megapixels", "max_queued_megapixels", "deadline", "workers"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name.replace('_', '-')}: expected more than 0, found {getattr(arguments, name):g}")
    return ServeSettings(
        max_body_bytes=int(arguments.max_body_mib * (1 << 20)),
        max_bytes_in_flight=max(ServeSettings.max_bytes_in_flight, int(2 * arguments.max_body_mib * (1 << 20))),
        max_image_megapixels=arguments.max_megapixels,
        max_queued_megapixels=arguments.max_queued_megapixels,
        deadline_s=arguments.deadline,
        num_workers=arguments.workers,
        batch_sizes=parse_sizes(arguments.batch_sizes) if arguments.batch_sizes is not None else (),
        max_requests_per_minute=arguments.requests_per_minute,
        max_megapixels_per_minute=arguments.megapixels_per_minute,
    )


def check_exposure(host: str, keys: list[str], no_auth: bool) -> None:
    """Refuse to serve other machines without a key, unless that is meant."""
    if not is_loopback(host) and not keys and not no_auth:
        raise UserError(
            f"--host {host}: other machines could use this server without a key; add --api-key-file FILE, or --no-auth "
            "if that is meant"
        )


def main() -> int:
    """Serve until a signal comes; return the exit code."""
    arguments = parse_arguments()
    check_extra()
    settings, keys = make_settings(arguments), read_keys(arguments.api_key_file)
    check_exposure(arguments.host, keys, arguments.no_auth)
    hosts = allowed_hosts(arguments.host, arguments.allowed_host)
    folder, overrides = arguments.run or arguments.model, [*arguments.settings, *prediction_overrides(arguments)]
    load_config(folder / "config.yaml", overrides)  # a mistake is answered before jax is imported

    from seg.serve.service import load_service

    service = load_service(folder, settings, arguments.name or "", overrides, arguments.checkpoint)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("seg.serve").setLevel(logging.INFO)

    from seg.serve.app import make_app
    from seg.serve.selftest import run_selftest
    from seg.serve.server import Server, address_of, bind

    app = make_app(service, keys, hosts, metrics=not arguments.no_metrics, docs=not arguments.no_docs)
    server = Server(app, service)
    with bind(arguments.host, 0 if arguments.selftest else arguments.port) as listener:
        if arguments.selftest:
            return run_selftest(server, service, listener, keys)
        print(f"serving {service.names[0]} at {address_of(listener)}; /readyz tells when it is compiled", flush=True)
        server.run(sockets=[listener])
    server.check_startup()
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
