#!/usr/bin/env bash
# All that wants a GPU, in some 10 minutes: whether the kernels are right, how fast attention, search and the
# training steps are, and how long an epoch of ModelNet40 takes. Ends with one page to paste into an issue.
#
#   benchmarks/gpu.sh [FOLDER]     into FOLDER (results/gpu): a table or a log of each step, summary.txt, page.md
#
# DATA=folder    that holds modelnet40_ply_hdf5_2048 (data); without it there is no epoch
# PYTHON=python  that has bixt3d; Triton and torch.compile want a C compiler, too. With pytest and hypothesis
#                it also runs the kernels' tests
# WHEELS=folder  whose packages are installed before, on a machine without a network
# DEVICE=cpu     the same with small sizes, to see that every step works
# MINUTES=15     after which what runs is ended and what is left is left out; the page comes all the same
set -u
root=$(realpath -- "$(dirname "$0")/..") || exit 1
# What is named is named from where the caller stands; tables show their commands, so paths stay short in here.
place() { realpath -ms --relative-base="$root" -- "$1"; }
folder=$(place "${1:-$root/results/gpu}") data=$(place "${DATA:-$root/data}")
wheels=${WHEELS:+$(place "$WHEELS")}
python=${PYTHON:-python} device=${DEVICE:-cuda} minutes=${MINUTES:-15}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || { echo "error: MINUTES: expected a whole number, got $minutes" >&2; exit 2; }
case $python in */*) python=$(realpath -ms -- "$python") ;; esac
cd "$root" || exit 1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$folder"
failed=0 begun=$SECONDS
: >"$folder/summary.txt"

say() { printf '%s\n' "$*" | tee -a "$folder/summary.txt"; }

# step NAME SECONDS COMMAND...: its output goes to NAME.log; what fails or takes too long does not stop the rest
step() {
  local name=$1 limit=$2 since=$SECONDS code=0 left=$((60 * minutes + begun - SECONDS))
  shift 2
  if ((left <= 0)); then say "left out: $name, because $minutes minutes are over (MINUTES)"; return; fi
  timeout -k 10 $((limit < left ? limit : left)) "$@" >"$folder/$name.log" 2>&1 || code=$?
  if [ $code = 0 ] && grep -q "did not run" "$folder/$name.log"; then code=1; fi
  if [ $code = 0 ]; then say "ok      $((SECONDS - since)) s  $name"; return; fi
  failed=1 # here, and the status for who runs it in the background
  say "failed  $((SECONDS - since)) s  $name (code $code; 124 is out of time): $(tail -n 1 "$folder/$name.log")"
  return 1
}

if [ -n "$wheels" ]; then
  step wheels 60 "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl
fi
kernels=("$python" -m pytest -q -m "not slow")
if [ "$device" = cpu ]; then
  export TRITON_INTERPRET=1
  attention=(--points 64 256 --tokens 512 --repeats 3)
  ours=(bixt_ti_cls:dim=12:depth=2:num_heads=2:num_latents=4) models=("${ours[@]}" pointnet)
  sizes=(--batch 2 --points 64 --repeats 1) large=(256 1k) graphs=()
  epoch=(data.num_points=32 model.args.dim=12 model.args.num_latents=4 model.args.num_heads=2)
  dtypes=(float32)
else
  kernels+=(--no-skip=cuda,triton) # neither left out nor interpreted
  attention=(--points 1024 4096 16384 65536 262144 1048576 --tokens 262144)
  ours=(bixt_ti_cls bixt_ti_cls_grouping bixt_ti_cls_hierarchy)
  models=("${ours[@]}" perceiver_ti_cls sequential_ti_cls bixt_ti_partseg bixt_ti_partseg_encdec pointmlp)
  sizes=(--batch 32 --points 1024 --repeats 20 --dtype bfloat16) large=(4k 64k 256k 1M)
  graphs=(bixt_ti_cls:compile=reduce-overhead bixt_ti_cls_hierarchy:compile=reduce-overhead)
  epoch=(train.epochs=2)
  dtypes=(bfloat16 float32)
fi

timeout 120 "$python" - "$device" >>"$folder/summary.txt" <<'PYTHON' || { failed=1; say "failed  to say what this machine is"; }
import sys

import torch

from benchmarks.table import environment_line

print(environment_line(torch.device(sys.argv[1])))
PYTHON
step check 240 "$python" -m benchmarks.check --device "$device" --out "$folder/check.md"
if "$python" -c "import pytest, hypothesis" 2>/dev/null; then
  # Side by side, for they compile more than they compute; what is timed comes after them.
  step kernels_attention 240 "${kernels[@]}" tests/ops/test_triton_attention.py &
  attention_tests=$!
  step kernels_search 240 "${kernels[@]}" tests/ops/test_triton_search.py tests/ops/test_autotune.py
  wait $attention_tests || failed=1
else
  say "left out: the kernels' tests, because pytest and hypothesis are not installed"
fi
for dtype in "${dtypes[@]}"; do
  step "attention_$dtype" 60 "$python" -m benchmarks.attention --device "$device" --dtype "$dtype" \
    "${attention[@]}" --out "$folder/attention_$dtype.md"
done
step search 60 "$python" -m benchmarks.ops --device "$device" --repeats 5 --out "$folder/search.md"
bench() { # bench NAME SECONDS MODE MODEL...
  local name=$1 limit=$2 mode=$3
  shift 3
  step "$name" "$limit" "$python" tools/benchmark.py --device "$device" --mode "$mode" --models "$@" \
    --out "$folder/$name.json" --markdown "$folder/$name.md"
}
bench training 180 training "${models[@]}" "${sizes[@]}"
bench inference 90 inference "${ours[@]}" "${sizes[@]}"
bench large 90 inference "${ours[0]}" --batch 1 --points "${large[@]}" --repeats 5 --dtype "${dtypes[0]}"
if [ -d "$data/modelnet40_ply_hdf5_2048" ]; then
  rm -rf "$folder/epoch" # of a run before
  step epoch 90 "$python" tools/train_cls.py --cfg configs/modelnet40_naive.yaml --device "$device" \
    --set "data.root=$data" train.epochs=1 run.tensorboard=false "run.dir=$folder/epoch" "${epoch[@]}"
else
  say "left out: epoch, because $data/modelnet40_ply_hdf5_2048 is missing (set DATA)"
fi
if [ ${#graphs[@]} -gt 0 ]; then bench graphs 150 training "${graphs[@]}" "${sizes[@]}"; fi
say "$((SECONDS - begun)) s in all"
if timeout 60 "$python" -m benchmarks.page --device "$device" "$folder" >"$folder/page.md" 2>"$folder/page.log"; then
  printf '\n%s\n\n' "Please paste what follows, $folder/page.md, into an issue of the kind measurement:"
  cat "$folder/page.md"
else
  failed=1
  echo "no page: $(tail -n 1 "$folder/page.log"); please send $folder/summary.txt"
fi
exit $failed
