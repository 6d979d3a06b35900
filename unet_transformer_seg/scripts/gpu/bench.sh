#!/bin/sh
# Speed and memory on one GPU, and PyTorch beside it, in pieces of under nine minutes: call it until it is finished.
#
#   sh scripts/gpu/bench.sh [FOLDER_FOR_RESULTS (gpu_results)]
#
# TINY=1 does the same with tiny shapes, to try the script on a CPU. The comparison needs torch in the same
# environment and is left out without it. Exit codes: 0 finished, 75 call again, 1 something failed.
set -eu
mkdir -p "${1:-gpu_results}"
out=$(cd "${1:-gpu_results}" && pwd)
cd "$(dirname "$0")/../.."
. scripts/gpu/pieces.sh

if [ -n "${TINY:-}" ]; then
    few=2 many=4 side=32 steps=3 images=8 threads=1 sides="32 64" seconds=0.1 large=8 compile=""
    unet="model.base_width=8 model.depth=2"
    hybrid="$unet model.transformer.num_layers=1"
    transunet="model.transunet.resnet_width=4 model.transunet.resnet_units=[1,1,1] model.transunet.hidden_width=16
        model.transunet.num_layers=1 model.transunet.num_heads=2 model.transunet.mlp_width=16
        model.transunet.bridge_width=8 model.transunet.decoder_widths=[8,8,8,8]"
else
    few=16 many=32 side=512 steps=50 images=256 threads=16 sides="512 1024 2048 4096" seconds=5 large="8 16 32"
    compile=--compile unet="" hybrid="" transunet=""
fi

# bench NAME MODE BATCH DTYPE …: one call of seg.bench, at side × side.
bench() {
    name=$1 mode=$2 batch=$3 dtype=$4
    shift 4
    piece "$name" python -m seg.bench --mode "$mode" --batch "$batch" --size "$side" "$side" --dtype "$dtype" \
        --steps "$steps" --json "$out/$name.json" "$@"
}

# beside NAME MODE: the U-Net of 31 million parameters here and in PyTorch (channels last, bfloat16, compiled).
beside() {
    if python -c "import torch" 2> /dev/null; then
        piece "$1" python tests/stress/bench_peer.py --mode "$2" --batch "$few" --size "$side" "$side" --dtype bfloat16 \
            $compile --steps "$steps" --pairs 2 --json "$out/$1.json"
    else
        echo "$1 is left out: torch is not installed"
    fi
}

# growth NAME KIND …: some points, each in a process of its own; what an interrupted call measured is kept.
growth() {
    name=$1 kind=$2
    shift 2
    piece "$name" sh -c "python tests/stress/measure_growth.py --kinds $kind $* --window $side --windows $few --seconds $seconds \
        --steps $steps --dtype bfloat16 --json '$out/$name.points' --picture '$out/$name.png' $unet &&
        mv '$out/$name.points' '$out/$name.json'"
}

# Lists of settings are given unquoted: each word is one argument.
bench train_unet train "$few" bfloat16 $unet
beside peer_train train
bench infer_unet infer "$few" bfloat16 $unet
beside peer_infer infer
growth sliding_window tiles --sides $sides
growth whole_images whole --sides $sides
piece fed_images python scripts/gpu/write_images.py "$out/images" --number "$images" --side "$side" \
    --json "$out/fed_images.json"
bench fed_unet train "$few" bfloat16 --with-input data.dataset=image_folder "data.root=$out/images" \
    "data.num_threads=$threads" $unet
bench train_unet_large train "$many" bfloat16 $unet
bench train_unet_large_remat train "$many" bfloat16 --remat $unet
bench train_unet_float32 train "$few" float32 $unet
for attention in explicit xla cudnn; do
    bench "train_hybrid_$attention" train "$few" bfloat16 --attention "$attention" model.name=unet_transformer $hybrid
    bench "train_transunet_$attention" train "$few" bfloat16 --attention "$attention" model.name=transunet $transunet
done
bench train_transunet_remat train "$few" bfloat16 --remat model.name=transunet $transunet
bench infer_transunet infer "$few" bfloat16 model.name=transunet $transunet
growth train_small_batches train --batches 1 2 4
growth train_large_batches train --batches $large
finish
