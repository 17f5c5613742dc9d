# `make demo` and `make test` set everything up by themselves; they need Python 3.10 or newer (with venv), make and a
# C++ compiler. pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL ...) say where packages come from.

PYTHON  ?= python3
VENV    ?= .venv
TORCH   ?= 2.13.0
DEVICE  ?= cpu
WORKERS ?= auto
ARGS    ?=

PY      := $(VENV)/bin/python
TORCHED := $(VENV)/.torch-$(TORCH)
BUILT   := $(VENV)/.built
SOURCES := setup.py pyproject.toml torch_ext/_build.py $(shell find csrc -name '*.cpp' -o -name '*.h')

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test bench build lint clean distclean

help:
	@echo 'make demo    train a spiking network on stock torch and on torch_ext'
	@echo 'make test    run the tests                (DEVICE=cuda, ARGS="-k hooks")'
	@echo 'make bench   measure against stock torch  (ARGS="--json")'
	@echo 'make build   compile what has changed'
	@echo 'make lint    check the Python code'
	@echo 'make clean   remove builds; make distclean removes $(VENV) too'
	@echo 'PYTHON=$(PYTHON), VENV=$(VENV) and TORCH=$(TORCH) choose the interpreter, the environment and the release of torch.'

demo: build
	$(PY) examples/spiking_digits.py $(ARGS)

test: build
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --device $(DEVICE) $(ARGS)

bench: build
	$(PY) -m tools.bench $(ARGS)

build: $(BUILT)

# The extension is compiled for the torch that is there, so torch comes first.
$(TORCHED):
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.torch-*
	$(PY) -m pip install 'setuptools>=77' ninja torch==$(TORCH)
	touch $@

$(BUILT): $(TORCHED) $(SOURCES)
	@echo 'Compiling torch_ext; the first time takes about a minute on two cores.'
	$(PY) -m pip install --no-build-isolation --editable '.[test]'
	touch $@

lint: $(TORCHED)
	$(PY) -m pip install --quiet ruff
	$(PY) -m ruff check .

clean:
	rm -rf build dist *.egg-info torch_ext/_C.*.so torch_ext/_C.*.json $(BUILT)

distclean: clean
	rm -rf $(VENV)
