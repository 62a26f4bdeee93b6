# SPDX-License-Identifier: Apache-2.0
# make demo       train on the built-in set, validate, draw predictions: everything from nothing
# make test       the test suite (make test-slow: the long part of it)
# make lint       style and types
# make docs       the documentation as a site, in build/site
# make kernels    compile the kernels that have changed, in place
# make sanitize   CASES=100000 generated calls of the CPU kernels under ASan and UBSan
# Needs Python >= 3.10 with venv, make and a C++ compiler; installs into .venv, nowhere else.

# The first Python that runs and is new enough; make PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready
KERNELS := $(wildcard effdet/csrc/*/*)
SHAPES := $(BIN)/python -c 'from effdet.data.shapes import ensure_shapes; print(ensure_shapes())'
# Without the kernels the tests would compare the definitions with themselves.
KERNELS_IN_USE = $(BIN)/python -W ignore -c 'import sys; from effdet.ops import build_info; \
	sys.exit(None if build_info()["cpu_kernels"] else "no CPU kernels: see effdet info --build")'
TYPED := effdet _build setup.py train.py validate.py benchmarks
CASES ?= 100000
SEED ?= 0
SOURCES := effdet _build setup.py train.py validate.py benchmarks docs tests

.PHONY: demo test test-slow lint docs kernels sanitize clean

demo: $(READY)
	@run=runs/demo; n=2; \
	while [ -e "$$run" ]; do run=runs/demo-$$n; n=$$((n + 1)); done; \
	set -ex; \
	$(BIN)/python train.py --preset demo --output "$$run"; \
	$(BIN)/python validate.py --weights "$$run/best.pt" --data shapes --split val \
		--metrics "$$run/metrics.json"; \
	$(BIN)/effdet predict --weights "$$run/best.pt" --output "$$run/pictures" \
		"$$($(SHAPES))"/val/val_000?.jpg; \
	{ set +x; } 2>/dev/null; \
	echo; \
	echo "Pictures with boxes: $$run/pictures"; \
	echo "Figures:             $$run/metrics.json"; \
	echo; \
	echo "Next, with your own images and data:"; \
	echo "  . $(BIN)/activate"; \
	echo "  effdet predict --weights $$run/best.pt --output out YOUR_IMAGE.jpg"; \
	echo "  python train.py --preset finetune --data YOUR_COCO_FOLDER --output runs/first   # or on GPUs:"; \
	echo "  torchrun train.py --amp --data YOUR_COCO_FOLDER --output runs/first"; \
	echo "  python validate.py --data YOUR_COCO_FOLDER --weights runs/first/best.pt"

test: $(READY)
	@$(KERNELS_IN_USE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST_FLAGS)

test-slow: $(READY)
	@$(KERNELS_IN_USE)
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_FLAGS)

lint: $(READY)
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/mypy $(wildcard $(TYPED))
	$(BIN)/clang-format --dry-run --Werror $(KERNELS)

docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	@echo "open build/site/index.html"

kernels: $(READY)
	$(BIN)/python setup.py build_ext --inplace

# Into a folder of its own: such a build loads only where the sanitizers are.
sanitize: $(READY)
	EFFDET_SANITIZE=1 EFFDET_CUDA=0 $(BIN)/python setup.py build_ext \
		--build-lib build/sanitize --build-temp build/sanitize/objects
	$(BIN)/python tests/fuzz/operators.py --sanitized --cases $(CASES) --seed $(SEED)

# torch first: the kernels are then compiled against the torch that will run.
$(READY): pyproject.toml constraints.txt setup.py _build/backend.py $(KERNELS)
	@test -n "$(PYTHON)" || { echo "make: Python 3.10 or newer is needed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt torch torchvision
	EFFDET_REQUIRE_KERNELS=1 \
		$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info effdet/*.so
