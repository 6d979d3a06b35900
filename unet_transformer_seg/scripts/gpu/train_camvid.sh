#!/bin/sh
# One piece of a CamVid training run, of at most MINUTES (8.5): call it again until it says that the run is finished.
#
#   sh scripts/gpu/train_camvid.sh FOLDER_OF_CAMVID camvid_unet_transformer [key=value …]
#
# The first call starts a run in runs/, the next ones resume it; the last one also scores the test split, with and
# without mirror averaging. SEED=1 (default 0) names another run. A run is finished when its eval_test/ exists.
set -eu
root=$1 config=$2
shift 2
cd "$(dirname "$0")/../.."
name=${config}_seed${SEED:-0}

run=""
for found in runs/*_"$name"; do
    if [ -d "$found" ]; then run=$found; fi
done

code=0
if [ -z "$run" ]; then
    python -m seg.train --config "configs/$config.yaml" --max-minutes "${MINUTES:-8.5}" \
        "data.root=$root" "name=$name" "seed=${SEED:-0}" "$@" || code=$?
    for found in runs/*_"$name"; do run=$found; done
else
    python -m seg.train --resume "$run" --max-minutes "${MINUTES:-8.5}" || code=$?
fi

if [ "$code" = 75 ]; then
    echo "not finished: call this script again"
elif [ "$code" = 0 ]; then
    python -m seg.eval --run "$run" --split test --no-mirror --out "$run/eval_test_plain"
    python -m seg.eval --run "$run" --split test --mirror
    echo "finished: $run"
fi
exit "$code"
