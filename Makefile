PYTHON ?= python
.DEFAULT_GOAL := help
.PHONY: help check format test test-quick coverage golden results docs wheel-check

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s ':'

check:  ## Linter, formatter, type-checker
	ruff check .
	ruff format --check .
	mypy

format:  ## Format the code and apply safe fixes
	ruff check --fix .
	ruff format .

test:  ## The tests
	pytest

test-quick:  ## The tests without compilers, child processes, trainings, the largest comparisons and what people bring
	pytest -m "not hub and not slow and not integration"

coverage:  ## The tests, and which lines they leave out
	pytest --cov --cov-report=term

golden:  ## Remake the golden values; say so in CHANGELOG.md
	$(PYTHON) -m tests.make_golden

results:  ## Write the tables of docs/results.md from the benchmarks' JSON; measures nothing
	$(PYTHON) -m benchmarks.tables --write

docs:  ## Render README.md and docs/ to HTML in build/docs
	$(PYTHON) -m docs.render build/docs

wheel-check:  ## Build sdist and wheel, look at what is inside, and import it from elsewhere
	$(PYTHON) -m tests.check_wheel
