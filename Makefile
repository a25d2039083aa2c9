# make demo    set up everything, then measure a relay with 2,560 domains
# make test    set up everything, then all checks and tests on the default release (and bullseye's services)
# make test-all  the same, on every Debian release, with the long tests
# All work on a bare Debian 12 or 13, as root or with sudo, and leave the command at .venv/bin/testbed.

.PHONY: demo test test-all setup tools lint unit unit-inner unit-outer unit-long integration integration-all requirements uplot clean

# Python compiles once, not in each process again.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
REQUIREMENTS := requirements.txt requirements-dev.txt

demo: setup
	$(BIN)/testbed run relay-throughput --domains 2560

test: setup tools lint unit integration

test-all: setup tools lint unit unit-long integration-all

setup: .venv/.installed
	$(BIN)/testbed setup

# What the tests use beside Python: a real browser for report.html, Compose for compose/, an SSH client, npm.
tools: .venv/.installed
	command -v chromium > /dev/null || $(call install,chromium,a browser for the tests of report.html)
	docker compose version > /dev/null 2>&1 || command -v docker-compose > /dev/null \
		|| $(call install,docker-compose,Compose for the tests of compose/)
	command -v ssh > /dev/null || $(call install,openssh-client,an SSH client for the tests of DOCKER_HOST=ssh://)
	command -v npm > /dev/null || $(call install,npm,npm for the tests with a client of Mailpit)

install = $(BIN)/python -c "from orchestrator.hosts.debian import install; install(['$(1)'], needed='$(2)', say=print)"

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The unit tests in two halves, side by side: those of programs in nodes, and the others. Two processes of pytest have
# two cores busy sooner than one that hands each test to another. They write thousands of small files: into memory.
INNER := tests/unit/agents tests/unit/services tests/unit/scenarios

unit: .venv/.installed
	$(MAKE) --jobs 2 --output-sync=target unit-inner unit-outer

unit-inner unit-outer unit-long: export TMPDIR = $(firstword $(wildcard /dev/shm) /tmp)

unit-inner: .venv/.installed
	$(BIN)/pytest $(INNER)

unit-outer: .venv/.installed
	$(BIN)/pytest tests/unit $(INNER:%=--ignore %)

unit-long: .venv/.installed
	$(BIN)/pytest --numprocesses 2 -m long tests/unit

# Images of further releases are there before two tests build the same one at the same time.
OF_TESTS = [('bind', 'bullseye'), ('postfix', 'bullseye')]
integration-all: OF_TESTS = [(image, release) for release in images.RELEASES for image in images.names(release)]
build = $(BIN)/python -c "from orchestrator.hosts import docker, images; images.ensure(docker.connect(), $(1), print)"

# Tests that are marked `alone` run one after another, the others three at a time, file by file: they mostly wait.
integration: SHORT = and not all_releases and not long
integration integration-all: setup
	$(call build,$(OF_TESTS))
	$(BIN)/pytest --numprocesses 3 --dist loadfile -m 'not alone $(SHORT)' tests/integration
	$(BIN)/pytest -m 'alone $(SHORT)' tests/integration

# Everything is pinned by its hash; the project itself is then linked in with no look at the network.
.venv/.installed: $(REQUIREMENTS) pyproject.toml .ci/python-environment
	.ci/python-environment .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes $(REQUIREMENTS:%=-r %)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	touch $@

# Pins that exist stay as they are; `make requirements UPGRADE=--upgrade` moves them all.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-annotate --no-header $(UPGRADE)
HEADER = sed -i '1i \# Made by `make requirements` from pyproject.toml: change that, not this.'

PINNED := requirements.txt requirements-dev.txt images/agents/requirements.txt images/inbox/requirements.txt

requirements: .venv/.installed
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) --group dev -c requirements.txt -o requirements-dev.txt
	$(COMPILE) --group agents -c requirements.txt -o images/agents/requirements.txt
	$(COMPILE) --group inbox -c requirements-dev.txt -o images/inbox/requirements.txt
	for file in $(PINNED); do $(HEADER) $$file; done
	! grep --line-number / $(PINNED) # no host, no path

# uPlot draws the charts of report.html. Its files are those of the npm package; tests/unit/report/test_report.py has their hashes.
UPLOT := uplot-1.6.32

uplot:
	npm pack --silent $(subst -,@,$(UPLOT))
	tar --extract --file $(UPLOT).tgz --directory orchestrator/report/uplot --transform 's|.*/||' \
		$(addprefix package/,LICENSE dist/uPlot.iife.min.js dist/uPlot.min.css)
	rm $(UPLOT).tgz

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
