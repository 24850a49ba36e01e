# Thin on purpose: an environment of its own, then the commands that README shows.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: results test

results: $(READY)
	@$(VENV)/bin/dvfl results

test: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check Snakefile workflow
	$(VENV)/bin/snakemake --lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

$(READY): envs/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dvfl needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement envs/requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
