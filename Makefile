# make reproduce   the demo study, from images to report          make test   every test
# Both need Python 3.11 or newer, and make .venv from the hash-pinned lock when it is missing or out of date.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
PYTHON ?= python3
CORES ?= all
STUDY ?= demo
VENV := .venv
STORE := sqlite:///mlflow/mlflow.db
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: reproduce test data check docs diagram dag atlas readme mlflow mlflow-pictures publish bench gpu lock
reproduce: $(VENV)/.synced
	@echo "How far it is, in a second terminal:  .venv/bin/hirl status $(STUDY)"
	snakemake --cores $(CORES) --config study=$(STUDY)
	@echo "Report:  results/$(STUDY)/report.html"
	@test ! -f results/$(STUDY)/atlas.html || echo "Atlas:   results/$(STUDY)/atlas.html"
	@echo "MLflow:  make mlflow"

# A worker per core, each with one thread and 1.5 GB; a file's tests stay together, so that they share what they prepare.
test: $(VENV)/.synced data
	pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

data: | $(VENV)/.synced
	dvc pull --quiet data.dvc

# Style, types and words, in about a minute.
check: $(VENV)/.synced
	ruff check
	ruff format --check
	snakefmt --check workflow
	mypy src/hirl
	codespell
	pytest tests/workflow/test_style.py tests/test_layout.py

# The pages of docs/ as a site in scratch/site; a broken link is an error.
docs: $(VENV)/.synced
	mkdocs build --strict --quiet
	@echo "Pages:  scratch/site/index.html"

# HIRL in one picture.
diagram: $(VENV)/.synced
	python workflow/draw_hirl.py docs/images/hirl.svg

# The picture of the rules.
dag: $(VENV)/.synced
	snakemake --rulegraph mermaid-js 2> /dev/null | python workflow/draw_dag.py docs/images/workflow.svg

# The pictures of docs/atlas.md, from the page of a finished demo; this needs an installed Chromium or Chrome.
atlas: $(VENV)/.synced
	python workflow/show_atlas.py results/demo/atlas.html docs/images

# The demo's results in README.md and docs/, from a finished study.
readme: $(VENV)/.synced
	python workflow/show_results.py results/demo README.md docs/results_demo.md docs/images

# Copies what the store lacks, prints where each study is shown, and serves the pages until Ctrl-C.
mlflow: $(VENV)/.synced
	hirl track sync --results $(or $(patsubst %/runs,%,$(wildcard results/*/runs)),results/$(STUDY)) --uri $(STORE)
	mlflow ui --backend-store-uri $(STORE) --workers 1

# The pictures of docs/mlflow.md, from a finished demo; this needs an installed Chromium or Chrome.
mlflow-pictures: $(VENV)/.synced
	python workflow/show_mlflow.py results/demo docs/images

publish: $(VENV)/.synced
	snakemake --cores $(CORES) --config study=$(STUDY) -- publish

# docs/performance.md, written from every benchmark; some again: make bench BENCHMARKS="knn kmeans"
BENCHMARKS ?= $(filter-out common page recipes gpu%,$(basename $(notdir $(wildcard benchmarks/*.py))))
bench: $(VENV)/.synced
	rm -rf scratch/benchmarks
	for name in $(BENCHMARKS); do \
		echo "== $$name"; python benchmarks/$$name.py --json scratch/benchmarks/$$name.json; done
	python benchmarks/page.py scratch/benchmarks

# docs/performance_gpu.md, from one card in nine minutes; it makes no .venv and needs no network.
gpu:
	PYTHONPATH=src$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) benchmarks/gpu.py $(if $(DATA),--data $(DATA))

lock: $(VENV)/.synced
	uv pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
		--no-header --no-annotate --quiet -o requirements.lock

# uv itself comes from the lock: the new environment's pip installs it.
$(VENV)/.synced: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " \
		+ sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	@echo "Making $(VENV) from requirements.lock (6.5 GB, most of it CUDA libraries)"
	@$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt
	@pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	@uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	@uv pip install --quiet --no-deps --no-build-isolation --editable .
	@python -m compileall -q src
	@touch $@
