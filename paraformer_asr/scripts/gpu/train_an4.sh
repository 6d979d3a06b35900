#!/bin/sh
# One piece of three AN4 runs (seeds 0, 1, 2), of at most MINUTES (8): call it again until it says that all are finished.
#
#   sh scripts/gpu/train_an4.sh FOLDER_OF_AN4 FOLDER_FOR_RESULTS [key=value …]
#
# It goes through the seeds in order: the first call starts a run in runs/, the next ones resume it; a run that is
# trained is scored on the test split with the mean of its last AVERAGE (5) checkpoints. When all are scored it prints a
# table with mean and spread, and writes it with the record of each run to FOLDER_FOR_RESULTS. Settings count when a run
# is started. NAME=an4_conformer names other runs of the same config; SEEDS="0 1 2" are the seeds.
#
# Exit codes: 0 all are finished, 75 call again, others as of asr.train.
set -eu
if [ $# -lt 2 ] || [ ! -d "$1" ]; then
    echo "usage: sh scripts/gpu/train_an4.sh FOLDER_OF_AN4 FOLDER_FOR_RESULTS [key=value …]" >&2
    exit 2
fi
mkdir -p "$2"
root=$(cd "$1" && pwd) results=$(cd "$2" && pwd)
shift 2
cd "$(dirname "$0")/../.."
name=${NAME:-an4_full} minutes=${MINUTES:-8}
began=$(date +%s)

find_run() {
    run=""
    for found in runs/*_"$1"; do
        if [ -d "$found" ]; then run=$found; fi
    done
}

finished=""
for seed in ${SEEDS:-0 1 2}; do
    find_run "${name}_seed$seed"
    if [ -z "$run" ] || [ ! -f "$run/eval_test/metrics.json" ]; then
        left=$((minutes - ($(date +%s) - began + 59) / 60))
        if [ "$left" -lt 1 ]; then
            echo "not finished: call this script again"
            exit 75
        fi
        code=0
        if [ -z "$run" ]; then
            python -m asr.train --config configs/an4_full.yaml --max-minutes "$left" \
                "data.root=$root" "name=${name}_seed$seed" "seed=$seed" "$@" || code=$?
            find_run "${name}_seed$seed"
        else
            python -m asr.train --resume "$run" --max-minutes "$left" || code=$?
        fi
        if [ "$code" = 75 ]; then echo "not finished: call this script again"; fi
        if [ "$code" != 0 ]; then exit "$code"; fi
        if [ $(($(date +%s) - began)) -ge $(((minutes - 1) * 60)) ]; then
            echo "seed $seed is trained and not yet scored: call this script again"
            exit 75
        fi
        python -m asr.eval --run "$run" --split test --checkpoint last --average "${AVERAGE:-5}"
    fi
    finished="$finished $run"
    mkdir -p "$results/seed$seed"
    for file in config.yaml train.log results.csv curves.png eval_test/metrics.json eval_test/errors.txt; do
        cp "$run/$file" "$results/seed$seed/"
    done
done

# shellcheck disable=SC2086  # a list of folders, none of which has a blank in its name
python scripts/summarize_seeds.py --out "$results/summary.json" $finished
