# Installs into .venv, then runs the plain command. With .venv active the plain commands work by themselves.
UV := $(shell command -v uv || echo .uv/bin/uv)
VENV := .venv
SHELL := /bin/bash
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: tables test test-integration test-long lint audit docs
tables: $(VENV)/.installed
	snakemake --cores all results/tables.md
	python -m rpg show

test: $(VENV)/.installed
	pytest -n 2 --dist loadfile

# The newcomer's run uses all cores, and its output is shown; then everything else, two files at a time.
test-integration: $(VENV)/.installed
	pytest -m "integration and not long" --capture no tests/integration/test_newcomer.py; newcomer=$$?; \
	pytest -m "integration and not long" -n 2 --dist loadfile --durations 20 --ignore tests/integration/test_newcomer.py && \
	exit $$newcomer

# The whole main job, every command of the README, networks of the paper's size, SLURM, faults, more cases of fuzz.
test-long: $(VENV)/.installed
	tests/long.sh

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	snakefmt --check .
	snakemake --lint
	mypy

# Fails where a package can't be looked up: what was not audited is not free of faults.
audit: .uv/audit/.installed
	.uv/audit/bin/pip-audit --strict --require-hashes --disable-pip --desc off \
		$(foreach lock,dev cuda build,-r requirements/$(lock).txt)

# The documentation site, in build/site. docs/hooks.py reads the command line from rpg/cli.py.
docs: .uv/docs/.installed
	PYTHONPATH=. .uv/docs/bin/zensical build --strict --clean

# A tool in an environment of its own.
.uv/%/.installed: requirements/%.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11,<3.13' .uv/$*
	$(UV) pip sync --quiet --python .uv/$* --require-hashes requirements/$*.txt
	touch $@

$(VENV)/.installed: requirements/dev.txt requirements/build.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11,<3.13' $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(VENV) --require-hashes \
		--build-constraints requirements/build.txt requirements/dev.txt
	$(UV) pip install --quiet --python $(VENV) --no-deps --no-build-isolation --editable .
	touch $@

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet --require-hashes -r requirements/installer.txt
