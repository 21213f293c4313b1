# Everything needs only Python (3.10 or newer) and make: the targets make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-fast test-real test-browser fmt lint types layers docs docs-check \
	app bench reproduce model clean

demo: $(READY)  ## train on demo text, measure, speak (about 4 minutes on two slow cores)
	PATH="$(abspath $(BIN)):$$PATH" scripts/demo.sh

test: lint types layers docs-check test-fast model  ## everything CI runs
	COMIGS_REQUIRE_REAL=1 $(BIN)/python -m pytest -m "real or browser"

test-fast: $(READY)  ## tiny models only, no network, side by side on up to four cores
	$(BIN)/python -m pytest -m "not real and not browser" \
		-n auto --maxprocesses 4 --dist loadfile

test-real: model  ## with the demo model
	COMIGS_REQUIRE_REAL=1 $(BIN)/python -m pytest -m real

test-browser: $(READY)  ## in headless Chromium, where it is installed
	$(BIN)/python -m pytest -m browser

fmt: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .

lint: $(READY)  ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)  ## check types
	$(BIN)/mypy

layers: $(READY)  ## check that imports go one way only
	$(BIN)/lint-imports --no-cache

docs: $(READY)  ## write the generated parts of the documentation anew
	$(BIN)/cog -r README.md docs/options.md docs/memory.md docs/speed.md

docs-check: $(READY)
	$(BIN)/cog --check README.md docs/options.md docs/memory.md docs/speed.md

bench: $(READY)  ## time and memory against mlx-lm's LoRA (about 10 minutes on two slow cores)
	$(BIN)/python -m comigs_mlx.bench --compare docs/bench/smollm2.json

reproduce: $(READY)  ## USERS=FOLDER: compare all methods on a small base made here
	PATH="$(abspath $(BIN)):$$PATH" scripts/reproduce.sh tiny "$(USERS)"

app: $(READY)  ## chat with your runs and see who speaks, on http://127.0.0.1:7860
	$(BIN)/python -m app

model: $(READY)  ## fetch and convert the demo model once (93 MB)
	$(BIN)/python -m comigs_mlx.model.demo

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:  ## remove the virtual environment and what was built
	rm -rf .venv build
