# Every target sets up what it needs in .venv and does nothing twice: a stamp remembers which pyproject.toml and
# constraints.txt were installed. After the first run nothing here needs the network.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
QUIET := $(if $(shell test -t 2 && echo terminal),,--quiet)
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(QUIET) --prefer-binary --no-compile -c constraints.txt
NAME ?= ask
ROUNDS ?= 500
FLIPS ?= 1000
CHANGES ?= 255

.DEFAULT_GOAL := help
.PHONY: help demo test slow crash check bench docs clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.user ## build the demonstration knowledge base and ask it
	@$(BIN)/tianwen demo

test: $(VENV)/.dev ## run the tests on two cores (no network, no GPU)
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

slow: $(VENV)/.dev ## run the slow tests: every example and every page that trains something
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(ARGS)

crash: $(VENV)/.dev ## kill a knowledge base ROUNDS=500 times at work, and flip FLIPS=1000 bits of one
	@$(BIN)/python -m tests.promises.crash_rounds --rounds $(ROUNDS) && $(BIN)/python -m tests.promises.flip_rounds --flips $(FLIPS) --changes $(CHANGES)

check: $(VENV)/.dev ## lint, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/basedpyright

bench: $(VENV)/.dev ## measure speed against the alternatives; another one: make bench NAME=index
	@$(BIN)/tianwen bench $(NAME) $(ARGS)

docs: $(VENV)/.dev ## write docs/commands.md from the commands themselves
	@$(BIN)/python tests/docs/test_commands.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@./.ci/python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.user: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Tianwen into $(VENV) (once; PyTorch is the large part) ..."
	@$(PIP) -e . && touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Tianwen with its development tools into $(VENV) (once) ..."
	@$(PIP) -e '.[dev,hf,draw,pretrain,export]' && touch $@ $(VENV)/.user
