# Every target sets up what it needs; `make demo` and `make test` are all that a fresh checkout takes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo check test docs audit bench bench-check soak clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)
	rm -rf demo-out
	$(BIN)/python cli.py demo --out demo-out

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

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
	$(BIN)/python tests/faults/fuzz.py || broken=1; \
	! $(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/python tests/faults/fuzz.py --guided --executions 10000 || broken=1; \
	$(BIN)/python tests/faults/soak.py --minutes 60 --images "$(SOAK_IMAGES)" --work build --report || broken=1; \
	$(BIN)/python tests/faults/record.py $(TRIAL_LOG); exit $$broken

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
