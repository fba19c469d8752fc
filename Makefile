# Each target makes sure of what it needs itself; `make help` lists them.
# PYTHON=/path/to/python3 overrides the interpreter that scripts/pick-python would take.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PYTHON

# What `make run` runs: an example's folder and its one command, given to the environment's python.
EXAMPLE ?= examples/spelling
RUN ?= $(EXAMPLE)/run.py

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

preflight:
	@scripts/preflight

build: preflight  ## .venv with the package and all its extras
	@scripts/venv .venv newest all >/dev/null && echo "ready: .venv/bin/python, .venv/bin/clonal"

run: preflight  ## the example, in a .venv with no more than it needs
	@scripts/venv .venv newest cli $(EXAMPLE)/requirements.txt >/dev/null
	@.venv/bin/python $(RUN)

test:  ## lint, and all tests on the newest and the oldest CPython found (ARGS= for pytest)
	@scripts/preflight --tests
	@scripts/test $(ARGS)

soak:  ## the long tests: all of CPython's suites, kill storms, 100,000 clones
	@scripts/preflight --tests
	@scripts/venv .venv newest dev >/dev/null
	@.venv/bin/python -m pytest -m soak -s -o faulthandler_timeout=0 $(ARGS)

lint: preflight  ## style, types, layers, C warnings
	@scripts/venv .venv newest dev >/dev/null
	@scripts/lint .venv

format: preflight  ## rewrite Python and C in the style that lint wants
	@scripts/venv .venv newest dev >/dev/null
	@.venv/bin/ruff check -q --fix . ; .venv/bin/ruff format -q .
	@.venv/bin/clang-format -i $$(find src tests -name '*.[ch]')

bench: preflight  ## the figures promised, and every way of cloning a process side by side
	@scripts/venv .venv newest all examples/spelling/requirements.txt >/dev/null
	@old=$$(scripts/venv .venv-%v oldest "") && \
		.venv/bin/python benchmarks/figures.py --python311 "$$old/bin/python" $(FIGURES)
	@.venv/bin/python benchmarks/compare.py $(ARGS)

clean:  ## remove environments and everything built
	@rm -rf .venv .venv-* build dist src/*.egg-info src/clonal/*.so
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find src tests examples scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: help preflight build run test soak lint format bench clean
