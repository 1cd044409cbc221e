# make demo, make test: each makes .venv if needed, installs nearfar into it and does the whole job.
#
# On Linux without a GPU, the CPU build of torch is a smaller download:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.*
TORCH_INDEX ?=
SEED ?= 1
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow campaign lint format reference images docs release benchmark clean

demo: $(INSTALLED)
	$(BIN)/nearfar demo --out demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# Random faults of files, disks and processes; wrong outcomes are listed in campaign-wrong.jsonl with their seeds.
campaign: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaign --faults 1000 --seed $(SEED)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Brings the tables of keys and choices, the command line and the map of packages in docs/ in line with the code.
reference: $(INSTALLED)
	$(BIN)/python docs/write_reference.py
	$(BIN)/python docs/write_cli.py
	$(BIN)/python docs/write_design.py

# The pictures of the README, from the program; needs Chromium.
images: $(INSTALLED)
	$(BIN)/python docs/write_images.py

# The documentation site, into site/, without network.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Builds wheel and sdist of nearfar and the wheel of nearfar-edge, checks them, and tests them in environments of their own.
release: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m build --wheel --outdir dist packaging/edge
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest -m slow tests/test_install.py

benchmark: $(INSTALLED)
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# torch comes first and by name: an index or a local file of its CPU build is then used, and nothing replaces it.
$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nearfar needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),) '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo runs dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
