"""The two projects share no code, but the same thought is written the same way in both: these files stay equal."""

import difflib
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SIBLING = PROJECT.parent / "paraformer_asr"
NAMES = ((r"unet-transformer-seg", "paraformer-asr"), (r"unet_transformer_seg", "paraformer_asr"), (r"\bseg\b", "asr"))

EQUAL = [
    "docs/extensions/mathml.py",
    "docs/extensions/repository_files.py",
    "docs/extensions/source_code.py",
    "docs/static/site.css",
    "src/seg/allocator.py",
    "src/seg/checkpoints/__init__.py",
    "src/seg/checkpoints/arrays.py",
    "src/seg/checkpoints/manifest.py",
    "src/seg/checkpoints/safetensors_file.py",
    "src/seg/cli.py",
    "src/seg/config/packaged.py",
    "src/seg/config/parsing.py",
    "src/seg/config/safe_yaml.py",
    "src/seg/data/codec_noise.py",
    "src/seg/distributed.py",
    "src/seg/errors.py",
    "src/seg/files.py",
    "src/seg/ops/__init__.py",
    "src/seg/profiling/__init__.py",
    "src/seg/profiling/flops.py",
    "src/seg/profiling/process_memory.py",
    "src/seg/profiling/trace.py",
    "src/seg/published/__init__.py",
    "src/seg/published/mapping.py",
    "src/seg/published/old_torch_file.py",
    "src/seg/published/pickled_names.py",
    "src/seg/published/tensor_pickle.py",
    "src/seg/published/torch_file.py",
    "src/seg/published/torch_writer.py",
    "src/seg/record/__init__.py",
    "src/seg/record/changes.py",
    "src/seg/record/log_file.py",
    "src/seg/record/progress_bar.py",
    "src/seg/record/record_file.py",
    "src/seg/record/results.py",
    "src/seg/record/tensorboard.py",
    "src/seg/serve/hosts.py",
    "src/seg/serve/priority.py",
    "src/seg/signals.py",
    "src/seg/training/__init__.py",
    "src/seg/untrusted.py",
    "src/seg/watch/__init__.py",
    "src/seg/watch/hook.py",
    "src/seg/watch/interruption.py",
    "src/seg/watch/parent_process.py",
    "src/seg/watch/run_lock.py",
    "src/seg/watch/supervisor.py",
    "scripts/launch/start_or_resume.sh",
    "tests/conftest.py",
    "tests/own_process.py",
    "tests/processor_time.py",
    "tests/serve/headless_chromium.py",
    "tests/serve/test_hosts.py",
    "tests/serve/test_priority.py",
    "tests/stress/faulting/disk.py",
    "tests/stress/faulting/held_train.py",
    "tests/stress/faulting/kills.py",
    "tests/stress/faulting/outcome.py",
    "tests/stress/faulting/signals.py",
    "tests/stress/faults.py",
    "tests/stress/fuzzing/hostile.py",
    "tests/test_allocator.py",
    "tests/test_cli.py",
    "tests/test_diagnosis.py",
    "tests/test_done_record.py",
    "tests/test_file_kinds.py",
    "tests/test_file_names.py",
    "tests/test_files.py",
    "tests/test_flops.py",
    "tests/test_loop.py",
    "tests/test_mesh.py",
    "tests/test_notebooks.py",
    "tests/test_old_torch_file.py",
    "tests/test_processor_time.py",
    "tests/test_profile.py",
    "tests/test_progress_bar.py",
    "tests/test_safetensors_file.py",
    "tests/test_signals.py",
    "tests/test_state_dict.py",
    "tests/test_supervision.py",
    "tests/test_untrusted.py",
]
"""Files that are equal but for the names of project and package."""

ALIKE = {
    "src/seg/batch/shards.py": "what a result depends on besides the file",
    "src/seg/config/retired.py": "their settings",
    "src/seg/contracts.py": "the shapes in the examples",
    "src/seg/published/file_kinds.py": "asr reads ONNX files",
    "src/seg/published/state_dict.py": "seg keeps the plans of nnU-Net",
    "src/seg/record/resumption.py": "seg's classes are compared with those of the data",
    "src/seg/train.py": "help texts",
    "src/seg/training/sharding.py": "seg reads the rows of an array on this process's devices",
    "scripts/launch/jobset.yaml": "the config that is trained",
    "scripts/launch/two_machines.sh": "the config that is trained",
    "tests/stress/check_scaling.py": "the config of the run",
    "tests/stress/faulting/comparison.py": "the column of the speed",
    "tests/stress/faulting/damage.py": "what load_run returns besides the config",
    "tests/stress/faulting/tiny_run.py": "the config of the run",
    "tests/stress/test_faults.py": "best is a flag in seg, a score in asr",
    "tests/test_deploy.py": "websockets, and where metrics and limits are kept",
    "tests/test_launch.py": "the config that is trained",
}
"""Files that differ in a few lines → what they differ in."""

MOST_ALIKE = 0.95
"""Largest share of equal lines in a pair of files that is in neither table."""

SUFFIXES = (".py", ".sh", ".sbatch", ".yaml")

pytestmark = pytest.mark.skipif(not SIBLING.is_dir(), reason="the sibling project is not here")


def translate(text: str) -> str:
    """Return a text of this project with the sibling's names."""
    for name, sibling_name in NAMES:
        text = re.sub(name, sibling_name, text)
    return text


def texts(path: str) -> tuple[list[str], list[str]]:
    """Return the lines of a file here, translated, and of its twin."""
    here = translate((PROJECT / path).read_text(encoding="utf-8"))
    return here.splitlines(), (SIBLING / translate(path)).read_text(encoding="utf-8").splitlines()


def common_files() -> list[str]:
    """Return the source files of this project that have a twin of the same path."""
    files = (path for folder in ("src", "scripts", "tests") for path in sorted((PROJECT / folder).rglob("*")))
    paths = [path.relative_to(PROJECT).as_posix() for path in files if path.suffix in SUFFIXES]
    return [path for path in paths if (SIBLING / translate(path)).is_file()]


@pytest.mark.parametrize("path", EQUAL)
def test_twins_are_equal(path):
    here, there = texts(path)
    assert here == there, "\n".join(difflib.unified_diff(here, there, path, translate(path), lineterm="", n=0))


def test_no_other_pair_is_nearly_equal():
    """Such a pair is made equal and listed in EQUAL, or listed in ALIKE with its reason."""
    nearly = {}
    for path in common_files():
        if path not in EQUAL and path not in ALIKE:
            here, there = texts(path)
            matcher = difflib.SequenceMatcher(None, here, there, autojunk=False)
            if matcher.quick_ratio() > MOST_ALIKE and matcher.ratio() > MOST_ALIKE:
                nearly[path] = round(matcher.ratio(), 3)
    assert nearly == {}


def test_each_file_is_listed_once_and_alike_ones_do_differ():
    assert len(EQUAL) == len(set(EQUAL)) and not set(EQUAL) & ALIKE.keys()
    for path in ALIKE.keys() & set(common_files()):
        here, there = texts(path)
        assert here != there, f"{path} is equal by now: list it in EQUAL"
