"""The files in deploy/: rules of the linters of their kinds, and that they name what the service has."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seg.serve import __main__ as command
from seg.serve.metrics import Metrics
from seg.serve.settings import ServeSettings

DEPLOY = Path(__file__).parents[1] / "deploy"


def read_yaml(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def instructions(path):
    """Return (instruction, arguments) of a Dockerfile; continued lines are joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", path.read_text(), flags=re.M))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def parse(arguments, monkeypatch):
    """Return the options of `seg serve`, or fail as the command does."""
    monkeypatch.setattr(sys, "argv", ["seg serve", *arguments])
    return command.parse_arguments()


DOCKERFILE = instructions(DEPLOY / "Dockerfile")


def last_stage():
    start = max(i for i, (name, _) in enumerate(DOCKERFILE) if name == "FROM")
    return dict(DOCKERFILE[start:])


def test_every_image_has_a_version():
    arguments = dict(value.split("=") for name, value in DOCKERFILE if name == "ARG" and "=" in value)
    for name, value in DOCKERFILE:
        if name == "FROM":
            tag = value.split()[0].partition(":")[2]
            tag = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], tag)
            assert re.match(r"\d+\.\d+", tag), f"{value}: an image without a version"
    for name, service in read_yaml("compose.yaml")["services"].items():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name}: an image without a version"


def test_the_container_runs_as_a_user_without_rights_on_a_read_only_root():
    stage = last_stage()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    names = [name for name, _ in DOCKERFILE]
    assert "ADD" not in names and "sudo" not in (DEPLOY / "Dockerfile").read_text()
    assert names.index("USER") < names.index("ENTRYPOINT")
    service = read_yaml("compose.yaml")["services"]["seg"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    container = read_yaml("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    written = {"/cache", "/tmp"}
    assert written <= {mount["mountPath"] for mount in container["volumeMounts"]}
    for variable in re.findall(r"\b(?:JAX_COMPILATION_CACHE_DIR|MPLCONFIGDIR)=(\S+)", stage["ENV"]):
        assert any(variable == folder or variable.startswith(f"{folder}/") for folder in written)


def test_what_is_copied_into_the_image_exists_and_passes_the_filter():
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name, value in DOCKERFILE:
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (DEPLOY.parent / source).exists() and f"!{source}" in kept


def test_the_commands_are_understood(monkeypatch):
    entry = json.loads(last_stage()["ENTRYPOINT"])
    assert entry[:2] == ["seg", "serve"]
    container = read_yaml("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
    options = parse([*entry[2:], *container["args"]], monkeypatch)
    assert (options.host, options.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert f"{options.port}" == last_stage()["EXPOSE"]
    unit = (DEPLOY / "systemd/seg-serve.service").read_text()
    words = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.M)[1].replace("${CREDENTIALS_DIRECTORY}", "/c"))
    assert words[1] == "serve"
    parse(words[2:], monkeypatch)
    nginx = (DEPLOY / "nginx/seg.conf").read_text()
    assert f"127.0.0.1:{options.port};" in nginx


def test_probes_ask_different_routes():
    container = read_yaml("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness", "startup")}
    assert paths == {"liveness": "/healthz", "readiness": "/readyz", "startup": "/readyz"}
    assert "/healthz" in last_stage()["HEALTHCHECK"]


def test_every_grace_is_longer_than_what_it_waits_for():
    drain_s = ServeSettings().drain_s
    pod = read_yaml("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    pause_s = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > drain_s + pause_s
    assert int(read_yaml("compose.yaml")["services"]["seg"]["stop_grace_period"].rstrip("s")) > drain_s
    unit = (DEPLOY / "systemd/seg-serve.service").read_text()
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > drain_s
    settings, nginx = ServeSettings(), (DEPLOY / "nginx/seg.conf").read_text()
    assert int(re.search(r"proxy_read_timeout (\d+)s", nginx)[1]) > settings.deadline_s
    assert int(re.search(r"client_max_body_size (\d+)m", nginx)[1]) * 2**20 > settings.max_body_bytes
    assert read_yaml("ray_serve.yaml")["http_options"]["request_timeout_s"] > settings.deadline_s


def test_the_metrics_that_are_asked_for_exist():
    exported = Metrics().exposition().decode()
    names = set(re.findall(r"^# TYPE (\w+)", exported, re.M))
    names |= {f"{name}_{end}" for name in names for end in ("bucket", "sum", "count", "total")}
    dashboard = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    metric = read_yaml("kubernetes/autoscaler.yaml")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    used = set(re.findall(r"\bseg_\w+", " ".join([*expressions, metric])))
    assert len(used) > 8 and used <= names, used - names


def test_the_parts_of_the_cluster_belong_together():
    kustomization = read_yaml("kubernetes/kustomization.yaml")
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    deployment, labels = read_yaml("kubernetes/deployment.yaml"), {"app": "seg"}
    assert deployment["spec"]["template"]["metadata"]["labels"] == labels
    assert read_yaml("kubernetes/service.yaml")["spec"]["selector"] == labels
    for name in ("disruption_budget", "network_policy"):
        spec = read_yaml(f"kubernetes/{name}.yaml")["spec"]
        assert spec.get("selector", spec.get("podSelector"))["matchLabels"] == labels
    scaler = read_yaml("kubernetes/autoscaler.yaml")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    budget = read_yaml("kubernetes/disruption_budget.yaml")["spec"]["minAvailable"]
    assert budget < scaler["minReplicas"] <= deployment["spec"]["replicas"]


def test_compose_mounts_files_that_exist():
    for service in read_yaml("compose.yaml")["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).is_file(), source


def test_the_config_of_ray_serve_is_one():
    schema = pytest.importorskip("ray.serve.schema", reason="needs the extra `ray`")
    config = schema.ServeDeploySchema(**read_yaml("ray_serve.yaml"))
    assert [application.import_path for application in config.applications] == ["seg.serve.ray_app:build"]
