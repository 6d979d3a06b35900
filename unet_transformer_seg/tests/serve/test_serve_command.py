"""`seg serve`: mistakes are answered at once, and the command tries itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seg.config.reader import save_config
from seg.errors import UserError
from seg.inference.model_folder import save_model_folder
from seg.serve import __main__ as command


@pytest.fixture
def run(monkeypatch, tmp_path):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["seg serve", "--model", str(tmp_path), *arguments])
        return command.main()

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--host", "0.0.0.0"),
            "--host 0.0.0.0: other machines could use this server without a key; add --api-key-file",
        ),
        (("--allowed-host", "http://x"), "--allowed-host http://x: expected a name without scheme and port"),
        (("--batch-sizes", "2,4"), "--batch-sizes: expected ascending numbers from 1, as in 1,4,16, found '2,4'"),
        (("--batch-sizes", "1,x"), "found '1,x'"),
        (("--workers", "0"), "--workers: expected more than 0, found 0"),
        (("--max-body-mib", "nan"), "--max-body-mib: expected more than 0, found nan"),
        (("--api-key-file", "/no/such/file"), "--api-key-file /no/such/file: cannot be read"),
        ((), "config.yaml: cannot read the config"),
    ],
)
def test_a_mistake_is_named(run, arguments, message, monkeypatch):
    monkeypatch.delenv("SEG_API_KEYS", raising=False)
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert message in str(error.value)


def test_the_extra_is_named_if_it_is_missing(run, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "unet-transformer-seg\[serve\]"'):
        run()


def test_a_port_that_is_taken_is_named(monkeypatch):
    from seg.serve.server import bind

    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen there .*; try --port 0"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match="--port 99999: expected a number from 0 to 65535"):
        bind("127.0.0.1", 99_999)


@pytest.fixture(scope="module")
def folder(predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "shapes"
    save_model_folder(folder, predictor.config, predictor.classes, predictor.variables)
    return folder


@pytest.mark.slow
def test_the_command_tries_itself(folder):
    arguments = [sys.executable, "-m", "seg", "serve", "--model", str(folder), "--selftest", "--batch-sizes", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "/v1/segment?format=npz: " in done.stdout and done.stdout.endswith("passed\n")


@pytest.mark.slow
def test_sigterm_ends_it_with_code_0_and_leaves_no_process(folder):
    arguments = [sys.executable, "-m", "seg.serve", "--model", str(folder), "--port", "0", "--batch-sizes", "1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline().startswith("serving shapes at http://127.0.0.1:")
        time.sleep(1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)


def test_images_computed_whole_go_by_windows_instead(predictor, tmp_path, monkeypatch, capsys):
    import dataclasses

    from seg import api
    from seg.serve.service import load_service
    from seg.serve.settings import ServeSettings

    inference = dataclasses.replace(predictor.config.inference, whole_up_to=10_000)
    save_config(dataclasses.replace(predictor.config, inference=inference), tmp_path / "config.yaml")
    overrides = []
    monkeypatch.setattr(api, "load", lambda folder, **options: overrides.extend(options["overrides"]) or predictor)
    assert load_service(tmp_path, ServeSettings()).names == (tmp_path.name,)
    assert overrides == ["inference.whole_up_to=0"] and "is set to 0" in capsys.readouterr().err
