# Everything runs in .venv, which `make install` creates; the only requirement is Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per test process: with more, the threads of parallel processes slow each other down. One process more than cores: some
# tests wait.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(4, 1 + len(os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else '1')))")
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
FINAL := step-00001600.safetensors
MODELS := $(foreach run,run noblur heat eps,demo/$(run)/weights/$(FINAL))

.PHONY: install test test-lowest coverage quality style demo docs site bundle bundle-photos compare clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml blurcli/base/version.py
	$(PYTHON) -c "import sys; sys.exit('blurdiff needs Python 3.11 or newer: make PYTHON=python3.12' if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@# Bytecode: without it every command compiles PyTorch's sources anew where Python may not write beside them.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable ".[dev]"
	touch $@

test: quality
	$(PYTEST)

# The tests with the oldest versions that pyproject.toml allows of each direct dependency, in an environment of their own.
LOWEST := .venv-lowest
test-lowest: install
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[dev]"
	$(subst $(BIN),$(LOWEST)/bin,$(PYTEST))

coverage: install
	$(PYTEST) --cov=blurcli --cov-report=term-missing:skip-covered

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# After Ctrl-C it continues where it stopped; what is done is not done again.
demo: install
	test -f demo/run/weights/$(FINAL) || $(BIN)/blurdiff train --preset shapes-blur --run demo/run
	$(BIN)/blurdiff sample --run demo/run --n 64 --out demo/samples.png
	$(BIN)/blurdiff animate demo/reverse.gif --run demo/run
	$(BIN)/blurdiff animate demo/forward.gif --run demo/run --direction forward
	test -s demo/run/evaluations.jsonl || $(BIN)/blurdiff fid --run demo/run
	@echo "results: demo/samples.png, demo/reverse.gif and demo/forward.gif; the score is in demo/run/evaluations.jsonl"

$(filter-out demo/run/%,$(MODELS)): | install
	$(BIN)/blurdiff train --run $(firstword $(subst /weights, ,$@)) $(PRESET)

demo/noblur/weights/$(FINAL): PRESET := --preset shapes-noblur
demo/heat/weights/$(FINAL): PRESET := --preset shapes-heat
demo/eps/weights/$(FINAL): PRESET := --preset docs/sin2.yaml --set objective=eps
demo/run/weights/$(FINAL):
	$(MAKE) demo

# Every picture of README.md and docs/, except those of CIFAR-10, by the command in its caption; missing models are trained first.
docs: install $(MODELS)
	$(BIN)/blurdiff sample --run demo/run --n 64 --out docs/samples.png
	$(BIN)/blurdiff animate docs/reverse.gif --run demo/run --n 9 --frames 31 --scale 3
	$(BIN)/blurdiff animate docs/forward.gif --run demo/run --n 9 --frames 31 --scale 3 --direction forward
	$(BIN)/blurdiff animate docs/three.gif --run demo/run --compare demo/noblur --compare demo/heat --n 4 --scale 3 --frames 31 --labels
	$(BIN)/blurdiff animate docs/guess.png --run demo/run --show both --n 1 --strip --labels --seed 3
	$(BIN)/blurdiff animate docs/processes.png --preset docs/sin2.yaml --compare shapes-noblur --compare shapes-heat --direction forward --n 1 --size 64 --strip --labels
	$(BIN)/blurdiff animate docs/blurs.png --preset docs/blur5.yaml --compare docs/sin2.yaml --compare docs/blur60.yaml --direction forward --n 1 --size 64 --strip --labels --frames 7
	$(BIN)/blurdiff animate docs/paths.png --preset shapes-blur --compare docs/sin2.yaml --compare shapes-noblur --direction forward --n 1 --size 64 --strip --labels --frames 8
	$(BIN)/blurdiff sweep --run demo/run --samplers ancestral --steps 100 --out demo/ancestral.png
	$(BIN)/blurdiff sweep --run demo/run --samplers abm,ab2,dpmpp-2m,ddim,ancestral --steps 5,10,20,35 --out docs/sweep.png
	$(BIN)/blurdiff plot demo/run --out demo/plots --format png
	cp demo/plots/loss.png demo/plots/spectrum.png docs/
	$(BIN)/blurdiff diagnose --run demo/run --split test --out docs/diagnose.png
	$(BIN)/blurdiff diagnose --run demo/eps --split test --no-calibration --out docs/diagnose-eps.png
	$(BIN)/blurdiff sample --weights shapes-blur --n 64 --out docs/bundled.png

# The documents and the API reference as a site, in site/; a broken link or an unknown name is an error.
site: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[site]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The bundled model; takes an hour on one core.
bundle: install
	rm -rf demo/bundle demo/shapes-blur.safetensors
	$(BIN)/blurdiff train --preset docs/bundled.yaml --run demo/bundle
	$(BIN)/blurdiff export demo/shapes-blur.safetensors --run demo/bundle
	mv demo/shapes-blur.safetensors blurcli/bundled/

# The bundled model of photos; takes two hours on one core. Needs CIFAR-10, which is downloaded.
bundle-photos: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python scikit-image scikit-learn
	rm -rf demo/photos demo/photos-run demo/photos.safetensors
	$(BIN)/python docs/photos.py demo/photos
	$(BIN)/blurdiff train --preset docs/photos.yaml --data demo/photos --run demo/photos-run
	$(BIN)/blurdiff export demo/photos.safetensors --run demo/photos-run
	mv demo/photos.safetensors blurcli/bundled/

# Compare with the unofficial implementation, checked out at ORIGINAL: with and without blur, MINUTES of training each, on this
# machine. Results are in comparison/; a second call with more MINUTES continues the trainings.
MINUTES ?= 20
compare: install
	$(if $(ORIGINAL),,$(error ORIGINAL is not set: make compare ORIGINAL=path/to/blurring_diffusion))
	$(BIN)/python tests/gpu/compare.py $(ORIGINAL) comparison --minutes $(MINUTES) $(OPTIONS)

clean:
	rm -rf $(VENV) $(LOWEST) demo site build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache
	find blurcli tests -name __pycache__ -type d -prune -exec rm -rf {} +
