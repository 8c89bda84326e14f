# Everything that a developer types. Needs Go, git and make; what else is there is used: a C compiler for NVML and
# the race detector, Python and npm for the tests with the Hub's own clients. What is missing is said aloud.
# What takes long to build (control plane, tools, virtual environment) is built once, pinned, under $(CACHE).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stoker
TOOLS := $(CACHE)/tools
REPORTS ?= $(CACHE)/reports

# Tools, pinned. `go install` builds them with this machine's Go.
GOLANGCI_LINT_VERSION := v2.15.0
GOTESTSUM_VERSION := v1.13.0
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
GOTESTSUM := $(TOOLS)/gotestsum-$(GOTESTSUM_VERSION)/gotestsum

# NVML's symbols are looked up when they are called: bound at start, a machine without a driver could not run stoker.
LDFLAGS := -X main.version=$(VERSION) -extldflags=-Wl,-z,lazy
export CGO_CFLAGS := -O2 -Wno-deprecated-declarations

# Left out: what only other clients of Google's need than the one for buckets, and a page of gRPC's traces.
TAGS := -tags disable_grpc_modules,grpcnotrace

# Without a C compiler NVML is a stub and the race detector cannot be built.
HAVE_CC := $(shell command -v $$(go env CC) >/dev/null 2>&1 && echo yes)
RACE := $(if $(HAVE_CC),-race)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/stoker
	@test -n "$(HAVE_CC)" || echo "no C compiler: stoker is built without NVML and will know no real GPUs"
	go build $(TAGS) -trimpath -buildvcs=false -ldflags "-s -w $(LDFLAGS)" -o bin/stoker ./cmd/stoker

.PHONY: demo
demo: build ## show the whole job on this machine, in about 20 s (KEEP=1 leaves it up)
	@echo "building the demo (the first time: some minutes, then cached)"
	@go -C test build -buildvcs=false -o ../bin/demo ./demo
	@bin/demo -stoker bin/stoker

.PHONY: control-plane
control-plane: ## build the control plane that tests and demo run (about 8 minutes, once)
	@go -C test run -buildvcs=false ./cluster/build

.PHONY: test
test: test-root test-fuzz test-cluster ## run every test

.PHONY: test-root
test-root: $(GOTESTSUM) clients servers ## unit, driver, store, command line and real-client tests
	@test -n "$(HAVE_CC)" || echo "SKIPPED: no C compiler, so no race detector and no NVML tests"
	@mkdir -p $(REPORTS)
	@. $(CACHE)/clients.env && STOKER_TEST_VERSITYGW=$(VERSITYGW) STOKER_TEST_FAKE_GCS=$(FAKE_GCS) \
		$(GOTESTSUM) --format pkgname --jsonfile $(REPORTS)/root.json -- $(TAGS) $(RACE) -ldflags "-extldflags=-Wl,-z,lazy" -timeout 20m ./...

.PHONY: test-cluster
test-cluster: $(GOTESTSUM) control-plane ## tests against the real control plane, and of the charts
	@command -v promtool >/dev/null || echo "SKIPPED: no prometheus and promtool (Debian's package prometheus), so no tests of rules, dashboards and queries"
	@mkdir -p $(REPORTS)
	@cd test && $(GOTESTSUM) --format pkgname --jsonfile $(REPORTS)/cluster.json -- \
		-ldflags "-extldflags=-Wl,-z,lazy" -timeout 30m ./...

# Every fuzzer, as DIRECTORY FUNCTION.
FUZZERS := grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9]*' agent cmd fetcher gpu printable | sed 's|/[^/]*:func | |' | sort -u

# The binaries are those of test-root, linked once a package: `go test -fuzz` would build all dependencies anew, and
# spend the second on what was found before. One input that fails is kept below the package's testdata/fuzz. A deadline
# that is exceeded, without an input, is go.dev/issue/75804.
.PHONY: test-fuzz
test-fuzz: ## run every fuzzer for a second, from its seeds
	@rm -rf bin/fuzz && mkdir -p bin/fuzz && $(FUZZERS) > bin/fuzz/all
	@go test $(TAGS) $(RACE) -ldflags "-extldflags=-Wl,-z,lazy" -c -o bin/fuzz/ $$(cut -d' ' -f1 bin/fuzz/all | sort -u | sed 's|^|./|')
	@xargs -L 1 -P $$(getconf _NPROCESSORS_ONLN) sh -c 'log=$$PWD/bin/fuzz/$$1-$$$$ binary=$$PWD/bin/fuzz/$${0##*/}.test; cd $$0; \
		$$binary -test.run "^$$" -test.fuzz "^$$1\$$" -test.fuzztime 1s -test.fuzzminimizetime 50x -test.parallel 1 -test.fuzzcachedir $$log.cache > $$log 2>&1 || \
		{ grep -qx "    context deadline exceeded" $$log && ! grep -q "Failing input" $$log; } || { echo "$$0 $$1 failed:"; cat $$log $$(sed -n "s/.*Failing input written to //p" $$log); exit 1; } >&2' < bin/fuzz/all
	@echo "$$(wc -l < bin/fuzz/all) fuzzers found nothing in a second each"

.PHONY: fit-report
fit-report: ## print what stoker fit and other estimators say of public logs of vLLM, and how far they are off
	@go test ./gpu/sizing -count 1 -run 'TestFitReport|TestFitEstimators' -v | sed -n 's/^        |/|/p; s/^        $$//p; /^--- FAIL\|^FAIL/p'

.PHONY: fit-estimators
fit-estimators: clients ## ask the other estimators again, and write their answers and the table of docs/fit.md
	@. $(CACHE)/clients.env && go test ./gpu/sizing -count 1 -run TestEstimators -update && \
		go test ./gpu/sizing -count 1 -run TestFitEstimators -update

# vLLM's own code, of which nothing is installed: the release by which files are chosen and configurations found, and whose
# rules of sizing hold by default; fit-rules reads the one of the public logs, too.
VLLM_VERSION := 0.33.0
VLLM_VERSIONS ?= 0.19.0 $(VLLM_VERSION)
VLLM_SOURCES := $(CACHE)/vllm

.PHONY: fit-rules
fit-rules: $(addprefix $(VLLM_SOURCES)/,$(VLLM_VERSIONS)) ## hold stoker fit's rules against releases of vLLM (350 MB each, once; VLLM_VERSIONS=)
	@STOKER_TEST_VLLM_RELEASES=$(VLLM_SOURCES) go test ./gpu/sizing -count 1 -run TestRulesOfReleases -v

# How long each fuzzer runs, and which: make fuzz FUZZ=fetcher/ FUZZTIME=1m. Unbounded, most of the time goes into
# making shorter what finds nothing.
FUZZTIME ?= 10m
FUZZ ?= .

.PHONY: fuzz
fuzz: ## run every fuzzer for FUZZTIME=10m, one after the other; FUZZ= picks some by DIRECTORY FUNCTION
	@mkdir -p bin; $(FUZZERS) | grep -e '$(FUZZ)' > bin/fuzzers || \
		{ echo "no fuzzer is called like $(FUZZ)" >&2; exit 1; }
	@failed=; while read -r dir name; do \
		echo "[$$(date +%T)] $$dir $$name, for $(FUZZTIME)"; \
		go test $(TAGS) ./$$dir -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x < /dev/null || failed="$$failed $$dir/$$name"; \
	done < bin/fuzzers; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

# How long soak walks, and whether a walk is taken again.
STEPS ?= 1000
SEED ?= 0

.PHONY: soak
soak: control-plane ## walk the agent through faults, as root: three walks of STEPS=1000 steps; SEED= takes one again
	cd test && go test ./faults -run TestWalk -v -timeout 24h -steps $(STEPS) -seed $(SEED)

AGENTS ?= 4
.PHONY: soak-shared
soak-shared: control-plane ## walk AGENTS=4 agents that share a volume through faults, as root: STEPS=1000 steps; SEED= takes a walk again, MOUNT= other mount options
	cd test && go test ./sharedfaults -run TestWalk -v -timeout 24h -steps $(STEPS) -seed $(SEED) -agents $(AGENTS)

# Real nodes: what is built from source, beside Debian's packages (test/node/hindrance.sh). Only root can run them.
CONTAINERD_VERSION := v2.4.2
KUBERNETES_VERSION := v1.37.2
HELM_VERSION := v4.3.1
CONTAINERD := $(TOOLS)/containerd-$(CONTAINERD_VERSION)
KUBELET := $(TOOLS)/kubelet-$(KUBERNETES_VERSION)/kubelet
HELM := $(TOOLS)/helm-$(HELM_VERSION)/helm
# The bases that the Dockerfile names come from registries; local stands for them by Debian's packages.
BASES ?= registry
BUILD_IMAGE := bin/build-image -dir $(CACHE)/e2e/buildah -version $(VERSION)

.PHONY: image
image: bin/build-image ## build the image with buildah, as root, into bin/image; BASES=local needs no registry
	@rm -rf bin/image bin/image.tar
	@$(if $(filter local,$(BASES)),go mod download)
	@$(BUILD_IMAGE) $(if $(filter local,$(BASES)),-local-bases) -name $(IMAGE) -out bin/image
IMAGE ?= localhost/stoker:dev

.PHONY: bin/build-image
bin/build-image:
	@go -C test build -buildvcs=false -o ../bin/build-image ./node/image/build

.PHONY: e2e
e2e: ## the chart and the image on two real nodes: containerd, kubelet, pods; as root (RUN= picks a test)
	@$(MAKE) --no-print-directory node-parts
	@$(NODE_TEST) -v -timeout 40m -run '$(or $(RUN),.)' ./node

.PHONY: bench-node
bench-node: ## how long pods take to readable weights, warm and cold (about 2 minutes, as root)
	@$(MAKE) --no-print-directory node-parts
	@$(NODE_TEST) -run '^$$' -bench . -benchtime 1x -timeout 40m ./node -rounds $(ROUNDS)

NODE_TEST = . $(CACHE)/clients.env && STOKER_E2E_CONTAINERD=$(CONTAINERD) STOKER_E2E_KUBELET=$(KUBELET) STOKER_E2E_HELM=$(HELM) \
	STOKER_E2E_IMAGE=$(CURDIR)/bin/image.tar STOKER_E2E_TOOL=$(CURDIR)/bin/e2e/tool-image.tar exec go -C test test -tags e2e -count 1 -ldflags "-extldflags=-Wl,-z,lazy"

# What the tests on real nodes need, each part with the time at which it is begun.
BEGIN = echo "[$$(date +%T)]"
.PHONY: node-parts
node-parts:
	@hindrance=$$(test/node/hindrance.sh); test -z "$$hindrance" || { echo "real nodes cannot run here: $$hindrance" >&2; exit 1; }
	@$(BEGIN) "control plane" && $(MAKE) --no-print-directory control-plane
	@$(BEGIN) "containerd, kubelet, Helm" && $(MAKE) --no-print-directory --silent $(CONTAINERD)/ctr $(KUBELET) $(HELM)
	@$(BEGIN) "clients in Python" && $(MAKE) --no-print-directory --silent clients
	@$(BEGIN) "images"; rm -rf bin/e2e && mkdir -p bin/e2e
	@$(MAKE) --no-print-directory image BASES=local IMAGE=localhost/stoker:e2e 2>bin/image.log || { tail -n 40 bin/image.log >&2; exit 1; }
	@CGO_ENABLED=0 go -C test build -buildvcs=false -trimpath -ldflags "-s -w" -o ../bin/e2e/tool ./node/tool
	@$(BUILD_IMAGE) -program bin/e2e/tool -name localhost/tool:e2e -out bin/e2e/tool-image 2>>bin/image.log || { tail -n 40 bin/image.log >&2; exit 1; }
	@$(BEGIN) "tests"

# Machines with kernels of their own: the kernel and the root directory are made once.
MACHINE = $(CACHE)/machine/$(shell test/machine/build.sh key)
MACHINE_TEST = STOKER_E2E_UML_KERNEL=$(MACHINE)/kernel STOKER_E2E_UML_ROOT=$(MACHINE)/root exec go -C test test -tags e2e -count 1

.PHONY: e2e-machine
e2e-machine: control-plane ## machines with kernels of their own, and tests on cgroup v2 and project quotas; about 5 minutes, as root (RUN= picks a test)
	@$(MAKE) --no-print-directory machine-parts
	@$(MACHINE_TEST) -v -p 1 -timeout 20m -run '$(or $(RUN),.)' ./machine ./kernels

.PHONY: e2e-nfs
e2e-nfs: control-plane ## stores on a real NFS server, and agents that share one, in about 12 minutes, as root (RUN=, SKIP= pick tests)
	@$(MAKE) --no-print-directory --silent $(VERSITYGW)
	@$(MAKE) --no-print-directory machine-parts
	@STOKER_TEST_VERSITYGW=$(VERSITYGW) $(MACHINE_TEST) -v -timeout 40m -run '$(or $(RUN),.)' -skip '$(or $(SKIP),^$$)' ./nfs

.PHONY: soak-nfs
soak-nfs: control-plane ## walk three agents on machines that share an NFS export through faults, as root: STEPS=1000 steps; SEED= takes a walk again, MOUNT= other mount options
	@$(MAKE) --no-print-directory machine-parts
	@$(MACHINE_TEST) -v -timeout 48h ./nfs -run TestWalk -steps $(STEPS) -seed $(SEED) $(if $(MOUNT),-mount $(MOUNT))

.PHONY: machine-parts
machine-parts:
	@hindrance=$$(test/machine/hindrance.sh); test -z "$$hindrance" || { echo "no machines can be booted here: $$hindrance" >&2; exit 1; }
	@$(BEGIN) "kernel and root directory (about 80 s, once)" && test/machine/build.sh $(CACHE)/machine >/dev/null
	@$(BEGIN) "tests"

# What scales charts/vllm: KEDA, of the version whose definitions the charts' tests read, the Prometheus adapter, and
# metrics-server, by which HPAs scale on CPU. Each is built inside of its own module, whose go.mod and go.sum pin the rest.
KEDA_VERSION := $(shell sed -n 's/.*KEDAVersion *= "\(.*\)"/\1/p' test/charts/crds.go)
PROMETHEUS_ADAPTER_VERSION := v0.12.0
METRICS_SERVER_VERSION := v0.9.0
KEDA := $(TOOLS)/keda-$(KEDA_VERSION)
PROMETHEUS_ADAPTER := $(TOOLS)/prometheus-adapter-$(PROMETHEUS_ADAPTER_VERSION)/adapter
METRICS_SERVER := $(TOOLS)/metrics-server-$(METRICS_SERVER_VERSION)/metrics-server

.PHONY: e2e-serving
e2e-serving: control-plane ## charts/vllm scaled by a real KEDA, Prometheus adapter and HPA, in about 35 minutes (RUN= picks a test)
	@command -v prometheus >/dev/null || { echo "these tests miss prometheus; Debian has it as prometheus" >&2; exit 1; }
	@$(MAKE) --no-print-directory --silent $(KEDA)/adapter $(PROMETHEUS_ADAPTER) $(METRICS_SERVER)
	@STOKER_E2E_KEDA=$(KEDA) STOKER_E2E_PROMETHEUS_ADAPTER=$(PROMETHEUS_ADAPTER) STOKER_E2E_METRICS_SERVER=$(METRICS_SERVER) \
		go -C test test -tags e2e -count 1 -v -timeout 60m -run '$(or $(RUN),TestScaling|TestRecipe|TestAdapter$$|TestCPU)' ./serving

$(KEDA)/adapter: MODULE := github.com/kedacore/keda/v2@$(KEDA_VERSION)
$(KEDA)/adapter: PROGRAMS := ./cmd/operator ./cmd/adapter
$(PROMETHEUS_ADAPTER): MODULE := sigs.k8s.io/prometheus-adapter@$(PROMETHEUS_ADAPTER_VERSION)
$(PROMETHEUS_ADAPTER): PROGRAMS := ./cmd/adapter
$(METRICS_SERVER): MODULE := sigs.k8s.io/metrics-server@$(METRICS_SERVER_VERSION)
$(METRICS_SERVER): PROGRAMS := ./cmd/metrics-server
$(KEDA)/adapter $(PROMETHEUS_ADAPTER) $(METRICS_SERVER):
	@echo "building $(MODULE) (some minutes, once; KEDA about 10 on 2 cores)"
	@new=$(@D).$$$$; mkdir -p $$new && cd "$$(go mod download -json $(MODULE) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" && \
		GOFLAGS= GOWORK=off CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o $$new/ $(PROGRAMS) || \
		{ rm -rf $$new; exit 1; }; rm -rf $(@D) && mv $$new $(@D)

# Built beside their place and moved there whole, as the servers are.
$(CONTAINERD)/ctr:
	@echo "building containerd $(CONTAINERD_VERSION) (some minutes, once)"
	@new=$(@D).$$$$; GOBIN=$$new GOFLAGS= go install $(addprefix github.com/containerd/containerd/v2/cmd/,$(addsuffix \
		@$(CONTAINERD_VERSION),containerd containerd-shim-runc-v2 ctr)) || { rm -rf $$new; exit 1; }; rm -rf $(@D) && mv $$new $(@D)

$(KUBELET):
	@echo "building the kubelet $(KUBERNETES_VERSION) (some minutes, once)"
	@new=$(CURDIR)/bin/kubelet.$$$$; cd test/controlplane && CGO_ENABLED=0 GOWORK=off go build -mod=readonly -buildvcs=false -trimpath -ldflags \
		"-s -w $(foreach v,gitVersion=$(KUBERNETES_VERSION) gitMajor=1 gitMinor=37,-X k8s.io/component-base/version.$v)" -o $$new ./kubelet && \
		mkdir -p $(@D) && mv $$new $@

$(HELM):
	@echo "building helm $(HELM_VERSION) (some minutes, once)"
	@new=$(@D).$$$$; GOBIN=$$new GOFLAGS= CGO_ENABLED=0 go install helm.sh/helm/v4/cmd/helm@$(HELM_VERSION) || { rm -rf $$new; exit 1; }; \
		rm -rf $(@D) && mv $$new $(@D)

# What bench runs, and how much of it. Only a full run (2 GiB, 7 rounds or more) writes bench/README.md.
SIZE ?= 2GiB
ROUNDS ?= 7
PARTS ?= hub,s3,memory,link
LINK_SIZE ?= 64MiB
LINK_ROUNDS ?= 3
BENCH_DIR ?= $(CACHE)/bench

.PHONY: bench
bench: build ## compare with other tools, in about 40 minutes (SIZE, ROUNDS, PARTS make it shorter; LINK_SIZE, LINK_ROUNDS)
	@for peer in $(VERSITYGW) $(S5CMD) $(RCLONE) $(if $(HAVE_PYTHON),$(VENV)/ready); do \
		test -e $$peer || $(MAKE) --no-print-directory $$peer || echo "MISSING: $$peer could not be built" >&2; done
	@go build -trimpath -buildvcs=false -ldflags "-s -w" -o bin/floor ./bench/floor
	@go build -trimpath -buildvcs=false -ldflags "-s -w" -o bin/bench ./bench
	@bin/bench -readme bench/README.md -size $(SIZE) -rounds $(ROUNDS) -parts $(PARTS) -dir $(BENCH_DIR) -link-size $(LINK_SIZE) -link-rounds $(LINK_ROUNDS) \
		-versitygw $(VERSITYGW) -s5cmd $(S5CMD) -rclone $(RCLONE) -python $(VENV)/bin/python

.PHONY: bench-agent
bench-agent: control-plane ## what the agent costs a node, idle and pulling (about 4 minutes)
	@go -C test test ./agent -run '^$$' -bench . -benchtime 1x -timeout 20m

.PHONY: bench-shared
bench-shared: control-plane ## 32 agents on one volume, that one of them writes or none: bytes, seconds, writes to the API server (about two minutes)
	@go -C test test ./shared -run '^$$' -bench . -benchtime 1x -timeout 20m

.PHONY: bench-placement
bench-placement: control-plane ## where pods land, by weights; writes docs/placement.md (about 40 minutes with ROUNDS=3)
	@go -C test test ./placement -run '^$$' -bench . -benchtime 1x -timeout 120m -v -rounds $(ROUNDS) -update

.PHONY: lint
lint: $(GOLANGCI_LINT) ## run the linters on all modules
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd test && $(GOLANGCI_LINT) run --allow-parallel-runners --build-tags e2e --config ../.golangci.yml ./...
	@# The control plane's one file is checked by its build; type-checking Kubernetes once more would take as long.
	@test -z "$$(gofmt -l test/controlplane)" || { echo "run gofmt on test/controlplane" >&2; exit 1; }

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## format the code
	$(GOLANGCI_LINT) fmt ./...
	cd test && $(GOLANGCI_LINT) fmt --config ../.golangci.yml ./...

.PHONY: clean
clean: ## remove what was built here; the cache stays
	rm -rf bin

# The sources' own clients, for the tests that hold stand-ins, drivers and the store against them.
REQUIREMENTS := fetcher/fetchertest/requirements.txt
VENV := $(CACHE)/venv-$(shell cksum < $(REQUIREMENTS) | cut -d' ' -f1)
# transformers with models, in an environment of its own: it wants an older client of the Hub's.
JAX_REQUIREMENTS := fetcher/fetchertest/requirements-jax.txt
JAX_VENV := $(CACHE)/venv-jax-$(shell cksum < $(JAX_REQUIREMENTS) | cut -d' ' -f1)
NPM_PACKAGE := @huggingface/hub@2.17.5
NPM_DIR := $(CACHE)/npm-hub-2.17.5
HAVE_PYTHON := $(shell python3 -c 'import sys, venv, ensurepip; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
HAVE_JAX := $(if $(HAVE_PYTHON),$(shell python3 -c 'import platform, sys; print("yes" if sys.version_info < (3, 14) and platform.machine() in ("x86_64", "aarch64") else "")'))
HAVE_NPM := $(shell command -v npm >/dev/null 2>&1 && echo yes)

.PHONY: clients
clients:
	@mkdir -p $(CACHE); : > $(CACHE)/clients.env
ifeq ($(HAVE_PYTHON),yes)
	@$(MAKE) --no-print-directory $(VENV)/ready
	@echo "export STOKER_TEST_PYTHON=$(VENV)/bin/python" >> $(CACHE)/clients.env
	@$(MAKE) --no-print-directory $(VLLM_SOURCES)/$(VLLM_VERSION)
	@echo "export STOKER_TEST_VLLM=$(VLLM_SOURCES)/$(VLLM_VERSION) STOKER_TEST_VLLM_RELEASES=$(VLLM_SOURCES)" >> $(CACHE)/clients.env
else
	@echo "SKIPPED: no Python 3.11 with venv, so no tests with huggingface_hub, boto3, moto and vLLM's code"
endif
ifeq ($(HAVE_JAX),yes)
	@$(MAKE) --no-print-directory $(JAX_VENV)/ready
	@echo "export STOKER_TEST_PYTHON_JAX=$(JAX_VENV)/bin/python" >> $(CACHE)/clients.env
else
	@echo "SKIPPED: no Python 3.11 to 3.13 on x86-64 or ARM, so no tests in which transformers loads a model"
endif
ifeq ($(HAVE_NPM),yes)
	@$(MAKE) --no-print-directory $(NPM_DIR)/ready
	@echo "export STOKER_TEST_NPM=$(NPM_DIR)" >> $(CACHE)/clients.env
else
	@echo "SKIPPED: no npm, so no tests with @huggingface/hub"
endif

$(VENV)/ready:
	@echo "making a virtual environment with the clients of the Hub, S3 and Google, transformers, moto and estimators in $(VENV) (about a minute)"
	@rm -rf $(VENV) && python3 -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	@touch $@

$(VLLM_SOURCES)/%:
	@echo "taking vLLM $*'s Python files to $@ (350 MB to download, once)"
	@python3 gpu/sizing/vllmsource.py $(VLLM_SOURCES) $*

$(JAX_VENV)/ready:
	@echo "making a virtual environment with transformers and JAX in $(JAX_VENV) (160 MB to download)"
	@rm -rf $(JAX_VENV) && python3 -m venv $(JAX_VENV)
	@$(JAX_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(JAX_REQUIREMENTS)
	@touch $@

$(NPM_DIR)/ready:
	@echo "installing $(NPM_PACKAGE) in $(NPM_DIR)"
	@rm -rf $(NPM_DIR) && mkdir -p $(NPM_DIR) && npm install --silent --no-audit --no-fund --prefix $(NPM_DIR) $(NPM_PACKAGE)
	@touch $@

# Real servers, for the tests of buckets. Built beside their place and moved there whole: two clones may want them at
# once.
VERSITYGW_VERSION := v1.8.0
FAKE_GCS_VERSION := v1.56.1
VERSITYGW := $(TOOLS)/versitygw-$(VERSITYGW_VERSION)/versitygw
FAKE_GCS := $(TOOLS)/fake-gcs-server-$(FAKE_GCS_VERSION)/fake-gcs-server

.PHONY: servers
servers: $(VERSITYGW) $(FAKE_GCS) ## build the S3 and GCS servers that tests run (about 5 minutes, once)

$(VERSITYGW): SERVER := github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)
$(FAKE_GCS): SERVER := github.com/fsouza/fake-gcs-server@$(FAKE_GCS_VERSION)
$(VERSITYGW) $(FAKE_GCS):
	@echo "building $(SERVER) (some minutes, once)"
	@new=$(@D).$$$$; GOBIN=$$new GOFLAGS= go install $(SERVER) || { rm -rf $$new; exit 1; }; rm -rf $(@D) && mv $$new $(@D)

# Peers that bench compares with. s5cmd cannot be installed by go install: its go.mod replaces a module.
S5CMD_VERSION := v2.3.0
RCLONE_VERSION := v1.76.0
S5CMD := $(TOOLS)/s5cmd-$(S5CMD_VERSION)/s5cmd
RCLONE := $(TOOLS)/rclone-$(RCLONE_VERSION)/rclone

$(S5CMD):
	@echo "building s5cmd $(S5CMD_VERSION) (once)"
	@new=$(@D).$$$$; mkdir -p $$new && cd $$new && export GOFLAGS=-mod=mod CGO_ENABLED=0 && go mod init bench/peer 2>/dev/null && \
		go mod edit -require=github.com/peak/s5cmd/v2@$(S5CMD_VERSION) && go build -o s5cmd github.com/peak/s5cmd/v2 || \
		{ rm -rf $$new; exit 1; }; rm -rf $(@D) && mv $$new $(@D)

$(RCLONE):
	@echo "building rclone $(RCLONE_VERSION) (some minutes, once)"
	@new=$(@D).$$$$; GOBIN=$$new GOFLAGS= CGO_ENABLED=0 go install github.com/rclone/rclone@$(RCLONE_VERSION) || \
		{ rm -rf $$new; exit 1; }; rm -rf $(@D) && mv $$new $(@D)

$(GOLANGCI_LINT):
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION) (some minutes, once)"
	@GOBIN=$(@D) GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(GOTESTSUM):
	@echo "building gotestsum $(GOTESTSUM_VERSION)"
	@GOBIN=$(@D) GOFLAGS= go install gotest.tools/gotestsum@$(GOTESTSUM_VERSION)
