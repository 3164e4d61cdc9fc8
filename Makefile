# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= $(shell command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
# Processes that run tests side by side, a file at a time.
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help install install-dev demo demo-live test lint fuzz bench bench-agent bench-picture soak hostile wheel compiled test-compiled protos docs lock clean

help:
	@echo "make demo       everything on this machine, end to end: real processes, certificates, RPCs; under a minute"
	@echo "make demo-live  the same, and it stays up"
	@echo "make test       all tests"
	@echo "make fuzz       what peers send, at random; FUZZ_EXAMPLES=20000 examples of each"
	@echo "make lint       ruff, mypy, import contracts"
	@echo "make bench      CPU, throughput and latency beside the proxies that this machine has"
	@echo "make soak       ten minutes (SOAK_SECONDS) of mixed traffic with faults; nothing may be left, nothing may grow"
	@echo "make hostile    each known attack at full speed beside a well-behaved peer, and what that one notices"
	@echo "make bench-agent  the agent server's tools beside the same work done one by one"
	@echo "make compiled   install the data path as compiled code, from the same source: half the CPU per RPC; needs a C compiler"
	@echo "make protos     generate the protobuf code again"
	@echo "make docs       generate docs/configuration.md again"
	@echo "make lock       resolve the dependencies again"

install: $(RUN_STAMP)
install-dev: $(DEV_STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Say which: make PYTHON=python3.12" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(BIN)/python
	@test -e $(DEV_STAMP) || { echo "installing what running needs"; $(PIP) install --require-hashes -r requirements/run.txt; }
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing what testing needs"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	@$(BIN)/sidecar demo

demo-live: install
	@$(BIN)/sidecar demo --live

test: install-dev
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

FUZZ_EXAMPLES ?= 20000
fuzz: install-dev
	@FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz $(PYTEST_ARGS)

lint: install-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check sidecar agent_server clients protos
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >/dev/null 2>&1 || $(BIN)/lint-imports

bench: install
	@$(BIN)/python -m bench $(BENCH_ARGS)

# The table of docs/performance.md, and its picture.
bench-picture: install
	@$(BIN)/python -m bench.picture

# Minutes of mixed traffic with faults, reloads and restarts; nothing may be left, nothing may grow.
soak: install-dev
	@$(BIN)/python -m bench.soak --seconds $(or $(SOAK_SECONDS),600)

# Several minutes; for one attack HOSTILE_ARGS='--only ping'.
hostile: install-dev
	@$(BIN)/python -m bench.hostile $(HOSTILE_ARGS)

bench-agent: install-dev
	@$(BIN)/python -m bench.agent

# dist/*.whl for this interpreter, with sidecar/http2 and sidecar/proxy compiled by mypyc (docs/decisions/0004-compiled-data-path.md).
# Built from the source distribution, in a folder of its own: extensions left in this tree would be imported instead of the source.
wheel: install-dev
	@rm -rf dist
	@echo "compiling the data path; a minute or less"
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(BIN)/python -m build --no-isolation --outdir dist . >/dev/null

compiled: wheel
	@$(PIP) install --no-deps --force-reinstall dist/*.whl
	@rm -f $(RUN_STAMP) $(DEV_STAMP)
	@echo "$(BIN)/sidecar is compiled now; \`make install\` goes back to the source"

# What is shipped is what is tested: scenes, wire and some journeys once more, on the compiled wheel.
test-compiled: wheel
	@rm -rf .compiled && mkdir .compiled
	@$(BIN)/python -m zipfile -e dist/*.whl .compiled
	@cp -r pyproject.toml tests protos .compiled
	@cd .compiled && ../$(BIN)/python -m pytest -p no:cacheprovider $(PYTEST_ARGS) -n $(JOBS) tests/scenes tests/wire \
	  tests/journeys/test_transparency.py tests/journeys/test_rotation_and_drain.py tests/journeys/test_authorization.py

protos: install-dev
	@$(BIN)/python protos/generate.py

docs: install
	@$(BIN)/python -m docs.generate

lock: install-dev
	@$(PIP) install uv
	@for set in "dev --extra dev" "compile --extra compile" "run --extra agent --extra jwt --extra redis --extra uvloop --extra otel requirements/build.in" \
	  "sidecar --extra jwt --extra redis --extra uvloop --extra otel -c requirements/run.txt" "agent --extra agent --extra otel -c requirements/run.txt"; do \
	  name=$${set%% *}; rest=$${set#* }; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-annotate --custom-compile-command "make lock" pyproject.toml $$rest -o requirements/$$name.txt; \
	done

clean:
	rm -rf $(VENV) .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .compiled dist build
