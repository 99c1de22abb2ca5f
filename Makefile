# Two commands on a fresh machine with python3 (3.11 or newer) and make: `make demo` and `make test`.
# Both first make an environment in the user's cache, named by a hash of what it is made from. It begins with what the package itself needs;
# tests, documentation and notebooks each add their packages when they are first asked for.
PYTHON ?= python3
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/scgpt-workbench
HASH := $(shell cat pyproject.toml constraints*.txt | $(PYTHON) -c "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read() + sys.version.encode()).hexdigest()[:16])")
ENV := $(CACHE)/env-$(HASH)
PY := $(ENV)/bin/python
PEERS := $(CACHE)/peers-$(HASH)
# The package is used from this checkout, so that several checkouts can share one environment.
# Packages come without bytecode; unless Python may keep it, every process of every test compiles them for ten seconds. Kept in the environment.
RUN := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(ENV)/bytecode" PYTHONPATH="$(CURDIR)" $(PY)
OUT ?= artifacts/demo
# A file to a worker, in the order of tests/conftest.py: those that take longest first.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -o tmp_path_retention_policy=failed
# What `make test-changed` compares with.
BASE ?= $(shell git merge-base HEAD origin/HEAD 2>/dev/null || echo HEAD)
PIP := -m pip install --quiet --no-compile --disable-pip-version-check
# `$(call requirements,EXTRA ...)`: packages of the extras of pyproject.toml; those that are always needed where none is named.
requirements = $(PYTHON) -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print('\n'.join(sum(map(p['optional-dependencies'].get, sys.argv[1:]), []) or p['dependencies']))" $(1)

.PHONY: help demo test test-slow test-changed test-gpu bench check docs notebooks format python peers pretrain clean

help:
	@echo "make demo       run the main job on real human blood cells and say where the report lies"
	@echo "make test       the fast tests (the tier that CI runs)"
	@echo "make test-slow  the slow tests, and which ten took longest"
	@echo "make test-changed  the tests, fast and slow, of what differs from BASE (the last commit shared with origin, or else HEAD)"
	@echo "make test-gpu   the tests that need a CUDA card"
	@echo "make bench      every measured comparison, in one table of docs/performance.md; fails where a bound is missed (half an hour)"
	@echo "make check      lint, format check and types"
	@echo "make docs       build the documentation, warnings are errors: artifacts/site/index.html"
	@echo "make notebooks  run the notebooks (about ten minutes) and keep them with their figures: notebooks/shown/*.ipynb"
	@echo "make format     format the code"
	@echo "make python     print the environment's interpreter"
	@echo "make peers      make the environment of the benchmark's peers (once; several minutes) and print its interpreter"
	@echo "make pretrain   train the mini checkpoint again, in artifacts/pretrained (about half an hour on two cores)"
	@echo "make clean      remove the demo's output"

demo: $(ENV)/.complete
	@$(RUN) -m workbench.cli run experiments/demo.yaml --out "$(OUT)"

# A worker for each core, and tests start processes of their own: OpenMP's threads spin while they wait for a core, which then takes four times as long.
test test-slow test-changed: export OMP_NUM_THREADS = 1

test: $(ENV)/.tests
	@$(RUN) -m pytest -m "not slow" --timeout 600 $(WORKERS)

test-slow: $(ENV)/.tests $(ENV)/.docs
	@$(RUN) -m pytest -m slow --timeout 3600 --durations=10 $(WORKERS)

test-changed: $(ENV)/.tests $(ENV)/.docs
	@asked=$$($(PY) tests/changed.py $(BASE)) || exit 1; \
	if [ -n "$$asked" ]; then $(RUN) -m pytest $(WORKERS) $$asked; else echo "Nothing that has tests differs from $(BASE)."; fi

test-gpu: $(ENV)/.tests
	@$(RUN) -m pytest -m gpu -rs

bench: $(ENV)/.tests
	@$(RUN) experiments/performance/bench.py

check: $(ENV)/.tests
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

docs: $(ENV)/.docs
	@$(RUN) -m sphinx -W --keep-going -E -q -b html docs artifacts/site

notebooks: $(ENV)/.notebooks
	@$(RUN) notebooks/shown/run.py

format: $(ENV)/.tests
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

pretrain: $(ENV)/.complete
	@$(RUN) -m workbench.cli pretrain experiments/pretrain_blood_mini.yaml

python: $(ENV)/.here
	@echo "$(PY)"

# Beside scGPT's own packages: what the benchmark compares with. For `workbench benchmark ... --set peers.python=$$(make -s peers)`.
peers: $(PEERS)/.complete
	@echo "$(PEERS)/bin/python"

clean:
	rm -rf artifacts/demo

# Its name is a hash of what it is made from, so there is nothing to compare by time: a fresh clone takes what is there.
$(ENV)/.complete:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Pass PYTHON=python3.12, for example." >&2; exit 1; }
	@echo "Making the environment $(ENV) (once; several minutes)" >&2
	@rm -rf "$(ENV)" && mkdir -p "$(CACHE)"
	@$(PYTHON) -m venv "$(ENV)" || { echo "python3 cannot make virtual environments; install its venv package." >&2; exit 1; }
	@$(call requirements) > "$(ENV)/requirements.txt"
	@$(PY) $(PIP) -c constraints.txt -r "$(ENV)/requirements.txt" >&2
	@touch "$@"

# Started in a checkout, the interpreter finds its package for a script of experiments/ too, as it does for `-m`.
$(ENV)/.here: | $(ENV)/.complete
	@$(PY) -c "import sysconfig; print(\"import os, sys; os.path.isfile('workbench/cli.py') and sys.path.append(os.getcwd())\", file=open(sysconfig.get_path('purelib') + '/here.pth', 'w'))"
	@touch "$@"

$(ENV)/.tests: EXTRAS = dev image notebook
$(ENV)/.docs: EXTRAS = docs
$(ENV)/.notebooks: EXTRAS = notebook image
$(ENV)/.tests $(ENV)/.docs $(ENV)/.notebooks: | $(ENV)/.complete
	@echo "Adding packages to the environment $(ENV) (once): $(EXTRAS)" >&2
	@$(call requirements,$(EXTRAS)) > "$@.txt"
	@$(PY) $(PIP) -c constraints.txt -r "$@.txt" >&2
	@# scgpt is the oracle of the parity tests; its own pins do not fit a current torch, hence --no-deps.
	@$(if $(findstring dev,$(EXTRAS)),$(PY) $(PIP) --no-deps $$($(call requirements,scgpt)) >&2)
	@touch "$@"

$(PEERS)/.complete:
	@echo "Making the environment $(PEERS) (once; several minutes)" >&2
	@rm -rf "$(PEERS)" && mkdir -p "$(CACHE)"
	@$(PYTHON) -m venv "$(PEERS)"
	@{ $(call requirements); $(call requirements,peers); } > "$(PEERS)/requirements.txt"
	@"$(PEERS)/bin/python" $(PIP) -c constraints-peers.txt -r "$(PEERS)/requirements.txt" >&2
	@# The oracle of the geometry of spaces: a script that needs no more than what is there.
	@"$(PEERS)/bin/python" $(PIP) --no-deps scfoundry==0.2.1 >&2
	@touch "$@"
