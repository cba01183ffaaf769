# Two commands do everything: `make run` and `make test`. Each sets up what it needs.
SHELL := /bin/bash
PORT ?= 8001
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.set-up
WANTED := -e '.[fastapi,sync,embedded,bench,dev]' -r requirements.v8.txt

.PHONY: run test health gates pictures bench bench-quick constraints compat compliance lint typecheck contracts setup clean help

run: setup  ## EDBotv8 with its own PostgreSQL, on http://127.0.0.1:8001 or PORT=…
	@exec $(BIN)/python -m src --port $(PORT)

test: setup lint typecheck contracts  ## lint, types, import contracts, all tests, coverage
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90
	$(BIN)/python -m coverage report --include=src/models/async_database.py --fail-under=90
	$(BIN)/python -m coverage report --include='pulsepool/*' --fail-under=90

health: setup  ## how the service is (or its parts, when it does not run): a table, the score, an exit code
	@$(BIN)/python -m src.observability --port $(PORT)

gates: setup  ## PRP-27's six validation gates on a server of their own, each with its result
	@$(BIN)/python -m tests.gates

pictures: setup  ## the pictures of the README, taken anew
	@$(BIN)/python -m tests.pictures

bench: setup  ## pulsepool beside its peers, all of it (some 10 minutes); writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks

bench-quick: setup  ## the same in a minute and a half, with fewer scenarios and rounds; writes no page
	@$(BIN)/python -m benchmarks --quick

lint: setup  ## ruff: linter and formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: setup  ## mypy, strict
	$(BIN)/mypy

contracts: setup  ## the arrows of the house
	$(BIN)/lint-imports --no-cache

setup: $(STAMP)  ## .venv with pinned versions; nothing to do when it is there

# Installed again only when what to install has changed. uv where present, for its speed; pip does the same.
$(STAMP): pyproject.toml requirements.v8.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12 …"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python $(WANTED) -c constraints.txt; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $(WANTED) -c constraints.txt; \
	fi
	@touch $@

constraints:  ## pin what an environment made anew today would have
	rm -rf .venv/renew && $(PYTHON) -m venv .venv/renew
	.venv/renew/bin/python -m pip install --quiet $(WANTED) -e '.[metrics,otel,cli]'
	(echo '# Versions that `make test` passed with; renew with `make constraints`.'; \
		.venv/renew/bin/python -m pip list --format=freeze | grep -viE '^(pip|setuptools|pulsepool)==') > constraints.txt
	rm -rf .venv/renew

compat: setup  ## the FastAPI integration on twenty versions of FastAPI, and the library on its lowest versions
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/compat.sh

compliance: setup  ## SQLAlchemy's own compliance suite, without and with ?plugin=pulsepool, compared; a minute or two
	@$(BIN)/python -m tests.compliance

clean:  ## forget the environment and the embedded server's data (kept in /var/tmp for a clone that others cannot enter)
	rm -rf .venv .pulsepool

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
