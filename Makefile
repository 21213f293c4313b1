# Everything needs only Python (3.11 or newer) and make: the targets make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# flwr 1.42 wants older packages than gradio and transformers do: see docs/flower.md.
FLOWER := .venv-flower
FLOWER_BIN := $(FLOWER)/bin
FLOWER_READY := $(FLOWER)/.ready
FLOWER_TOOLS := hypothesis pytest pytest-socket
export TOKENIZERS_PARALLELISM := false

PINNED := -c constraints.txt --editable ".[dev]"
FLOWER_PINNED := -c constraints-flower.txt --editable ".[flower,federation]" $(FLOWER_TOOLS)

# Every Python that is declared; those other than $(PYTHON) are tested where they are.
PYTHONS := 3.11 3.12 3.13
ARM := $(foreach glibc,17 27 28 34 35,--platform manylinux_2_$(glibc)_aarch64) \
	--platform manylinux2014_aarch64
SLOWEST := --durations=20 --durations-min=0.5
# `auto` is one more than cores, at most four: see tests/conftest.py.
FAST := -m "not (real or browser or slow or cluster or flower)" -n auto --dist worksteal $(SLOWEST)
# Tests and the processes that they start compile each file once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-flower test-rest test-real test-browser test-pythons \
	resolve lock fmt lint types layers docs docs-check site app bench reproduce model wheel venv clean

demo: $(READY)  ## train on demo text, measure, speak (about 4 minutes on two slow cores)
	PATH="$(abspath $(BIN)):$$PATH" scripts/demo.sh

test: lint types layers docs-check site test-fast  ## everything CI runs
	+$(MAKE) --no-print-directory -j 2 test-flower test-rest # the first mostly waits

test-fast: $(READY)  ## tiny models only, no network, side by side; COMIGS_LONG=1: more examples
	$(BIN)/python -m pytest $(FAST)

test-flower: $(FLOWER_READY)  ## a SuperLink and three SuperNodes on this machine
	COMIGS_REQUIRE_FLOWER=1 $(FLOWER_BIN)/python -m pytest -m flower $(SLOWEST) \
		tests/federation/flower

test-rest: model  ## with the demo model, in a browser, and several processes
	COMIGS_REQUIRE_REAL=1 $(BIN)/python -m pytest $(SLOWEST) \
		-m "real or browser or slow or cluster"

test-real: model  ## with the demo model
	COMIGS_REQUIRE_REAL=1 $(BIN)/python -m pytest -m real

test-browser: $(READY)  ## in headless Chromium, where it is installed
	$(BIN)/python -m pytest -m browser

test-pythons: $(READY)  ## fast tests with every other declared Python that is here
	scripts/test_pythons.sh "$(PYTHONS)" $(FAST) $(WHAT)

resolve: $(READY)  ## check that the dependencies can be had on aarch64, for every Python
	for version in $(PYTHONS); do \
		$(BIN)/python -m pip install --dry-run --ignore-installed -qq \
			--target build/none --only-binary :all: --python-version $$version $(ARM) \
			-c constraints.txt . || exit 1; \
	done

LOCK := --universal --upgrade --quiet --python-version 3.11 --no-annotate --no-header \
	--no-emit-package comigs-mlx

lock: $(READY)  ## write the constraints anew, with the newest releases in their ranges
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra data $(LOCK) \
		--output-file constraints.txt
	printf '%s\n' $(FLOWER_TOOLS) | $(BIN)/uv pip compile pyproject.toml - \
		--extra flower --extra federation $(LOCK) --output-file constraints-flower.txt

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
	$(BIN)/cog -r README.md docs/options.md docs/memory.md docs/plugins.md docs/speed.md

docs-check: $(READY)
	$(BIN)/cog --check README.md docs/options.md docs/memory.md docs/plugins.md docs/speed.md

bench: $(READY)  ## time and memory against mlx-lm's LoRA (about 10 minutes on two slow cores)
	$(BIN)/python -m comigs_mlx.bench --compare docs/bench/smollm2.json

reproduce: $(READY)  ## USERS=FOLDER: compare all methods on a small base made here
	PATH="$(abspath $(BIN)):$$PATH" scripts/reproduce.sh tiny "$(USERS)"

app: $(READY)  ## chat with your runs and see who speaks, on http://127.0.0.1:7860
	$(BIN)/python -m app

model: $(READY)  ## fetch and convert the demo model once (93 MB)
	$(BIN)/python -m comigs_mlx.model.demo

# What CI and `make` install is in constraints.txt: the same tomorrow as today. uv takes
# a fifth of pip's time, but knows nothing of a registry that only pip was told of.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $$($(PYTHON) --version) is too old: install Python 3.11 or newer" \
			"and say make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(PINNED) \
		|| $(BIN)/python -m pip install --quiet $(PINNED)
	touch $(READY)

# Both environments have the checkout itself; only this one has flwr.
$(FLOWER_READY): $(READY) constraints-flower.txt
	$(PYTHON) -m venv $(FLOWER)
	$(BIN)/uv pip install --quiet --python $(FLOWER) $(FLOWER_PINNED) \
		|| $(FLOWER_BIN)/python -m pip install --quiet $(FLOWER_PINNED)
	touch $(FLOWER_READY)

wheel: $(READY)  ## build the package into dist
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist .

site: $(READY)  ## build the documentation site into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

venv: $(READY)  ## only make the virtual environment

clean:  ## remove the virtual environments and what was built
	rm -rf $(VENV) $(FLOWER) build dist
