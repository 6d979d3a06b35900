#!/bin/sh
# Where the time of a training step goes, on the GPU, in pieces of under nine minutes: call it until it is finished.
#
#   sh scripts/gpu/profile.sh [FOLDER_FOR_RESULTS (gpu_results)]
#
# Each piece trains a model of configs/ on images of noise for some steps, leaves a trace for https://ui.perfetto.dev in
# its run directory below the folder, and lists what took longest. TINY=1 does it with tiny shapes, to try the script on
# a CPU. Exit codes: 0 finished, 75 call again, 1 something failed.
set -eu
mkdir -p "${1:-gpu_results}"
out=$(cd "${1:-gpu_results}" && pwd)
cd "$(dirname "$0")/../.."
. scripts/gpu/pieces.sh

if [ -n "${TINY:-}" ]; then
    steps=2 batch=2 side=48
    small="data.size=[32,48] data.augment.crop=[32,32] model.base_width=8 model.depth=2 data.num_threads=1"
else
    steps=10 batch=16 side=512 small=""
fi
images=$((batch * (steps + 12))) # ten steps before the trace, one after it

# profile NAME CONFIG DTYPE
profile() {
    piece "$1" sh -c "python -m seg.train --config configs/$2.yaml --profile $steps runs_dir='$out/runs_of_$1' \
        model.dtype=$3 data.root='$out/images_to_profile' loss.class_weighting=none training.batch_size=$batch \
        training.num_epochs=1 training.num_sample_pictures=0 $small &&
        python scripts/gpu/trace_table.py '$out/runs_of_$1' --steps $steps --json '$out/$1.json'"
}

piece images_to_profile python scripts/gpu/write_images.py "$out/images_to_profile" --number "$images" --side "$side" \
    --json "$out/images_to_profile.json"
profile profile_unet_bfloat16 camvid_unet bfloat16
profile profile_unet_float32 camvid_unet float32
profile profile_hybrid_bfloat16 camvid_unet_transformer bfloat16
finish
