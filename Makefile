# Installs into .venv, then runs the plain command. With .venv active the plain commands work by themselves.
UV := $(shell command -v uv || echo .uv/bin/uv)
VENV := .venv
SHELL := /bin/bash
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: tables test vision
tables: $(VENV)/.installed
	snakemake --cores all results/tables.md

test: $(VENV)/.installed
	pytest

$(VENV)/.installed: requirements/dev.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11,<3.13' $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(VENV) --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python $(VENV) --no-deps --no-build-isolation --editable .
	touch $@

# The OpenMMLab packages, in the same .venv.
vision: $(VENV)/.installed
	$(UV) pip install --quiet --python $(VENV) --no-deps --require-hashes -r requirements/vision.txt
	@echo "compiling mmcv, once: about ten minutes on two cores"
	$(UV) pip install --quiet --python $(VENV) --no-deps --no-build-isolation --require-hashes -r requirements/vision-built.txt

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet uv==0.13.9
