# make run, make test, make env, make compile, make locks: each one installs what it needs first.

VENV := .venv
BIN := $(VENV)/bin
LOCKS := containers/requirements
# The roles of the images, and of the stage that builds them.
ROLES := data launcher serve-tools train-cpu train-gpu train-tpu build
# The number of processes that run the tests: one more than two processors, since many tests wait for servers.
# JOBS=0 runs them in pytest's own process.
JOBS ?= 3
# The first Python on the PATH that the project supports; override with make PYTHON=...
PYTHON ?= $(shell for name in python3 python3.12 python3.11 python3.13; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& command -v $$name && break; done)
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
# With bytecode compiled on installation: TensorFlow takes 8 s to import without it and 3 s with it.
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --compile-bytecode
else
# --quiet twice: a source package of Kubeflow makes pip print a deprecation warning about pip itself.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
endif

.PHONY: help run test proof cluster-test bench env lint types compile check-compiled locks images images-push \
	images-test images-bench clean

help:
	@echo "make run      train on the digits sample: environment, installation, pipeline"
	@echo "make test     run the whole test suite, in three processes; JOBS= sets another number"
	@echo "make proof    run the tests that take minutes: accuracy and time on real photos"
	@echo "make cluster-test run the tests on the cluster that KUBECONFIG and KFP_ENDPOINT name"
	@echo "make bench    time training, converting, validating, serving and storage against other implementations, and deploying"
	@echo "make env      create .venv with everything a developer needs"
	@echo "make lint     run ruff; make types: run mypy"
	@echo "make compile  write pipelines/compiled/; make check-compiled: check that it is up to date"
	@echo "make locks    resolve the requirements again into $(LOCKS)/"
	@echo "make images   build the images of all roles; options: BASE=, WEIGHTS=, IMAGES=\"data train-cpu\""
	@echo "make images-push REGISTRY=HOST/REPOSITORY   push the images and write containers/images.lock"
	@echo "make images-test  build and test the images; needs a Docker engine; option: BASE="
	@echo "make images-bench measure image sizes and the seconds to the first line of output"
	@echo "make clean    remove .venv and caches"

run: $(VENV)/installed-run
	@$(BIN)/imgpipe run

test: env
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0

proof: env
	$(BIN)/python -m pytest -m proof -s

env: $(VENV)/installed-develop

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	.ci/check_words

types: env
	$(BIN)/mypy

compile: env
	$(BIN)/python compile.py

check-compiled: env
	$(BIN)/python compile.py --check

# One resolution for all supported Pythons. The run-time locks are constrained to the versions that are tested.
locks: env
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --extra cpu --extra serve --extra vertex --extra katib --extra onnx --extra openvino --extra beam --extra docker --extra test --group develop \
		pyproject.toml -o $(LOCKS)/develop-cpu.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --extra cpu --extra serve --extra onnx --group build -c $(LOCKS)/develop-cpu.txt \
		pyproject.toml -o $(LOCKS)/run-cpu.txt
	for role in $(ROLES); do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-header -c $(LOCKS)/develop-cpu.txt $(LOCKS)/roles/$$role.in -o $(LOCKS)/roles/$$role.txt || exit 1; \
	done
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-deps -c $(LOCKS)/develop-cpu.txt $(LOCKS)/roles/kfp.in -o $(LOCKS)/roles/kfp.txt

cluster-test: env
	$(BIN)/python -m pytest -m cluster tests/cluster

bench: env
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.convert
	$(BIN)/python -m benchmarks.validate
	$(BIN)/python -m benchmarks.serve
	$(BIN)/python -m benchmarks.deploy
	$(BIN)/python -m benchmarks.storage
	$(BIN)/python -m benchmarks.run

images: env
	$(BIN)/python -m containers.build $(if $(BASE),--base $(BASE)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(IMAGES)

images-push: env
	@test -n "$(REGISTRY)" || { echo "make images-push REGISTRY=HOST/REPOSITORY" >&2; exit 64; }
	$(BIN)/python -m containers.push --registry $(REGISTRY) $(IMAGES)

images-test: env
	$(BIN)/python -m containers.build $(if $(BASE),--base $(BASE)) data launcher serve-tools train-cpu
	IMAGES_BASE=$(BASE) $(BIN)/python -m pytest -m containers -n $(JOBS) --dist loadfile tests/containers

images-bench: env
	$(BIN)/python -m benchmarks.images $(if $(BASE),--base $(BASE))

clean:
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "imgpipe needs Python 3.11, 3.12 or 3.13 on the PATH, or make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# A lock lists every package, so dependencies are not resolved again (--no-deps): where another package requires
# a locked one with an extra, such as google-auth[pyopenssl], pip would take its newest release and then reject it
# because it has no hash. pip check verifies that a lock is complete.
# The developer's environment includes everything a run needs, so it touches both stamps.
$(VENV)/installed-run: $(LOCKS)/run-cpu.txt pyproject.toml | $(BIN)/python
	@echo "installing about 600 MB of packages (a few minutes on a slow connection)"
	@$(INSTALL) --no-deps --require-hashes -r $(LOCKS)/run-cpu.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@

$(VENV)/installed-develop: $(LOCKS)/develop-cpu.txt pyproject.toml | $(BIN)/python
	@echo "installing everything a developer needs"
	@$(INSTALL) --no-deps --require-hashes -r $(LOCKS)/develop-cpu.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@ $(VENV)/installed-run
