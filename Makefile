# make demo   everything from nothing: environment, build, training, picture, generated text
# make test   the same set-up where it is missing, then every test
# make help   the rest
#
# PYTHON is the interpreter that makes the environment, VENV where it lies.

PYTHON ?= python3
VENV ?= .venv
CUDA_VENV ?= .venv-cuda
DOCS_VENV ?= .venv-docs
LIBRARIES_VENV ?= .venv-libraries
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
comma := ,
JOBS := $(or $(MAX_JOBS),$(shell getconf _NPROCESSORS_ONLN))
NATIVE := $(MAKE) -C tests/native -j $(JOBS)

CPP := $(shell find csrc tests/native bench/native tools -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort)
CSRC := $(filter csrc/%,$(CPP))

.DEFAULT_GOAL := help
.PHONY: demo test test-libraries native-test native-sanitize native-aarch64 native-plans cuda-build gpu-day lint format docs docs-serve bench clean help

demo: $(BUILT)  ## train with torch.nn and with fusedrnn, compare, generate text
	$(BIN)/python examples/language_model
	$(BIN)/python examples/language_model/drop_in.py

# One of the parts of `test`: its name, and what it runs. The times are printed again at the end.
PART_TIMES := build/part_times
define part
@printf '\n==> %s\n' '$(1)'
@start=$$(date +%s); $(2) || exit; echo "$(1): $$(($$(date +%s) - start)) s" >> $(PART_TIMES)
endef

test: $(BUILT)  ## the native tests, then every Python test
	@mkdir -p $(dir $(PART_TIMES)) && rm -f $(PART_TIMES)
	$(call part,1 of 3: compile the native tests,$(NATIVE) all)
	$(call part,2 of 3: run the native tests,$(NATIVE) run)
	$(call part,3 of 3: the Python tests$(comma) $(JOBS) at once,$(BIN)/python -m pytest -n $(JOBS) --dist worksteal)
	@echo && cat $(PART_TIMES)

test-libraries: $(LIBRARIES_VENV)/.installed  ## the libraries of docs/libraries, in an environment of their own
	$(LIBRARIES_VENV)/bin/python -m pytest tests_libraries -vv -rs

# The simulator runs a CUDA kernel under so many scheduling seeds; under the sanitizers, and in
# `make test`, under fewer.
native-test: export FUSEDRNN_SIM_SEEDS ?= 48
native-test:  ## the native tests, plain and under the address and undefined-behaviour sanitizers
	$(NATIVE) all
	$(NATIVE) run
	FUSEDRNN_SIM_SEEDS= $(MAKE) native-sanitize

native-sanitize:
	$(NATIVE) all SANITIZE=address,undefined
	$(NATIVE) run SANITIZE=address,undefined

# Debian has both in g++-aarch64-linux-gnu and qemu-user. The kernels' other tests take minutes there.
AARCH64 := CXX=aarch64-linux-gnu-g++ BUILD=../../build/native-aarch64
AARCH64 += RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
native-aarch64:  ## the CPU library's native tests, compiled for AArch64, under qemu
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  { echo '$@: skipped, aarch64-linux-gnu-g++ or qemu-aarch64 is missing'; exit; }; \
	$(NATIVE) $(AARCH64) run-test_cells run-test_plan run-test_math_generic && \
	$(NATIVE) $(AARCH64) run-test_kernels_generic ARGS=matches_plain_loops

native-plans:  ## the planner's choices for seven GPUs and ten problems
	@$(NATIVE) -s run-test_plan ARGS=--plans

cuda-build: $(CUDA_VENV)/.installed  ## CUDA kernels for every architecture; needs nvcc, no GPU
	$(CUDA_VENV)/bin/python tools/cuda_build.py
	$(CUDA_VENV)/bin/python tools/check_machine_code.py build/cuda/lib/fusedrnn/_C.so
	$(NATIVE) -s test_cuda_kernels_gpu

gpu-day: $(CUDA_VENV)/.installed  ## a folder for a machine with a GPU, to test and time everything in minutes
	$(CUDA_VENV)/bin/python tools/gpu_day/prepare.py

lint: $(INSTALLED)  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(INSTALLED)  ## ruff and clang-format, in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Warnings are errors, of mkdocs and of the check of every link within the site.
docs: $(DOCS_VENV)/.installed  ## the documentation site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict
	$(DOCS_VENV)/bin/python tools/check_links.py build/docs

docs-serve: $(DOCS_VENV)/.installed  ## the same on http://127.0.0.1:8000, built again after a change
	$(DOCS_VENV)/bin/mkdocs serve

bench: $(BUILT)  ## the benchmark table; `python -m bench --help` has its options
	$(BIN)/python -m bench run

clean:  ## remove what was built; the environment stays
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache examples/*/out $(BUILT)
	rm -f fusedrnn/*.so
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*##/ {printf "make %-14s %s\n", $$1, $$2}' Makefile

$(INSTALLED): requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(CUDA_VENV)/.installed: requirements-cuda.txt
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python -m pip install --quiet -r requirements-cuda.txt
	touch $@

$(DOCS_VENV)/.installed: requirements-docs.txt
	test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet -r requirements-docs.txt
	touch $@

# torchaudio's binaries want the CUDA build of torch; beside another one its Python part is enough here.
$(LIBRARIES_VENV)/.installed: requirements-libraries.txt setup.py pyproject.toml $(CSRC)
	test -x $(LIBRARIES_VENV)/bin/python || $(PYTHON) -m venv $(LIBRARIES_VENV)
	$(LIBRARIES_VENV)/bin/python -m pip install --quiet "$$(grep ^torch== requirements-libraries.txt)"
	$(LIBRARIES_VENV)/bin/python -m pip install --quiet --no-deps -r requirements-libraries.txt
	$(LIBRARIES_VENV)/bin/python -c "import torchaudio" 2>/dev/null || \
	  rm -f $(LIBRARIES_VENV)/lib/python*/site-packages/torchaudio/lib/*.so
	$(LIBRARIES_VENV)/bin/python -m pip install --no-build-isolation --editable .
	touch $@

$(BUILT): $(INSTALLED) setup.py pyproject.toml $(CSRC)
	$(BIN)/python -m pip install --no-build-isolation --editable .
	touch $@
