# Every target is in make.py, which any Python 3.11-3.13 runs (Windows: `py make.py run`).
# Arguments: make run ARGS="--only 04". Another Python: make run PYTHON=python3.12

# The first that truly runs (a pyenv shim may exist and fail), fits, and can make environments.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && echo $$p && exit; done; echo python3)
TARGETS := setup run run-all lab test test-full lint notebooks figures slides app exercises site bench doctor constraints clean-env

help $(TARGETS):
	@$(PYTHON) make.py $@ $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help $(TARGETS)
