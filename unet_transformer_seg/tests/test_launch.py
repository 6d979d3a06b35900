"""The launch files are right as far as that can be told without a cluster; docs/scaling.md says what is computed."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seg.config.reader import load_config
from seg.errors import EXIT_HANG, EXIT_NON_FINITE, EXIT_PEER_LOST, EXIT_TERMINATED, EXIT_UNFINISHED, EXIT_USER_ERROR
from seg.models import abstract_variables, count_parameters
from seg.train import check_distributed, parse_arguments, read_config

PROJECT = Path(__file__).parents[1]
LAUNCH = PROJECT / "scripts" / "launch"

SBATCH_OPTIONS = {
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time", "signal", "requeue"),
    *("open-mode", "output"),
}
"""Those of sbatch's manual that the file uses."""

CONFIG = "configs/camvid_unet_transformer.yaml"
IN_KUBERNETES = {"JOBSET_NAME": "seg-train", "JOB_COMPLETION_INDEX": "1", "POD_IP": "10.0.0.7"}

NOTES_ARGUMENTS = '#!/bin/sh\nprintf "%s\\n" "$@" > "$NOTED"\n'
NOTES_BINDING = NOTES_ARGUMENTS + 'echo "bound to $JAX_COORDINATOR_BIND_ADDRESS" >> "$NOTED"\n'
FAKE_SRUN = NOTES_BINDING + "exit $SRUN_CODE\n"
FAKE_GETENT = "#!/bin/sh\necho '127.0.1.1 STREAM node1'\necho '10.0.0.5 STREAM node1'\n"


@pytest.fixture
def call(tmp_path):
    """Return a function that runs a launch file with commands that only note how they are called."""
    programs = {"python": NOTES_BINDING, "srun": FAKE_SRUN, "scontrol": NOTES_ARGUMENTS, "getent": FAKE_GETENT}
    for name, content in programs.items():
        (tmp_path / name).write_text(content.replace("$NOTED", f"$FOLDER/{name}.noted"))
        (tmp_path / name).chmod(0o755)

    def run(shell: str, file: str, *arguments: str, **environment: str) -> tuple[int, dict[str, list[str]]]:
        """Return the exit code, and the arguments of each command that was called."""
        for noted in tmp_path.glob("*.noted"):
            noted.unlink()
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment |= {"PATH": path, "FOLDER": str(tmp_path), "SLURM_CPUS_PER_TASK": "12", "SLURMD_NODENAME": "node1"}
        command = [shell, LAUNCH / file, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, {file.stem: file.read_text().splitlines() for file in tmp_path.glob("*.noted")}

    return run


def understood(arguments: list[str], monkeypatch):
    """Return what `seg.train` makes of the arguments that `python -m seg.train` was called with."""
    assert arguments[:2] == ["-m", "seg.train"]
    monkeypatch.setattr(sys, "argv", arguments[1:])
    parsed = parse_arguments()
    check_distributed(parsed)
    return parsed


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.s*")), ids=lambda path: path.name)
def test_a_shell_can_read_the_scripts(path):
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    assert shell in ("/bin/sh", "/bin/bash")
    assert subprocess.run([shell, "-n", path], capture_output=True, timeout=60).stderr == b""


# ── start or resume ──


def test_the_first_start_begins_a_run_and_the_next_one_goes_on_with_the_newest(call, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    command = ("sh", "start_or_resume.sh", str(tmp_path / "runs"), CONFIG, "--distributed", "data.root=x")
    begun = understood(call(*command)[1]["python"][:-1], monkeypatch)
    assert begun.distributed and begun.resume is None
    config = read_config(begun)
    assert (config.runs_dir, config.data.root) == (str(tmp_path / "runs"), "x")
    for name, files in (("20250101_000000_a", True), ("20250102_000000_a", True), ("20250103_000000_a", False)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if files:  # without them, a process was killed while it made the directory
            (tmp_path / "runs" / name / "environment.json").touch()
    resumed = understood(call(*command)[1]["python"][:-1], monkeypatch)
    assert resumed.resume == tmp_path / "runs/20250102_000000_a" and resumed.config is None
    named = understood(call(*command, RUN="runs/other")[1]["python"][:-1], monkeypatch)
    assert named.resume == Path("runs/other") and named.overrides == ["data.root=x"]


# ── SLURM ──


def test_the_directives_of_slurm_are_known():
    text = (LAUNCH / "slurm.sbatch").read_text()
    directives = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in sbatch_lines(text))
    assert directives.keys() == SBATCH_OPTIONS
    # One task for each GPU: jax gives a task the one of its local number.
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]
    assert directives["signal"] == "TERM@120"  # to the tasks; with B: it would reach the shell alone
    before_code = text[: text.index("\nset -")]
    assert before_code.count("#SBATCH") == len(directives)  # sbatch reads no further than the first command


def sbatch_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize("code", [0, EXIT_UNFINISHED, EXIT_TERMINATED, EXIT_PEER_LOST])
def test_slurm_starts_what_was_stopped_again(call, code):
    found, noted = call("bash", "slurm.sbatch", CONFIG, "a=b", SRUN_CODE=str(code), SLURM_JOB_ID="4099")
    assert found == code
    assert noted.get("scontrol") == (["requeue", "4099"] if code else None)
    start = noted["srun"].index("scripts/launch/start_or_resume.sh")
    assert noted["srun"][start + 1 : -1] == ["runs/slurm_4099", CONFIG, "a=b", "--distributed"]
    assert noted["srun"][-1] == "bound to 10.0.0.5:61443"  # jax's rule: 61440 + job % 4096; not the loopback
    assert "--kill-on-bad-exit=0" in noted["srun"] and "--cpus-per-task=12" in noted["srun"]


@pytest.mark.parametrize("code", [EXIT_USER_ERROR, EXIT_NON_FINITE, EXIT_HANG, 1, 137])
def test_slurm_does_not_start_again_what_needs_a_look(call, code):
    found, noted = call("bash", "slurm.sbatch", CONFIG, SRUN_CODE=str(code), SLURM_JOB_ID="7")
    assert found == code and "scontrol" not in noted


def test_slurm_does_not_start_again_for_ever(call):
    often = {"SRUN_CODE": str(EXIT_PEER_LOST), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "20"}
    found, noted = call("bash", "slurm.sbatch", CONFIG, **often)
    assert found == EXIT_PEER_LOST and "scontrol" not in noted


def test_slurm_needs_a_config(call):
    code, noted = call("bash", "slurm.sbatch", SLURM_JOB_ID="7")
    assert code != 0 and not noted


# ── two machines ──


@pytest.mark.parametrize("number", ["0", "1"])
def test_two_machines_call_each_other(call, number, tmp_path, monkeypatch):
    settings = ("data.root=x", "training.batch_size=32")
    arguments = (number, "10.0.0.1", str(tmp_path / "runs"), CONFIG, *settings)
    code, noted = call("sh", "two_machines.sh", *arguments, PORT="9000")
    *command, bound = noted["python"]
    assert code == 0 and bound == "bound to 10.0.0.1:9000"
    parsed = understood(command, monkeypatch)
    assert (parsed.coordinator, parsed.num_processes, parsed.process_id) == ("10.0.0.1:9000", 2, int(number))
    assert parsed.overrides == [f"runs_dir={tmp_path / 'runs'}", *settings]


# ── Kubernetes ──


@pytest.fixture(scope="module")
def documents():
    """Return the documents of jobset.yaml by their kind."""
    found = list(yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text()))
    assert all({"apiVersion", "kind", "metadata", "spec"} == document.keys() for document in found)
    return {document["kind"]: document for document in found}


def expand(value: str) -> str:
    """Return a value as Kubernetes hands it to the container."""
    return re.sub(r"\$\((\w+)\)", lambda name: IN_KUBERNETES[name[1]], value)


def test_the_jobset_ends_or_starts_again_by_exit_code(documents):
    jobset = documents["JobSet"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (workers,), policy = jobset["spec"]["replicatedJobs"], jobset["spec"]["failurePolicy"]
    job = workers["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 2
    assert workers["replicas"] == 1 and job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == "train"
    assert rule["onExitCodes"]["values"] == [EXIT_USER_ERROR, EXIT_NON_FINITE, EXIT_HANG]
    assert policy["maxRestarts"] > 0 and policy["restartStrategy"] == "BlockingRecreate"
    (ends,) = policy["rules"]
    assert (ends["action"], ends["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", ends["name"])


def test_the_pods_share_folders_and_nobody_else_reaches_them(documents):
    jobset = documents["JobSet"]
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {documents["PersistentVolumeClaim"]["metadata"]["name"]}
    assert documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    policy = documents["NetworkPolicy"]["spec"]
    chosen = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": jobset["metadata"]["name"]}}
    assert policy["podSelector"] == chosen and policy["ingress"] == [{"from": [{"podSelector": chosen}]}]
    assert jobset["metadata"]["name"] == IN_KUBERNETES["JOBSET_NAME"]


def test_the_pods_start_the_training(documents, call, monkeypatch):
    job = documents["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (shell, script), arguments = container["command"], [expand(argument) for argument in container["args"]]
    assert PROJECT / script == LAUNCH / "start_or_resume.sh"
    bind = {e["name"]: expand(e["value"]) for e in container["env"] if "value" in e}["JAX_COORDINATOR_BIND_ADDRESS"]
    code, noted = call(shell, "start_or_resume.sh", *arguments, JAX_COORDINATOR_BIND_ADDRESS=bind)
    *command, bound = noted["python"]
    parsed = understood(command, monkeypatch)
    assert code == 0 and parsed.num_processes == job["completions"] and parsed.process_id == 1
    assert parsed.coordinator == "seg-train-workers-0-0.seg-train:8476" and bound == "bound to 10.0.0.7:8476"
    monkeypatch.chdir(PROJECT)
    config = read_config(parsed)
    assert config.runs_dir == "/runs/seg-train" and config.data.root == "/data"
    assert config.training.batch_size % (job["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]) == 0


# ── the arithmetic ──


@pytest.fixture(scope="module")
def arithmetic():
    return runpy.run_path(str(PROJECT / "scripts/scaling_arithmetic.py"))


def test_the_tables_of_the_document_are_those_that_are_computed(arithmetic, capsys):
    arithmetic["main"]()
    document = (PROJECT / "docs/scaling.md").read_text()
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in document, f"scripts/scaling_arithmetic.py prints another one:\n{table}"


def test_the_plans_have_the_parameters_of_the_models(arithmetic):
    for plan in arithmetic["PLANS"]:
        names = [f"model.name={plan.name}", "model.num_classes=11", "data.root=x", "model.dropout=0"]
        config = load_config(PROJECT / CONFIG, names)
        variables = abstract_variables(config.model)
        assert plan.parameters == count_parameters(variables["params"])
        assert plan.copies == 3 + (config.training.ema_decay > 0)


def test_the_messages_of_a_ring_are_those_of_its_steps(arithmetic):
    """Each of n devices passes on one n-th of the data in each of n − 1 steps, and once more for the sums."""
    for gpus in (2, 8, 512):
        steps = [1000 / gpus for _ in range(gpus - 1)]
        assert arithmetic["all_gather_bytes"](1000, gpus) == pytest.approx(sum(steps))
        assert arithmetic["all_reduce_bytes"](1000, gpus) == pytest.approx(2 * sum(steps))
