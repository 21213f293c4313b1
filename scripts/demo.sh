#!/usr/bin/env bash
# The main job on the embedded default: a real pretrained model (SmolLM2-135M) learns
# from real text (the Python language reference, which every Python carries), is
# measured on text it has not seen, and speaks.
set -euo pipefail
cd "$(dirname "$0")/.."
run=build/demo
rm -rf "$run"

echo "== 1 of 3: learn (a generalist, a specialist and a router; text stays here)"
python -m comigs_mlx.train --run "$run" \
    --steps 30 --batch-size 4 --seq-len 64 --router-every 10 --router-steps 4 \
    --report-every 10 --save-every 15 --valid-batches 4

echo "== 2 of 3: measure on documents it has not seen"
python -m comigs_mlx.evaluate --run "$run" --split test --batch-size 8 --seq-len 64

echo "== 3 of 3: speak, and show who spoke"
python -m comigs_mlx.generate --run "$run" --ignore-chat-template --max-tokens 60 \
    --prompt "The with statement is used to" \
    --trace "$run/trace.json" --html "$run/trace.html"
echo "Open $run/trace.html in a browser: every token is tinted by who spoke it."
