#!/bin/sh
# One piece of the tests on a GPU, of at most MINUTES (8): call it again until it says how many passed.
#
#   sh scripts/gpu/test.sh [FOLDER_FOR_RESULTS]
#
# Each test file is a step. Its JUnit file lies in gpu_results/test/, and in the end summary.json. Left out are tests of
# texts and of command lines alone, and those that set up several devices or processes on the CPU themselves. Products
# are computed in full float32, and sums in a fixed order, as the tests expect; the speed is not theirs to judge.
# TINY=1 runs two files, to try the script.
#
# Exit codes: 0 all passed, 1 some failed, 75 call again.
set -eu
mkdir -p "${1:-gpu_results}/test"
out=$(cd "${1:-gpu_results}/test" && pwd)
cd "$(dirname "$0")/../.."
. scripts/gpu/pieces.sh

export JAX_DEFAULT_MATMUL_PRECISION=highest XLA_PYTHON_CLIENT_PREALLOCATE=false
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=true"
left_out="contracts config distributed documents faults floors fuzz growth launch manifest mesh model_folder run_dir
    scripts supply train_command"

for file in tests/test_*.py; do
    name=$(basename "$file" .py) topic=${file#tests/test_}
    case " $(echo $left_out) " in *" ${topic%.py} "*) continue ;; esac
    if [ -n "${TINY:-}" ] && [ "$name" != test_norm ] && [ "$name" != test_position ]; then continue; fi
    do_once "$name" "${LIMIT_S:-240}" python -m pytest -q "$file" --junitxml "$out/$name.xml"
done
python scripts/gpu/show.py test "$out"
