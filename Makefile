# One environment in .venv serves `run` and `test`; stamp files in it say what is installed, so that only what changed
# is installed again. Nothing but Python >= 3.11, make and a package index is needed.

PYTHON ?= python3
UV ?= uv
ARGS ?=
FILE ?=
ROWS ?=
DURATION ?=
ONLY ?=
PEERS ?=
WORKERS ?=
N ?=

VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := deploy/requirements
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
GENERATOR := build/protos-venv
# Object storage is tested with a real S3 server, which needs Go; without it those tests are skipped.
S3SERVER := $(if $(shell command -v go 2>/dev/null),build/s3server)
# So is the load generator of the benchmark.
GENERATOR_MODULES := $(if $(shell command -v go 2>/dev/null),build/.load-modules)
# Charts, alert rules and the Compose file are checked by tools of which three need Go; without it those checks are skipped.
TOOLS := build/deploy-tools
DEPLOY_TOOLS := $(TOOLS)/manifests/.installed $(if $(shell command -v go 2>/dev/null),$(TOOLS)/.built)
CODE := $(wildcard server client tests benchmarks examples deploy)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-long test-all test-trust test-matrix verify quick fix protos sync-client sync-client-check openapi openapi-check collection docs baseline release requirements demo bench faults clean \
  golden lint types subjects protos-check docker-check deploy-check

help: ## Says what there is
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1:\2/p' Makefile | awk -F: '{ printf "%-16s%s\n", $$1, $$2 }'

run: $(VENV)/.run $(VENV)/.editable ## Starts the service with bundled Postgres and Valkey [ARGS="--listen ..."]
	@$(BIN)/sessiond serve $(ARGS)

demo: $(VENV)/.run $(VENV)/.editable ## Shows the running service at work [FILE=conversations.jsonl]
	@$(BIN)/python -m examples.demo $(if $(FILE),"$(FILE)") $(ARGS)

# Tests wait for servers now and then: one worker more than there are processors keeps these busy.
TEST_WORKERS := $(or $(WORKERS),$(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1))))
TESTED := $(VENV)/.test $(VENV)/.editable $(S3SERVER) $(GENERATOR_MODULES)

test: $(TESTED) ## Runs all tests but the long ones [ARGS="-k name -x" WORKERS=3]
	@$(BIN)/python -m pytest -m "not long" -n $(TEST_WORKERS) --maxprocesses 8 --dist worksteal $(ARGS)

test-long: $(TESTED) $(DEPLOY_TOOLS) ## Runs the long tests, such as campaigns and other languages [ARGS="-k name -x"]
	@$(BIN)/python -m pytest -m "long or hypothesis" --hypothesis-profile thorough -n $(or $(WORKERS),0) $(ARGS)

test-all: test-long test ## Runs the long tests, then the others

test-trust: $(TESTED) ## Runs the tests N times in random orders and in parallel [N=10 WORKERS=3]
	@.ci/trust $(or $(N),10) $(TEST_WORKERS) $(ARGS)

test-matrix: $(TESTED) ## Runs migrations, stores, buses, caches and campaigns over other versions of Postgres and Redis [ONLY=postgres-14]
	@$(BIN)/python -m tests.matrix $(if $(ONLY),--only "$(ONLY)") $(ARGS)

bench: $(VENV)/.run $(VENV)/.editable ## Measures; needs Go [ROWS=get_session,append_1 DURATION=3 FILE=conversations.jsonl PEERS=1; OVERLOAD=1; FAIRNESS=1]
	@$(BIN)/python -m benchmarks$(if $(OVERLOAD),.overload)$(if $(FAIRNESS),.fairness) $(if $(ROWS),--rows "$(ROWS)") $(if $(DURATION),--duration "$(DURATION)") \
	  $(if $(FILE),--conversations "$(FILE)") $(if $(PEERS),--peers) $(ARGS)

verify: quick subjects protos-check sync-client-check openapi-check docker-check deploy-check ## Everything that CI checks beside the tests
	@echo "verify: all good"

quick: lint types ## The quick half of verify, which the pre-commit hook runs

fix: $(VENV)/.test ## Formats the code and repairs what can be repaired by itself
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

subjects:
	@$(PYTHON) .ci/subjects

protos: $(GENERATOR)/.installed ## Generates client/sessiond/v1 from protos/
	$(call generate,client)

sync-client: $(VENV)/.test ## Generates the synchronous client from the asynchronous one
	@$(BIN)/python -m deploy.sync_client

openapi: $(VENV)/.test $(VENV)/.editable ## Generates the OpenAPI document of the HTTP interface from its rules and the protos
	@$(BIN)/python -m deploy.openapi

collection: $(VENV)/.test $(VENV)/.editable ## Writes the requests of the HTTP interface for Postman and Bruno, into build
	@$(BIN)/python -m deploy.postman build/sessiond.postman_collection.json

docs: $(VENV)/.run $(VENV)/.editable ## Writes the table of docs/settings.md from the settings module
	@{ sed '/^| Flag/,$$d' docs/settings.md; $(BIN)/sessiond settings; } > docs/settings.md.new && mv docs/settings.md.new docs/settings.md

golden: $(VENV)/.test $(DEPLOY_TOOLS) ## Writes anew what the Helm chart renders, which a check compares
	@$(BIN)/python -m deploy.verify --golden

baseline: $(VENV)/.test ## Writes the image of protos/ that later versions must stay compatible with
	@mkdir -p protos/releases
	BUF_CACHE_DIR=build/buf $(BIN)/buf build protos --exclude-source-info \
	  --output protos/releases/$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml).binpb

release: $(VENV)/.test $(VENV)/.editable ## Checks, builds, tries and tags the version of pyproject.toml [DRY=1]
	@BUF_CACHE_DIR=build/buf $(BIN)/python -m deploy.release $(if $(DRY),--dry-run)

requirements: ## Compiles the pinned requirements from pyproject.toml; needs uv [UV=path] [ARGS=--upgrade]
	$(call compile,pyproject.toml --extra server --extra objects --extra encryption --extra summaries --extra telemetry,server)
	$(call compile,pyproject.toml --extra embedded --extra objects --extra encryption --extra summaries --extra telemetry,embedded)
	$(call compile,pyproject.toml --extra dev,dev)
	$(call compile,--constraint $(REQUIREMENTS)/dev.txt $(REQUIREMENTS)/build.in,build)
	$(call compile,$(REQUIREMENTS)/protos.in,protos)
	$(call compile,$(REQUIREMENTS)/manifests.in,manifests)
	$(call compile,$(REQUIREMENTS)/matrix.in,matrix)

faults: $(TESTED) ## Hurts the service under load and counts what was lost [KIND=all N=20 SEED= RATE=500]
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.faults $(if $(KIND),--kind "$(KIND)") $(if $(N),-n "$(N)") $(if $(SEED),--seed "$(SEED)") \
	  $(if $(RATE),--rate "$(RATE)") $(ARGS)

clean: ## Removes what was built, the environment too; never the service's data
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

lint: $(VENV)/.test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(VENV)/.test $(VENV)/.editable
	$(BIN)/mypy $(CODE)

# The interface stays compatible with the last release, whose image is committed so that a clone without tags has it.
protos-check: $(VENV)/.test $(GENERATOR)/.installed
	BUF_CACHE_DIR=build/buf $(BIN)/buf lint protos
	BUF_CACHE_DIR=build/buf $(BIN)/buf breaking protos --against $$(ls protos/releases/*.binpb | sort -V | tail -n 1)
	@rm -rf build/generated
	$(call generate,build/generated)
	diff -r -x __pycache__ -x __init__.py build/generated/sessiond/v1 client/sessiond/v1 || \
	  { echo "client/sessiond/v1 is not what protos/ generates: run make protos"; exit 1; }

sync-client-check: $(VENV)/.test
	@$(BIN)/python -m deploy.sync_client --check

openapi-check: $(VENV)/.test $(VENV)/.editable
	@$(BIN)/python -m deploy.openapi --check

docker-check: $(VENV)/.test
	$(BIN)/hadolint Dockerfile

deploy-check: $(VENV)/.test $(DEPLOY_TOOLS)
	$(BIN)/python -m deploy.verify

define generate
	@mkdir -p $(1)
	PATH="$(CURDIR)/$(GENERATOR)/bin:$$PATH" $(GENERATOR)/bin/python -m grpc_tools.protoc -Iprotos \
	  --python_out=$(1) --mypy_out=quiet:$(1) protos/sessiond/v1/*.proto
	PATH="$(CURDIR)/$(GENERATOR)/bin:$$PATH" $(GENERATOR)/bin/python -m grpc_tools.protoc -Iprotos \
	  --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) protos/sessiond/v1/*_service.proto
endef

define compile
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(ARGS) \
	  --output-file $(REQUIREMENTS)/$(2).txt $(1)
endef

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sessiond needs Python 3.11 or newer, as python3 or as make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.python $(REQUIREMENTS)/build.txt $(REQUIREMENTS)/embedded.txt
	@echo "installing into $(VENV) what running needs"
	@$(PIP) install --require-hashes -r $(REQUIREMENTS)/build.txt -r $(REQUIREMENTS)/embedded.txt
	@touch $@

# dev.txt holds all that embedded.txt and build.txt hold, in the same versions.
$(VENV)/.test: $(VENV)/.python $(REQUIREMENTS)/dev.txt
	@echo "installing into $(VENV) what testing needs"
	@$(PIP) install --require-hashes -r $(REQUIREMENTS)/dev.txt
	@touch $@ $(VENV)/.run

build/s3server: tests/blobs/s3server/go.sum
	@echo "building the S3 server of the tests; once, for a minute or two"
	@mkdir -p build
	@(cd tests/blobs/s3server && go build -trimpath -o $(CURDIR)/$@ github.com/versity/versitygw/cmd/versitygw) 2>$@.log || \
	  { grep -v "^go: downloading" $@.log; echo "it cannot be built: the tests that need it are skipped"; }

# Service discovery is left out of promtool: two thirds of what it would be built from.
$(TOOLS)/.built: tests/deploy/tools/go.sum tests/deploy/tools/compose-config/main.go
	@echo "building the tools that check deploy/: helm, promtool; once, for some minutes"
	@mkdir -p $(TOOLS)
	@(cd tests/deploy/tools && for tool in helm.sh/helm/v4/cmd/helm github.com/prometheus/prometheus/cmd/promtool ./compose-config; do \
	  go build -trimpath -tags remove_all_sd -ldflags='-s -w' -o $(CURDIR)/$(TOOLS)/$$(basename $$tool) $$tool || exit 1; done) 2>$@.log \
	  && touch $@ || { grep -v "^go: downloading" $@.log; echo "they cannot be built: what needs them is skipped"; }

$(TOOLS)/manifests/.installed: $(REQUIREMENTS)/manifests.txt
	@echo "installing into $(TOOLS)/manifests the schemas of Kubernetes; once"
	@mkdir -p $(TOOLS)
	@$(PYTHON) -m venv $(TOOLS)/manifests
	@$(TOOLS)/manifests/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
	  -r $(REQUIREMENTS)/manifests.txt
	@touch $@

build/.load-modules: benchmarks/load/go.sum
	@echo "fetching the modules of the load generator; once"
	@mkdir -p build
	@(cd benchmarks/load && go mod download) 2>$@.log && touch $@ || \
	  { grep -v "^go: downloading" $@.log; echo "they cannot be had: the tests that need the load generator are skipped"; }

$(VENV)/.editable: pyproject.toml $(VENV)/.python
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(GENERATOR)/.installed: $(REQUIREMENTS)/protos.txt
	@echo "installing into $(GENERATOR) what generating needs"
	@$(PYTHON) -m venv $(GENERATOR)
	@$(GENERATOR)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
	  -r $(REQUIREMENTS)/protos.txt
	@touch $@
