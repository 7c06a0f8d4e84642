# Everything below sets itself up: a fresh machine needs python3 (with venv), make and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
EXTRAS := train,clip,sam,llava,hf,eval,demo,export
# LLaVA's own code, without its pins, which are for the versions of 2023.
LLAVA := --no-deps llava-torch

.PHONY: quickstart test lint format clean

quickstart: $(VENV)/.installed  ## toy world end to end: teachers -> student -> table and report
	$(BIN)/radio quickstart --out quickstart-out

test: $(VENV)/.installed-dev  ## the whole test suite (ARGS="..." goes to pytest)
	$(BIN)/pytest $(ARGS)

lint: $(VENV)/.installed-dev  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# torch comes first and with its partner: alone, each would be resolved to a version the other refuses.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch (the large part, some minutes) ..."
	$(PIP) 'pip>=23' 'torch>=2.6' torchvision
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(PIP) -e '.[$(EXTRAS)]'
	$(PIP) $(LLAVA)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(PIP) -e '.[$(EXTRAS),tensorrt,dev]'
	$(PIP) $(LLAVA)
	@touch $@
