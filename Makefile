# SPDX-License-Identifier: BSD-3-Clause
# `make demo` and `make test` set everything up by themselves; they need Python 3.10 to 3.15 (with venv), make and a
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
LINTERS := $(VENV)/.linters
# The frameworks fit the torch that was installed first.
FRAMED  := $(VENV)/.frameworks-$(TORCH)
# A folder changes when a file of it is removed.
SOURCES := $(addprefix torch_ext/_build/,compiler.py config.py stamp.py) $(shell find csrc -name '*.cpp' -o -name '*.h' -o -type d)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-distributed test-frameworks docs bench bench-docs build syntax compile_commands lint fuzz leaks asan ubsan asan_ubsan tsan valgrind clean distclean

help:
	@echo 'make demo    train a spiking network on stock torch and on torch_ext'
	@echo 'make test    run the tests                (DEVICE=standin or cuda, ARGS="-k hooks")'
	@echo 'make test-distributed  run the tests with several processes: DDP, FSDP, pipelines, torchrun ...'
	@echo 'make test-frameworks   install Lightning, transformers and accelerate, and run them'
	@echo 'make docs    build the documentation for a browser, in build/docs'
	@echo 'make bench   measure against stock torch  (DEVICE=cuda, ARGS="--json")'
	@echo 'make bench-docs  measure everything and redraw the tables and pictures of the pages  (ARGS=--redraw)'
	@echo 'make build   compile what has changed'
	@echo 'make syntax  compile each C++ file alone             (ARGS=csrc/hooks)'
	@echo 'make compile_commands  write what clangd, the language server of editors, needs'
	@echo 'make lint    check the code without running it       (ARGS="ruff mypy")'
	@echo 'make fuzz    run random programs on both           (PROGRAMS=100000, ARGS="--seed 1")'
	@echo 'make leaks   run each parity scenario 1,000 times   (LEAKS=50, ARGS="-k hooks")'
	@echo 'make asan, ubsan, asan_ubsan, tsan and valgrind  run the tests under these: docs/reliability.md'
	@echo 'make clean   remove builds; make distclean removes $(VENV) too'
	@echo 'PYTHON=$(PYTHON), VENV=$(VENV) and TORCH=$(TORCH) choose the interpreter, the environment and the release of torch.'

demo: build
	$(PY) -m torch_ext demo --output build/spiking_digits.png $(ARGS)

test: build
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --device $(DEVICE) $(ARGS)

# One worker: a test starts as many processes as there are ranks.
test-distributed: build
	$(PY) -m pytest --device $(DEVICE) tests/distributed $(ARGS)

test-frameworks: build $(FRAMED)
	$(PY) -m pytest tests/frameworks $(ARGS)

docs: build
	$(PY) -m sphinx -W --keep-going -n -q -E -d build/docs-read docs build/docs
	@echo 'Open build/docs/index.html'

bench: build
	$(PY) -m tools.bench --device $(DEVICE) $(ARGS)

bench-docs: build
	$(PY) -m tools.bench.docs $(ARGS)

build: $(BUILT)

# The extension is compiled for the torch that is installed, so torch comes first.
$(TORCHED):
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.torch-*
	$(PY) -m pip install 'setuptools>=77' ninja torch==$(TORCH)
	touch $@

# What pip has installed is good until one of these changes. Until then, make build only compiles, in folder build/.
INSTALLING := $(TORCHED) setup.py pyproject.toml
export TORCH_EXT_WERROR ?= 1
install     = -m pip install --no-build-isolation --editable '.[test]'
compile     = setup.py --quiet build_ext --inplace

$(BUILT): $(INSTALLING) $(SOURCES)
	@echo 'Compiling torch_ext; the first time takes about a minute on two cores.'
	$(PY) $(if $(filter $(INSTALLING),$?),$(install),$(compile))
	touch $@

syntax: $(TORCHED)
	$(PY) -m tools.syntax $(ARGS)

compile_commands: $(TORCHED)
	$(PY) -m tools.compile_commands

lint: $(LINTERS)
	$(PY) -m tools.lint $(ARGS)

$(LINTERS): pyproject.toml | $(BUILT)
	$(PY) -m pip install --quiet --no-build-isolation --editable '.[lint]'
	touch $@

$(FRAMED): pyproject.toml | $(BUILT)
	echo torch==$(TORCH) > $(VENV)/torch.txt
	$(PY) -m pip install --quiet --constraint $(VENV)/torch.txt --no-build-isolation --editable '.[frameworks]'
	touch $@

# --- Proof under fire: docs/reliability.md -----------------------------------

PROGRAMS ?= 10000
LEAKS    ?= 1000

fuzz: build
	$(PY) -m tools.fuzz --programs $(PROGRAMS) $(ARGS)

leaks: build
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --leaks $(LEAKS) --variant ours tests/parity $(ARGS)

# The interpreter is not built with the sanitizer, so its library is preloaded, and with it C++'s, from which it takes
# over functions. PYTHONMALLOC lets it see each of Python's blocks; Python without a GIL has one allocator only.
malloc   = $(shell $(PY) -c 'import sysconfig; print("" if sysconfig.get_config_var("Py_GIL_DISABLED") else "PYTHONMALLOC=malloc")')
library  = $(shell $(CXX) -print-file-name=$(1))
sanitize = $(malloc) LD_PRELOAD='$(foreach each,$(1),$(call library,lib$(each).so)) $(call library,libstdc++.so.6)' \
	TORCH_EXT_CFLAGS='$(2) -g1 -fno-omit-frame-pointer' $(PY) -m pytest -p no:cacheprovider
SANITIZED ?= tests/parity tests/unit/test_hooks.py tests/unit/test_beyond_stock.py tests/reliability/test_threads_stress.py

# What Python and torch keep to the end of the process is no leak; make leaks finds leaks.
asan: build
	ASAN_OPTIONS=detect_leaks=0 $(call sanitize,asan,-fsanitize=address) -n $(WORKERS) --maxprocesses 8 $(SANITIZED) $(ARGS)

# vptr needs the type information of torch's classes, which libtorch_python doesn't export.
ubsan: build
	UBSAN_OPTIONS=print_stacktrace=1 $(call sanitize,ubsan,-fsanitize=undefined -fno-sanitize=vptr -fno-sanitize-recover=all) \
	  -n $(WORKERS) --maxprocesses 8 $(SANITIZED) $(ARGS)

# Both in one build and one run, which takes little longer than either.
asan_ubsan: build
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(call sanitize,asan ubsan,-fsanitize=address \
	  -fsanitize=undefined -fno-sanitize=vptr -fno-sanitize-recover=all) \
	  -n $(WORKERS) --maxprocesses 8 $(SANITIZED) $(ARGS)

# Only our code is instrumented, so it sees races between our own accesses. Python without a GIL has to be built with it
# too, or its locks aren't seen: docs/reliability.md.
tsan: build
	TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:$$TSAN_OPTIONS \
	  $(call sanitize,tsan,-fsanitize=thread) -s tests/reliability/test_threads_stress.py $(ARGS)

# The interpreter reads uninitialised memory here and there: only errors with torch_ext on the stack count.
valgrind: build
	$(malloc) valgrind --quiet --log-file=valgrind.log $(PY) -m pytest -p no:cacheprovider \
	  tests/unit/test_beyond_stock.py -k 'not long_chain and not metadata' $(ARGS)
	! grep '_C\..*\.so\|torch_ext.*\.so' valgrind.log

clean:
	rm -rf valgrind.log compile_commands.json build dist *.egg-info torch_ext/_C.*.so torch_ext/_C.*.json torch_ext/_C.*.headers $(BUILT)

distclean: clean
	rm -rf $(VENV)
