#!/bin/sh
# The tests that compute something, on the GPU, in pieces of under nine minutes: call it until it is finished.
#
#   sh scripts/gpu/test.sh [FOLDER_FOR_RESULTS (gpu_results)]
#
# Each piece leaves a JUnit file; what is printed at the end counts them. Left out are the tests of what a GPU has no
# part in: reading files and configs, published weights, launch files, faults, and those that start processes with several
# devices each. TINY=1 takes two small files, to try the script. Exit codes: 0 finished, 75 call again, 1 something failed.
set -eu
mkdir -p "${1:-gpu_results}"
out=$(cd "${1:-gpu_results}" && pwd)
cd "$(dirname "$0")/../.."
. scripts/gpu/pieces.sh

export JAX_DEFAULT_MATMUL_PRECISION=highest # the tolerances are those of float32; by default products are of TF32
# A resumed run must have the bits of one that was not interrupted: sums in a fixed order.
export XLA_FLAGS="--xla_gpu_deterministic_ops=true ${XLA_FLAGS:-}"

one_device="not two_processes and not eight_devices"

# tests NAME FILE…: one call of pytest.
tests() {
    name=$1
    shift
    files=""
    for file in "$@"; do files="$files tests/test_$file.py"; done
    piece "test_$name" sh -c "python -m pytest -q $files -k '$one_device' --junitxml '$out/test_$name.xml' -o junit_family=xunit2; code=\$?
        python scripts/gpu/table.py --junit '$out/test_$name.xml' --json '$out/test_$name.json' && exit \$code"
}

if [ -n "${TINY:-}" ]; then
    tests ops position
    tests losses resize
else
    tests ops attention conv norm position resize contracts initialisers flops
    tests losses losses metrics build_loss class_weights deep_supervision
    tests models models transformer transunet resnet_unet resnet_v2
    tests data transforms loader mapping
    tests step step keep_if_finite memory optimizer parameter_groups warm_start diagnosis
    tests checkpoints checkpoints supervision
    tests inference predictor tiling model_folder
    tests train_command train_command
    tests other_commands eval_command infer_command bench
fi
finish
