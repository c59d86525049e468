# `make demo` and `make test` set up what they need on their first run; ARGS is passed on to the command.
.DEFAULT_GOAL := help
.PHONY: help demo test lint clean distclean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo:  ## From camera to masks: bag, node, prompts, table, video and picture in out/demo
	@scripts/with-env x2sam demo $(ARGS)

test:  ## Run all tests
	@scripts/with-env python -m pytest $(ARGS)

lint:  ## Check style and types
	@scripts/with-env ruff check .
	@scripts/with-env ruff format --check .
	@scripts/with-env mypy

clean:  ## Remove what was built, keep the virtual environment and the results
	@rm -rf build install log .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## Remove the virtual environment too
	@rm -rf .venv
