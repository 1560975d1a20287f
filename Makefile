# Every target sets up what it needs; `make demo` and `make test` are all that a fresh checkout takes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
READY  := $(VENV)/.ready

.PHONY: setup demo check test docs lock audit bench bench-check soak mutants clean

setup: $(READY)

# Every file that comes has the sha256 of requirements/run.txt or dev.txt, the setuptools of our own build too; torch alone
# has only its version. Where fused.c alone is newer, the environment stays and the operator is built again. pip would
# compile 20,000 files one by one: here all cores do it; a few of them are no Python.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

# What running needs, with charts and reports.
$(RUNS): pyproject.toml constraints.txt requirements/run.txt pipeline/decode/fused.c
	$(if $(filter-out pipeline/decode/fused.c,$?),$(PYTHON) -m venv --clear $(VENV))
	$(if $(filter-out pipeline/decode/fused.c,$?),$(PIP) --no-deps --require-hashes -r requirements/run.txt)
	$(PIP) -c constraints.txt --no-build-isolation -e ".[report]"
	$(COMPILE)
	touch $@

# What testing needs beside that.
$(READY): $(RUNS) requirements/dev.txt
	$(PIP) --no-deps --require-hashes -r requirements/dev.txt
	$(COMPILE)
	touch $@

demo: $(RUNS)
	rm -rf demo-out
	$(BIN)/python cli.py demo --out demo-out

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Tests, whose asserts pytest writes anew, are compiled once, not by each process of each run.
test: $(READY)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Versions and hashes anew from pyproject.toml: after a change there, or with LOCK=--upgrade, LOCK="--upgrade-package torch".
lock: $(READY)
	$(PIP) uv
	$(BIN)/python requirements/lock.py $(LOCK)

# Known weaknesses of what is pinned. It asks PyPI's list of advisories, so it needs a network and is not part of `check`;
# a version that could not be asked about is a failure, too.
audit: $(READY)
	$(BIN)/python -m pip check
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

bench: $(READY)
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/peers/install.py
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/stream.py

# Whether anything became slower; by ratios, so that it can be asked on any machine. Not part of `check`.
bench-check: $(READY)
	$(BIN)/python benchmarks/check.py

# Hours: every promise against its faults, many times over; then the table of docs/reliability.md anew.
TRIAL_LOG := $(CURDIR)/build/reliability.jsonl
SOAK_IMAGES ?= $(or $(ALEXSTREAM_TEST_DATA),build/soak-images)
soak: $(READY)
	mkdir -p build && rm -f $(TRIAL_LOG)
	[ -d "$(SOAK_IMAGES)" ] || $(BIN)/python cli.py sample --out "$(SOAK_IMAGES)" --quiet
	export ALEXSTREAM_TRIAL_LOG=$(TRIAL_LOG); broken=0; \
	ALEXSTREAM_TRIALS=long $(BIN)/python -m pytest tests/faults || broken=1; \
	ALEXSTREAM_TRIALS=long $(BIN)/python -m pytest -m soak --ignore=tests/faults || broken=1; \
	$(BIN)/python tests/faults/fuzz.py || broken=1; \
	! $(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/python tests/faults/fuzz.py --guided --executions 10000 || broken=1; \
	$(BIN)/python tests/faults/sanitized.py || broken=1; \
	$(BIN)/python tests/faults/soak.py --minutes 60 --images "$(SOAK_IMAGES)" --work build --report || broken=1; \
	$(BIN)/python tests/faults/record.py $(TRIAL_LOG); exit $$broken

# Whether the tests notice what they must: each error of tests/mutants is planted in a copy of the project. An hour or
# more, not part of CI; MUTANTS="--resume" goes on after a stop, MUTANTS="trainer/ pipeline/transforms/mean.py" takes a part.
mutants: $(READY)
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
