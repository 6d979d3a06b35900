#!/bin/sh
# One piece of the benchmarks on a GPU, of at most MINUTES (8): call it again until it prints the table.
#
#   sh scripts/gpu/bench.sh [FOLDER_FOR_RESULTS]
#
# Paraformer-large with random weights, 10 s an utterance: transcription in batches and of one utterance, the training
# step with and without recomputation, unrolled and scanned, with each form of the attention, with and without the input
# pipeline, and beside FunASR where PEER_PYTHON (python) has torch and funasr. Each measurement is a step with its own
# JSON file in gpu_results/bench/; summary.json holds them all. TINY=1 has tiny shapes, to try the script on a CPU.
#
# Exit codes: 0 all is measured, 75 call again.
set -eu
mkdir -p "${1:-gpu_results}/bench"
out=$(cd "${1:-gpu_results}/bench" && pwd)
cd "$(dirname "$0")/../.."
. scripts/gpu/pieces.sh

peer_python=${PEER_PYTHON:-python}
if [ -n "${TINY:-}" ]; then
    steps=4 seconds=1 tokens=4 train_batch=2 num_sounds=8 batches="1" lengths="2 4"
    dtypes=bfloat16 forms="explicit xla" ways=eager
    tiny="features.num_mels=8 model.encoder.num_layers=2 model.encoder.width=16 model.encoder.ffn_width=16
        model.decoder.num_layers=1 model.decoder.ffn_width=16"
    peer="--batch 2 --seconds 1 --tokens 4 --layers 2 --width 16 --decoder-layers 1 --vocabulary 100 --steps 2 --pairs 1"
    vocabulary=100 small="$tiny model.vocab_size=100" data="data.num_buckets=1 data.num_threads=1"
else
    steps=50 seconds=10 tokens=40 train_batch=64 num_sounds=2048 batches="1 8 32 128 256" lengths="60 600 3600"
    tiny="" peer="--batch 64 --seconds 10 --tokens 40 --steps 50 --pairs 2" vocabulary=8404 small=""
    data="data.num_buckets=2" dtypes="bfloat16 float32" forms="explicit xla cudnn" ways="eager compile"
fi
# attention_dropout exists in the explicit form alone: without it in all, they compute the same.
large="--config configs/paraformer_large.yaml data.root=$out/sounds model.vocab_size=$vocabulary $tiny
    model.encoder.attention_dropout=0 model.decoder.attention_dropout=0"
shape="--steps $steps --seconds $seconds --tokens $tokens"

# shellcheck disable=SC2086  # lists of words: no setting has a blank
bench() {
    name=$1
    shift
    do_once "$name" "${LIMIT_S:-230}" python -m asr.bench --json "$out/$name.json" $shape "$@"
}

# shellcheck disable=SC2086
measure_all() {
    for dtype in $dtypes; do
        for batch in $batches; do
            bench "transcribe_${dtype}_$batch" --mode transcribe --batch "$batch" --dtype "$dtype" $large
        done
    done
    for batch in $batches; do
        for attention in $forms; do
            form="--attention $attention model.encoder.scan=false"
            bench "infer_${attention}_$batch" --mode infer --batch "$batch" $large $form
        done
    done
    bench infer_scan --mode infer --batch "$train_batch" $large

    for attention in $forms; do
        bench "train_remat_$attention" --batch "$train_batch" $large --attention $attention
        bench "train_no_remat_$attention" --batch "$train_batch" $large --attention $attention model.remat=false
    done
    bench train_unrolled --batch "$train_batch" $large model.encoder.scan=false model.remat=false
    bench train_float32 --batch "$train_batch" $large --dtype float32
    bench train_small --batch "$train_batch" --dtype bfloat16 $small
    bench frontend --mode frontend --batch "$train_batch"

    do_once sounds "${LIMIT_S:-230}" python tests/stress/generated_sounds.py "$out/sounds" --num $num_sounds --seconds $seconds
    read="$large $data training.batch_seconds=$((train_batch * seconds))"
    bench input --mode input $read
    bench train_with_input --with-input $read
    bench train_with_input_no_speeds --with-input $read data.augment.speeds=[1.0]
    batch=${batches##* }
    do_once growth "${LIMIT_S:-400}" python tests/stress/measure_growth.py --json "$out/growth.json" --max-minutes 4 \
        --batch "$batch" --seconds $lengths --batches $batches --batch-seconds "${lengths%% *}" $large

    if ! "$peer_python" -c "import torch, funasr" >/dev/null 2>&1; then
        echo "FunASR is left out: $peer_python has no torch or funasr (PEER_PYTHON names another one)"
        return
    fi
    sizes="--layers 50 --width 512 --decoder-layers 16 --vocabulary 8404"
    ours="--ours model.encoder.scan=true"
    for way in $ways; do
        flags="--peer-python $peer_python --dtype bfloat16"
        if [ "$way" = compile ]; then flags="$flags --compile"; fi
        peer "peer_small_$way" $flags $peer
        # What is given first is overridden by the tiny sizes.
        peer "peer_large_$way" $flags $sizes $peer $ours
    done
}

peer() {
    name=$1
    shift
    do_once "$name" "${LIMIT_S:-450}" python tests/stress/bench_peer.py --json "$out/$name.json" "$@"
}

measure_all
python scripts/gpu/show.py bench "$out"
