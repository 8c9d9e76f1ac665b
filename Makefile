# `make demo` and `make test` each need nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
ARGS ?=
comma := ,
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
RIVALS_STAMP := $(VENV)/.installed-rivals
PEER_STAMPS := .bench/mlflow/.installed .bench/litserve/.installed

.PHONY: demo test check bench rivals figures install clean

demo: $(STAMP)
	$(BIN)/surefoot demo $(ARGS)

test check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto $(ARGS)

bench: $(RIVALS_STAMP)
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

rivals: $(RIVALS_STAMP) $(PEER_STAMPS)

# What benchmarks measure against; nothing else needs it.
$(RIVALS_STAMP): $(STAMP) benchmarks/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	@touch $@

# In environments of their own; those that quick benchmarks need. Each benchmark installs what it misses by itself.
.bench/mlflow/.installed: benchmarks/registry_run/mlflow.txt | $(STAMP)
	$(BIN)/python -c 'from benchmarks.registry_run.servers import install_mlflow; install_mlflow()'
	@touch $@

.bench/litserve/.installed: benchmarks/serving_run/litserve.txt | $(STAMP)
	$(BIN)/python -c 'from benchmarks.serving_run.environments import install; install("litserve")'
	@touch $@

figures: $(STAMP)
	$(BIN)/python -m docs.figures $(ARGS)

install: $(STAMP)

# The stamp names the extras, so that other ones, or a changed pyproject, install again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Surefoot needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo "Installing into $(VENV) (about a minute, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) .demo .bench .mypy_cache .ruff_cache .pytest_cache
