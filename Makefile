.PHONY: help setup run test lint test-vllm test-clients fuzz mutate bench lock

# The first interpreter that is one of ours and can make an environment; `make PYTHON=…` chooses another.
SUITABLE = import sys, ssl, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && echo $$p && break; done)
BIN = .venv/bin

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## make .venv from the locked requirements
	@test -n "$(PYTHON)" || { echo "caduceus needs CPython 3.11 to 3.14 with venv; install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) bootstrap.py

run: setup ## serve on 127.0.0.1:8080, with everything it needs
	@exec $(BIN)/caduceus serve --demo

# Every test process loads the whole suite: with a cache of bytecode it does so in half the time, and the cache lies apart
# from the sources.
BYTECODE = PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/.venv/pycache

test: setup ## the whole suite on all cores, on an embedded Postgres
	@$(BYTECODE) $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: setup ## ruff, mypy --strict, the import contract
	@$(PYTHON) bootstrap.py lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The lanes below share one expensive server each: in one process, and with time for a start from nothing.
LANE = -p no:xdist --timeout 1800

test-vllm: setup ## a real vLLM on the CPU behind it, asked with the official clients (Linux only)
	@$(PYTHON) bootstrap.py clients
	@$(PYTHON) tests/vllm/environment.py
	@$(BIN)/python -m pytest $(LANE) -m vllm tests/vllm $(ARGS)

test-clients: setup ## the real clients, from PyPI and npm, at sandboxes and at a real vLLM (Linux, Node 20)
	@$(PYTHON) tests/clients/environment.py
	@$(PYTHON) tests/vllm/environment.py
	@$(BIN)/python -m pytest $(LANE) -m clients tests/clients $(ARGS)

fuzz: setup ## a fuzzer asks for all that the API's document describes
	@$(PYTHON) tests/fuzz/environment.py
	@FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest $(LANE) -m fuzz tests/fuzz $(ARGS)

mutate: setup ## break the rules of money and routing one by one; some test must notice (ARGS: files)
	@$(BIN)/python -m tests.mutate $(ARGS)

bench: setup ## what a request and an event cost, beside nginx (which it needs)
	@$(BIN)/python -m bench $(ARGS)

LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
	--no-emit-index-url --no-header

lock: ## lock requirements/*.in anew (needs uv)
	for f in run test lint clients test-clients fuzz; do $(LOCK) requirements/$$f.in -o requirements/$$f.txt; done
	$(LOCK) --no-deps requirements/tokenizer.in -o requirements/tokenizer.txt
	$(LOCK) --override requirements/vllm-without.in requirements/vllm.in -o requirements/vllm.txt
