# Everything a newcomer types: `make demo`, `make test`. Each target makes .venv when it is absent.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slurm check docs wheelhouse clean

setup: $(READY)

# torch comes first and alone: its exact version decides between a CPU and a CUDA build, and deepspeed's own
# installation looks for it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lamae needs Python 3.11 or newer: make PYTHON=python3.11 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,triton]'
	touch $(READY)

demo: $(READY)
	$(BIN)/lamae demo --out demo

# A file of tests per core: what they share is made once, and a test's own processes have one thread each.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Needs root and a Slurm installation (.ci/install-slurm); starts two clusters of its own on this machine, minutes.
test-slurm: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slurm tests/slurm

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# The pages of docs/ as a site: open site/index.html, or `.venv/bin/mkdocs serve`, where the search works too.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# For a machine that has some CUDA torch and Triton and no network (docs/performance.md): wheels of everything else, for
# this Python and this kind of system.
wheelhouse: $(READY)
	mkdir -p build
	grep -Ev '^(torch|triton)==' constraints.txt > build/wheelhouse.txt
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir wheelhouse -r build/wheelhouse.txt .

clean:
	rm -rf build site wheelhouse dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
