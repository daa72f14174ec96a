# Everything a person or CI runs. Needs Python 3.11 to 3.13, git and make; nothing else.
#   make demo            the whole loop on a simulated shop (CUSTOMERS=2000 for a small one,
#                        FRESH=1 to begin again)
#   make demo SOURCE=contract DATA=<folder> TIMEZONE=<zone> CURRENCY=<code>
#                        the same on your files (docs/source-contract.md)
#   make demo SOURCE=online-retail-ii DATA=<folder>
#   make up / make down  the UIs, on loopback
#   make backfill FROM=<day> TO=<day>
#                        run days again, in one run
#   make docs            the documentation of the mart, one HTML page
#   make benchmark-models SOURCE=online-retail-ii DATA=<folder>
#                        every candidate out of time beside its peers; also SOURCE=contract, cdnow
#                        and simulated; DAYS=2011-03-10,2011-04-10 WINDOW=180 HORIZON=90 KEEP=<home>
#   make test            the test suite; make test-slow: proofs that take minutes
#   make lint            ruff, mypy, sqlfluff; make format: what ruff can mend by itself
#   make clean           throw the environment and caches away; homes stay
# The home is HOLDFAST_HOME, by default .holdfast/ here.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14)))' 2>/dev/null \
	&& { command -v "$$p"; break; }; done)
BIN := .venv/bin
HOLDFAST := $(BIN)/python -m orchestration
SOURCE ?= simulated

test test-slow: export HOLDFAST_SECRET ?= a-simulated-shop-has-no-secrets

.DEFAULT_GOAL := help
.PHONY: help setup demo benchmark-models test test-slow lint format up down backfill docs lock clean

help:
	@sed -n 's/^#   //p' Makefile

.venv/.installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found"; exit 1; }
	@echo "Installing into .venv (about two minutes, once) ..."
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

setup: .venv/.installed
	@$(HOLDFAST) prepare

demo: setup
	@$(HOLDFAST) demo --source $(SOURCE) $(if $(DATA),--data "$(DATA)") \
		$(if $(CUSTOMERS),--customers $(CUSTOMERS)) $(if $(TIMEZONE),--timezone $(TIMEZONE)) \
		$(if $(CURRENCY),--currency $(CURRENCY)) $(if $(FRESH),--fresh)

benchmark-models: setup .venv/.installed-dev
	@$(BIN)/python benchmarks/models.py --source $(SOURCE) $(if $(DATA),--data "$(DATA)") \
		$(if $(DAYS),--test-days $(DAYS)) $(if $(WINDOW),--window $(WINDOW)) \
		$(if $(HORIZON),--horizon $(HORIZON)) $(if $(KEEP),--home "$(KEEP)") \
		$(if $(TIMEZONE),--timezone $(TIMEZONE)) $(if $(CURRENCY),--currency $(CURRENCY)) \
		$(if $(CUSTOMERS),--customers $(CUSTOMERS))

up: setup
	@$(HOLDFAST) up

down: setup
	@$(HOLDFAST) down

backfill: setup
	@test -n "$(FROM)" || { echo "make backfill FROM=2025-06-01 TO=2025-06-30"; exit 2; }
	@$(HOLDFAST) run --from $(FROM) $(if $(TO),--to $(TO))

test: setup .venv/.installed-dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: setup .venv/.installed-dev
	@$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy orchestration ml expectations docs
	$(BIN)/sqlfluff lint --config dbt_project/.sqlfluff dbt_project

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	@$(HOLDFAST) dbt-docs

# Needs uv. Names no package index and pins every hash.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-strip-extras --no-header --quiet -o requirements.lock
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-strip-extras --no-header --quiet \
		-c requirements.lock -o requirements-dev.lock

clean:
	rm -rf .venv dbt_project/target .pytest_cache .mypy_cache .ruff_cache
