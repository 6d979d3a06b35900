#!/bin/sh
# One piece of the profiles on a GPU, of at most MINUTES (8): call it again until it prints the table.
#
#   sh scripts/gpu/profile.sh [FOLDER_FOR_RESULTS] [key=value …]
#
# Trains Paraformer-large on generated sound for a few steps in float32 and in bfloat16 and traces ten of them. The
# table names what took most of the time; the traces, for https://ui.perfetto.dev, and summary.json lie in
# gpu_results/profile/. TINY=1 has tiny shapes, to try the script on a CPU.
#
# Exit codes: 0 all is traced, 75 call again.
set -eu
mkdir -p "${1:-gpu_results}/profile"
out=$(cd "${1:-gpu_results}/profile" && pwd)
if [ $# -gt 0 ]; then shift; fi
cd "$(dirname "$0")/../.."
. scripts/gpu/pieces.sh

if [ -n "${TINY:-}" ]; then
    num_sounds=16 seconds=1 batch_seconds=1 traced=2
    tiny="features.num_mels=8 model.encoder.num_layers=2 model.encoder.width=16 model.encoder.ffn_width=16
        model.decoder.num_layers=1 model.decoder.ffn_width=16 data.num_threads=1 features.cmvn=none"
else
    num_sounds=2048 seconds=10 batch_seconds=640 tiny="" traced=10
fi

# The trace begins with the eleventh step: by then all is compiled (one bucket: one shape) and the input read ahead.
do_once sounds "${LIMIT_S:-230}" python tests/stress/generated_sounds.py "$out/sounds" --num $num_sounds --seconds $seconds
# shellcheck disable=SC2086  # a list of settings, none of which has a blank
for dtype in float32 bfloat16; do
    do_once "$dtype" "${LIMIT_S:-400}" python -m asr.train --config configs/paraformer_large.yaml --profile $traced \
        "data.root=$out/sounds" "runs_dir=$out/runs_$dtype" "model.dtype=$dtype" data.num_buckets=1 \
        "training.batch_seconds=$batch_seconds" training.num_epochs=1 training.num_sample_pictures=0 $tiny "$@"
done
python scripts/gpu/show.py profile "$out"
