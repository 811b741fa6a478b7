#!/usr/bin/env bash
# Trains on one GPU in pieces, for machines that are had for minutes: the same command given again goes on
# where it stopped, bit for bit, until all is trained.
#
#   benchmarks/gpu_modelnet40.sh CONFIG SEED [KEY=VALUE...]       one run, such as hierarchy 1
#   benchmarks/gpu_modelnet40.sh CONFIG:SEED... [KEY=VALUE...]    several, such as hierarchy:1 naive:1
#   benchmarks/gpu_modelnet40.sh --all [KEY=VALUE...]             ModelNet40: five models, seeds 1 to 3 each
#
# CONFIG is a file, or the name of one in configs/, in which modelnet40_ may be left out; of parts, too:
# psb_encdec. KEY=VALUE goes to --set. A run is in RUNS/<config>_<seed>; what is small of it, and the weights
# once it is finished, is copied to OUT/<config>_<seed> after every piece.
#
# Ends with a page of all its runs, OUT/page.md, to paste into an issue.
#
# MINUTES=8      that a call trains, all its runs together; then SIGTERM, and a minute more to save the state.
#                Reading the settings has five minutes beside it, and writing the page one
# RUNS=folder    of the runs (runs)
# OUT=folder     of the copies (results/gpu)
# DATA=folder    in place of data, where the settings look for data sets
# PYTHON=python  that has bixt3d
# WHEELS=folder  whose packages are installed before, on a machine without a network
# DEVICE=cpu     a small model and one epoch, in <config>_<seed>_short, to see that every step works; OUT is then
#                RUNS/copies, so that no trial is taken for a result
#
# The configs of naive, grouping and hierarchy pool tokens and latents, the baselines have latents alone: compare
# them with naive by model.args.pool=latents, in RUNS of their own.
#
# Ends with 0 if all runs are finished, 75 if not: call again; 1 if one failed, 2 if the call is wrong.
set -u
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
wrong() { printf 'error: %s\n' "$*" >&2; exit 2; }

root=$(realpath -- "$(dirname "$0")/..") || exit 1
# What is named is named from where the caller stands; runs write down their settings, so paths stay short.
place() { realpath -ms --relative-base="$root" -- "$1"; }
python=${PYTHON:-python} device=${DEVICE:-cuda} minutes=${MINUTES:-8}
runs=$(place "${RUNS:-$root/runs}") out=$root/results/gpu
if [ "$device" = cpu ]; then out=${RUNS:-$root/runs}/copies; fi
out=$(place "${OUT:-$out}")
data=$(place "${DATA:-$root/data}") wheels=${WHEELS:+$(place "$WHEELS")}
case $python in */*) python=$(realpath -ms -- "$python") ;; esac
command -v -- "$python" >/dev/null || wrong "PYTHON: no program $python"
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || wrong "MINUTES: expected a number, got $minutes"
limit=$(awk -v minutes="$minutes" 'BEGIN { printf "%d", 60 * minutes }')
((limit > 0)) || wrong "MINUTES: expected a second or more, got $minutes"

settings=() wanted=()
if (($# >= 2)) && [[ $1 != *[:=]* && $2 =~ ^[0-9]+$ ]]; then set -- "$1:$2" "${@:3}"; fi
for word in "$@"; do
  case $word in
    -h | --help) usage; exit ;;
    --all) for name in hierarchy grouping naive perceiver sequential; do wanted+=("$name:"{1,2,3}); done ;;
    *=*) settings+=("$word") ;;
    *) [[ $word =~ .:(0|[1-9][0-9]*)$ ]] || wrong "expected CONFIG SEED or CONFIG:SEED, got $word; see --help"
      wanted+=("$word") ;;
  esac
done
if ((${#wanted[@]} == 0)); then usage >&2; exit 2; fi
for index in "${!wanted[@]}"; do
  name=${wanted[index]%:*}
  case $name in
    */* | *.yaml) name=$(place "$name") ;;
    *) if [ -e "$root/configs/modelnet40_$name.yaml" ]; then name=modelnet40_$name; fi
      name=configs/$name.yaml ;;
  esac
  wanted[index]=$name:${wanted[index]##*:}
done
cd "$root" || exit 1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$wheels" ]; then
  timeout 60 "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl || exit 1
fi

# A line for each run: its folder, then program and arguments. All settings are read before one is trained.
plan=$(timeout 300 "$python" - "$runs" "$data" "$device" "${wanted[@]}" -- "${settings[@]}" <<'PYTHON'
import inspect
import sys
from pathlib import Path

from bixt3d.config import load_config, override
from bixt3d.models.factory import MODELS
from bixt3d.commands.endings import one_line_errors
from bixt3d.training.splits import build_task

SMALL = {
    **{"dim": 12, "depth": 2, "num_blocks": 2, "self_attends_per_block": 1, "num_heads": 2, "num_latents": 4},
    **{"neighbors": 4, "embed_dim": 8, "widths": "[12,16]", "reductions": "[2,2]", "decoder_widths": "[16,12]"},
    "group_layers": "[0]",
}

runs, data, device, *words = sys.argv[1:]
end = words.index("--")
begun = set()
with one_line_errors():
    for word in words[:end]:
        cfg, _, seed = word.rpartition(":")
        name, settings = f"{Path(cfg).stem}_{seed}", words[end + 1 :]
        model = load_config(cfg, settings).model.name
        if device == "cpu":
            name += "_short"
            takes = inspect.signature(MODELS[model]).parameters if model in MODELS else {}
            small = [f"model.args.{key}={value}" for key, value in SMALL.items() if key in takes]
            settings = ["data.num_points=64", "train.epochs=1", *small, *settings]
        settings += [f"train.seed={seed}", "run.tensorboard=false"]
        config = load_config(cfg, settings)
        if config.run.dir != f"runs/{Path(cfg).stem}":
            raise ValueError(f"run.dir={config.run.dir}: it is RUNS/<config>_<seed> here; set RUNS")
        for setting in words[end + 1 :]:
            if setting.startswith("train.seed="):
                raise ValueError(f"{setting}: the seed is CONFIG's here, as in {Path(cfg).stem}:{seed}")
        folder, root = Path(runs, name), Path(config.data.root)
        if folder in begun:
            raise ValueError(f"{folder} would hold two of the runs: name each once, and no two files alike")
        begun.add(folder)
        if root.parts[:1] == ("data",):
            root = Path(data, *root.parts[1:])
        if (folder / "config.yaml").is_file():
            before = load_config(folder / "config.yaml")
            # where things are may change
            before = override(before, run=vars(config.run), data={"root": config.data.root})
            if before != config:
                raise ValueError(f"{folder} was begun with other settings, see its config.yaml; change RUNS")
        program = "seg_shapenetpart" if build_task(config).per_point else "train_cls"
        command = [f"tools/{program}.py", "--cfg", cfg, "--device", device, "--set", *settings]
        print(folder, *command, f"run.dir={folder}", f"data.root={root}", sep="\t")
PYTHON
) || { [ $? != 124 ] || wrong "the settings were not read within 5 minutes"; exit 2; }

stopped='' child=''
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' HUP INT TERM

# piece SECONDS FOLDER COMMAND...: sets code; in the background, so that signals reach this script at once
piece() {
  local seconds=$1 folder=$2 resume=()
  shift 2
  mkdir -p "$folder"
  if [ -e "$folder/resume.pt" ] || [ -e "$folder/resume.pt.previous" ]; then resume=(--resume); fi
  timeout --foreground --preserve-status -s TERM -k 60 "$seconds" "$python" "$@" "${resume[@]}" \
    >>"$folder/train.log" 2>&1 &
  child=$!
  if [ -n "$stopped" ]; then kill -TERM "$child"; fi
  while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done # a signal ends wait before its child
  child=''
}

# keep FOLDER: copies what is small
keep() {
  local copies=$out/${1##*/} names=(config.yaml environment.json metrics.jsonl result.json train.log) name
  names+=(last_test.csv best_test.csv)
  if [ -e "$1/result.json" ]; then names+=(last.safetensors); fi
  mkdir -p "$copies"
  copied+=("$copies")
  for name in "${names[@]}"; do
    if [ ! -e "$1/$name" ] || [ "$1/$name" -ef "$copies/$name" ]; then continue; fi
    cp -- "$1/$name" "$copies/" || failed=1
  done
}

failed=0 unfinished=0 begun=$SECONDS copied=()
while IFS=$'\t' read -ra line; do
  run=${line[0]} code=0 left=$((limit + begun - SECONDS))
  if [ ! -e "$run/result.json" ]; then
    if [ -n "$stopped" ] || ((left <= 0)); then unfinished=$((unfinished + 1)); continue; fi
    piece "$left" "${line[@]}"
  fi
  keep "$run"
  if [ -e "$run/result.json" ]; then
    echo "finished  $run"
    cat "$run/result.json"
  elif [ $code = 143 ] || [ $code = 130 ]; then
    unfinished=$((unfinished + 1))
    echo "stopped   $run"
    if [ -e "$run/resume.pt" ]; then
      for word in epoch stopped; do grep "^$word " "$run/train.log" | tail -n 1; done
    else
      echo "nothing is saved yet: MINUTES=$minutes are too few"
    fi
  else
    failed=1
    echo "failed    $run (code $code): $(tail -n 1 "$run/train.log")"
  fi
done <<<"$plan"
if ((${#copied[@]})) && timeout 60 "$python" -m benchmarks.page --device "$device" --runs "${copied[@]}" \
  >"$out/page.md" 2>"$out/page.log"; then
  printf '\n%s\n\n' "Please paste what follows, $out/page.md, into an issue of the kind measurement:"
  cat "$out/page.md"
elif ((${#copied[@]})); then
  echo "no page: $(tail -n 1 "$out/page.log")" >&2
fi
if [ $unfinished != 0 ]; then echo "$unfinished of ${#wanted[@]} not finished: the same command goes on"; fi
if [ $failed != 0 ]; then exit 1; fi
if [ $unfinished != 0 ]; then exit 75; fi
