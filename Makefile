# Two commands do everything on a fresh machine: make demo, make test. Both make their own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
UV := $(shell command -v uv 2>/dev/null)
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-export-1 test-export-2 test-faults test-others check bench faults schema wheel clean

demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/freerun-export demo-data $(DEMO)
	$(BIN)/freerun-export train $(DEMO)/train --valid $(DEMO)/valid --out $(DEMO)/bundle --config $(DEMO)/train.toml
	$(BIN)/freerun score $(DEMO)/bundle $(DEMO)/valid --out $(DEMO)/scored
	$(BIN)/freerun score $(DEMO)/bundle $(DEMO)/valid --out $(DEMO)/scored-teacher-forced --mode teacher-forced
	$(BIN)/python benchmarks/demo.py $(DEMO)
	$(BIN)/freerun-export explain-gap $(DEMO)/bundle $(DEMO)/valid --train $(DEMO)/train \
		--model $(DEMO)/bundle.work/model.keras --epochs 1

# In processes of their own, for the faults fork, and once TensorFlow is in a process it is none to fork from. Two at a time:
# the exporter's, in two halves, take as long as all others and more. Each shows what it found when it is done.
test: $(INSTALLED)
	@echo "the tests of the exporter, and beside them the faults and all others: a quarter of an hour or so on two processors"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-export-1 test-export-2 test-faults test-others

test-export-1: $(INSTALLED)
	$(BIN)/python -m pytest -q tests/export/test_[a-e]*.py

test-export-2: $(INSTALLED)
	$(BIN)/python -m pytest -q tests/export/test_[!a-e]*.py

test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -q tests/faults

test-others: $(INSTALLED)
	$(BIN)/python -m pytest -q --ignore tests/faults --ignore tests/export

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/dependencies.py

# Writes docs/benchmarks.md, docs/benchmarks.json and docs/plots/; inputs and bundles stay in build/bench.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench.py

# Writes docs/reliability.md. A shorter one: make faults SHARE=0.05; one again: make faults SEED=n.
faults: $(INSTALLED)
	$(BIN)/python tests/faults/long_form.py $(if $(SEED),--seed $(SEED)) $(if $(SHARE),--share $(SHARE))

schema: $(INSTALLED)
	$(BIN)/python -m export.schemas docs

wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel

clean:
	rm -rf $(VENV) build dist

$(INSTALLED): pyproject.toml constraints.txt
ifneq ($(UV),)
	uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[cpu,export,report,test,lint]'
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,export,report,test,lint]'
endif
	touch $@
