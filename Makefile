# Two commands do everything: `make demo` and `make test`. Both set up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTO ?= tests/data/astronaut.png
# On x86 servers with AMX, GCC must be kept from breaking llama.cpp's kernels for it (faceinsight/backends/llama_cpp/amx.py).
ifneq ($(shell grep -s amx_int8 /proc/cpuinfo),)
export CMAKE_ARGS ?= -DCMAKE_CXX_FLAGS='-fno-dse -fno-tree-dse'
endif

.PHONY: setup setup-dev demo kiosk test test-slow test-all test-nvidia test-nvidia-or-skip test-arm64 test-versions lint types docs bench model clean

# The runtime alone: enough for the demo.
setup: $(VENV)/.runtime
# Everything the tests need (torch, onnx, gguf).
setup-dev: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "installing the runtime; llama-cpp-python compiles for 4 to 9 minutes the first time"
	$(BIN)/python -m pip install --quiet -e '.[cpu]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/faceinsight ask $(PHOTO) \
		"Is she smiling?" "Is she wearing glasses?" "Does she have a hat on?" "Is she smiling and wearing a hat?" \
		"What color is the hair?" "Describe this face."
	$(BIN)/faceinsight report $(PHOTO)
	@mkdir -p work
	$(BIN)/faceinsight draw $(PHOTO) "Is she smiling?" "Describe this face." -o work/demo.png

# The page for the public at http://localhost:8080, with a moving portrait as its camera. Ctrl-C ends it.
CAMERA ?= cmd:$(BIN)/python examples/swaying_portrait.py $(PHOTO)
PORT ?= 8080
kiosk: $(VENV)/.server
	$(BIN)/python -m webbrowser http://localhost:$(PORT)/ || true
	$(BIN)/faceinsight serve --kiosk --camera "$(CAMERA)" --port $(PORT)

$(VENV)/.server: pyproject.toml | $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -e '.[cpu,server]'
	@touch $@

# The fast tests; test-all has the slow ones too.
test: setup-dev
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup-dev
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

# Tests with NVIDIA's own wheels, which need no GPU: TensorRT-RTX builds plans, and TensorRT's Python bindings are those of
# JetPack 6 and 7 and of the desktop. A venv of its own, on top of the tests'.
NVIDIA := work/nvidia
BINDINGS := tensorrt-cu12-bindings==10.3.0 tensorrt-cu13-bindings==10.16.1.11
test-nvidia: setup-dev $(NVIDIA)/.installed
	FACEINSIGHT_BINDINGS=$(NVIDIA)/bindings $(NVIDIA)/bin/python -m pytest -m nvidia

# The same in .ci/run: 150 MB and about a minute. Where the index has no such wheel for this Python and machine, it says so
# and ends well; a test that fails is a failure.
test-nvidia-or-skip: setup-dev
	@for wanted in "-r tests/nvidia-requirements.txt" $(BINDINGS); do \
		said=$$($(BIN)/python -m pip download --quiet --no-deps --dest $(NVIDIA)-wheels $$wanted 2>&1) || { \
			echo "make test-nvidia is skipped: $$wanted cannot be had here: $$(printf '%s' "$$said" | tail -n 1)"; exit 0; }; \
	done; $(MAKE) test-nvidia

$(NVIDIA)/.installed: tests/nvidia-requirements.txt | $(VENV)/.dev
	$(BIN)/python -m venv $(NVIDIA)
	$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> "$$($(NVIDIA)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/tests.pth"
	$(NVIDIA)/bin/python -m pip install --quiet --no-deps -r tests/nvidia-requirements.txt
	for package in $(BINDINGS); do \
		$(NVIDIA)/bin/python -m pip install --quiet --no-deps --target $(NVIDIA)/bindings/$$package $$package || exit 1; \
	done
	@touch $@

# On 64-bit Arm, emulated: doctor, demo, tests, and the same answers as here. .ci/run leaves it out: it needs root (mounts,
# chroot, binfmt_misc) and a Debian 12 on x86-64, and takes half an hour, 0.7 GB in work/arm64. On Arm itself: make test.
test-arm64: setup
	$(BIN)/python tests/arm64/emulate.py

# Of benchmarks/results, the folder for the figures of test-versions.
RESULTS ?= epyc-2026-11
# The wheel with the oldest and newest versions of what it stands on: a quarter of an hour, 2 GB (7 GB for PyTorch with CUDA).
test-versions: setup-dev
	$(BIN)/python benchmarks/versions.py --out benchmarks/results/$(RESULTS)/versions.json
	$(BIN)/python benchmarks/render.py

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/render.py --check

types: setup-dev
	$(BIN)/mypy

# The docs as a site in work/site. Nothing is fetched while it is built; a broken link or a warning fails.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

bench: setup
	$(BIN)/faceinsight bench $(PHOTO) --out work/bench

# From labelled faces to a verified bundle: make model DATA=DIR (docs/train.md). Resumes where it was stopped.
RECIPE ?= nano
model: setup-dev
	@test -n "$(DATA)" || { echo "make model DATA=DIR: the folder of labelled faces, see docs/train.md"; exit 2; }
	$(BIN)/faceinsight-train assets --recipe $(RECIPE) --out work/assets
	$(BIN)/faceinsight-train all --recipe $(RECIPE) --data "$(DATA)" --assets work/assets --out work/run
	$(BIN)/faceinsight-export bundle work/run --recipe $(RECIPE) --assets work/assets --out work/bundle

clean:
	rm -rf $(VENV) work dist build
