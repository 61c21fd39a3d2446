# The commands are listed by "make" alone. All need Go; the stack needs a JDK too.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools

# Go stamps the revision into the programs where git can tell it. A checkout that
# git does not trust, as another user's, builds without.
BUILDVCS := $(shell git status --short >/dev/null 2>&1 && echo auto || echo false)
# The flags are those of "go test", so that both use the same compiled packages.
GOBUILD := go build -buildvcs=$(BUILDVCS)

# Packages whose tests run under the race detector, where there is a C compiler.
# The others spend their time in the servers, and would take twice as long.
RACED := ./saga/... ./workflows/... ./activities/... ./starter/... ./internal/config/... ./internal/gather/... ./internal/ndjson/... ./internal/notify/...

# Tests that have a long form (ifSoaking).
SOAK := TestPausedSinks|TestTPCB|TestStreamsSurviveSIGKILL|TestSagasAndSQLOnTheSameKeys|TestKafkaAwayUnderLoad|TestAFileOfManyWrites|TestKillAmongBatches|TestKillBetweenTheCommitAndTheStart

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/capsaga, bin/capsaga-worker and bin/capsaga-local
	$(GOBUILD) -o $(BIN)/capsaga ./starter
	$(GOBUILD) -o $(BIN)/capsaga-worker ./worker/capsaga-worker
	$(GOBUILD) -o $(BIN)/capsaga-local ./deploy/local

.PHONY: demo
demo: build ## Start the local stack, write the demo's films and follow one write through it
	go run -buildvcs=false ./deploy/demo

.PHONY: down
down: ## Stop the demo's worker and stack; the data stays
	go run -buildvcs=false ./deploy/demo down
	$(GOBUILD) -o $(BIN)/capsaga-local ./deploy/local
	$(BIN)/capsaga-local down

.PHONY: test
test: build ## Run all tests on a stack of their own
	RACED="$(RACED)" .ci/with-stack .ci/tests

.PHONY: soak
soak: build ## Run the long forms of the fault tests: half an hour of outages, kills and load
	CAPSAGA_SOAK=1 .ci/with-stack go test -p 1 -count=1 -timeout 90m -v -run '$(SOAK)' ./internal/e2e

.PHONY: bench
bench: build ## Measure on the tests' stack: the benchmarks of all packages, then the writes beside what they replace
	@echo "Benchmarks on $$(nproc) cores, $$(go env GOOS)/$$(go env GOARCH), $$(go env GOVERSION), revision $$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
	.ci/with-stack .ci/bench

.PHONY: lint
lint: tools ## Check style, mistakes, determinism of the workflows and the layout's imports
	$(TOOLS)/golangci-lint run ./...
	go vet ./...
	$(TOOLS)/workflowcheck -config workflows/workflowcheck.yaml ./workflows/...
	.ci/imports

.PHONY: tools
tools:
	@[[ -x $(TOOLS)/golangci-lint ]] || echo "building the linters; the first time takes some minutes"
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= go -C tools install tool

.PHONY: clean
clean: ## Delete what was built; the stack's data stays
	rm -rf $(BIN)
