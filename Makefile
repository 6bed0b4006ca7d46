# geoeq: `make` lists what can be done here.
PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= configs/nbody.yaml
ARGS   ?=

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt

# A stamp is written only after its step has ended well, so an interrupted install is simply done again.
CREATED := $(VENV)/.created
TRAIN   := $(VENV)/.installed-train
TEST    := $(VENV)/.installed-test
DEV     := $(VENV)/.installed-dev
SCATTER := $(VENV)/.installed-scatter

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install forecast test test-wheel lint format scatter clean clean-venv

help: ## list the targets
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv] [ARGS=\"more arguments\"]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

install: $(TRAIN) ## create .venv and install geoeq with what training needs
	@echo "geoeq is installed in $(VENV): $(VENV)/bin/geoeq --help"

forecast: $(TRAIN) ## the main job: train exact, soft and free networks on N-body data, print a table, write a report
	$(PY) -m geoeq compare --config $(CONFIG) $(ARGS)

test: $(TEST) ## run the whole test suite on all cores; ARGS="-m 'not slow'" for the quick part
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal $(ARGS)

test-wheel: $(TEST) ## run the quick tests against the built wheel, from another directory
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; tests=$$(pwd)/tests; \
	echo "==> building sdist and wheel in $$work"; \
	$(PY) -m build --no-isolation --outdir "$$work/dist" . > "$$work/build.log" 2>&1 || { cat "$$work/build.log"; exit 1; }; \
	$(PY) -m venv --without-pip "$$work/venv"; \
	$(PY) -m pip --disable-pip-version-check --python "$$work/venv" install -q --no-deps --no-index "$$work"/dist/*.whl; \
	python=$$work/venv/bin/python; \
	site=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "$$site" > "$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"; \
	cd "$$work"; \
	"$$python" -I -c 'import geoeq, sys; assert geoeq.__file__.startswith(sys.prefix), geoeq.__file__; print("==> testing", geoeq.__file__)'; \
	OMP_NUM_THREADS=1 "$$python" -m pytest "$$tests" --ignore "$$tests/packaging" -m "not slow" -p no:cacheprovider -n auto $(ARGS)

lint: $(DEV) ## ruff, the format and the types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy -p geoeq

format: $(DEV) ## let ruff mend and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

scatter: $(SCATTER) ## build torch-scatter against the installed torch (optional, minutes)

clean: ## remove build output and caches; keeps .venv, data and runs
	rm -rf build dist geoeq.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find geoeq layers datasets tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: ## remove .venv
	rm -rf .venv

$(CREATED):
	@test -x $(PY) || command -v $(PYTHON) > /dev/null || \
	  { echo "geoeq needs Python 3.10 to 3.13, but there is no $(PYTHON): make PYTHON=/path/to/python" >&2; exit 1; }
	@python=$(PYTHON); if test -x $(PY); then python=$(PY); fi; \
	"$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "geoeq needs Python 3.10 to 3.13, but $$python is $$("$$python" --version 2>&1): make clean-venv, then make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PY) -m pip --version > /dev/null 2>&1 || { echo "==> creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@touch $@

$(TRAIN): pyproject.toml constraints.txt | $(CREATED)
	@echo "==> installing geoeq[train] into $(VENV)"
	$(PIP) -e ".[train]"
	@touch $(TRAIN)

$(TEST): pyproject.toml constraints.txt | $(CREATED)
	@echo "==> installing geoeq[test] into $(VENV)"
	$(PIP) -e ".[test]"
	@touch $(TEST) $(TRAIN)

$(DEV): pyproject.toml constraints.txt | $(CREATED)
	@echo "==> installing geoeq[dev] into $(VENV)"
	$(PIP) -e ".[dev]"
	@touch $(DEV) $(TEST) $(TRAIN)

$(SCATTER): constraints.txt | $(TRAIN)
	@echo "==> building torch-scatter; this takes some minutes"
	$(PIP) "setuptools>=77"
	$(PIP) --no-build-isolation -e ".[scatter]"
	@touch $@
