# `make demo` and `make test` do their own set-up in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
# Installed for the networks' tests when the machine has no torch; from PyTorch's CPU index where it can be reached.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Processes that share the tests, a file at a time.
JOBS ?= 2

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.PHONY: demo test lint benchmarks clean

demo: $(VENV)/.core
	mkdir -p out
	$(BIN)/lipsync demo -o out/demo.mp4 --overwrite

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# A machine that already has torch lends it to the environment, so that nobody downloads a second one.
$(VENV)/.venv:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'LipSync needs Python 3.10 or newer, found ' + sys.version.split()[0] + '; name another one: make PYTHON=python3.11')"
	if $(PYTHON) -c "import torch" 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi
	touch $@

$(VENV)/.core: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.tests: $(VENV)/.core pyproject.toml
	$(BIN)/python -c "import torch" 2>/dev/null \
	|| $(BIN)/python -m pip install --quiet --retries 0 --timeout 10 --index-url $(TORCH_INDEX) $(TORCH) 2>/dev/null \
	|| $(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[diffusion,preprocess,train,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
