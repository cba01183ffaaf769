# Two commands do everything: `make run` and `make test`. Each sets up what it needs.
SHELL := /bin/bash
PORT ?= 8001
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.set-up
WANTED := -e '.[fastapi,sync,embedded,dev]' -r requirements.v8.txt

.PHONY: run test health gates pictures constraints lint typecheck contracts setup clean help

run: setup  ## EDBotv8 with its own PostgreSQL, on http://127.0.0.1:$(PORT)
	@exec $(BIN)/python -m src --port $(PORT)

test: setup lint typecheck contracts  ## lint, types, import contracts, all tests, coverage
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90
	$(BIN)/python -m coverage report --include=src/models/async_database.py --fail-under=90
	$(BIN)/python -m coverage report --include='pulsepool/*' --fail-under=90

health: setup  ## how the service is: a table, the score, and an exit code
	@$(BIN)/python -m src.observability

gates: setup  ## PRP-27's six validation gates, each with its result
	@$(BIN)/python -m tests.gates

pictures: setup  ## the pictures of the README, taken anew
	@$(BIN)/python -m tests.pictures

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: setup
	$(BIN)/mypy

contracts: setup  ## the arrows of the house
	$(BIN)/lint-imports --no-cache

setup: $(STAMP)  ## .venv with pinned versions; nothing to do when it is there

# Installed again only when what to install has changed. uv where present, for its speed; pip does the same.
$(STAMP): pyproject.toml requirements.v8.txt constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python $(WANTED) -c constraints.txt; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $(WANTED) -c constraints.txt; \
	fi
	@touch $@

constraints:  ## pin what an environment made anew today would have
	rm -rf .venv/renew && $(PYTHON) -m venv .venv/renew
	.venv/renew/bin/python -m pip install --quiet $(WANTED)
	(echo '# Versions that `make test` passed with; renew with `make constraints`.'; \
		.venv/renew/bin/python -m pip list --format=freeze | grep -viE '^(pip|setuptools|pulsepool)==') > constraints.txt
	rm -rf .venv/renew

clean:  ## forget the environment and the embedded server's data
	rm -rf .venv .pulsepool

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
