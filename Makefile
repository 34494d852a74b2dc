# `make run` and `make test` work on a fresh clone; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROGRAMS := conntrack nft ip sudo setpriv unshare journalctl
PACKAGES := conntrack nftables iproute2 sudo util-linux systemd
SUITE := setup.cfg pyproject.toml $(shell find plugins -type f ! -path '*/__pycache__/*' 2>/dev/null)

# What `make deb` and `make rpm` build with, and what the tests of packages need beside it.
PACKAGING := debhelper dh-python dpkg-dev python3-nagiosplugin rpm
PACKAGE_TESTS := lintian man-db mmdebstrap python3-venv rpm2cpio cpio rpmlint zsh

.PHONY: help run test programs lint cover bench clean deb rpm dist pyz packaging test-packages

help:
	@echo 'make run    install into $(VENV) and run every check against this host'
	@echo 'make test   install the test tools, and the programs the tests talk to; run all tests'
	@echo 'make deb, make rpm, make dist, make pyz'
	@echo '            a Debian package, an RPM package, sdist and wheel, or a file for each check: in dist/'
	@echo 'make test-packages  build all of them, install each into a clean system, and run it there'
	@echo 'make lint   ruff, mypy, import-linter'
	@echo 'make cover  the tests again, with the branch coverage of the library'
	@echo 'make bench  measure; nothing of it is a test'
	@echo 'make clean  remove what these made'

run: $(VENV)/.installed
	@for check in plugins/check_conntrack_*; do \
	    name=$${check##*/}; \
	    "$(BIN)/python" "$(BIN)/$$name"; code=$$?; \
	    echo "=> $$name ended with exit code $$code"; \
	    [ $$code -le 3 ] || exit 1; \
	done

test: $(VENV)/.tested programs
	$(BIN)/python -m pytest -n 2 tests/unit
	$(BIN)/python -m pytest tests/kernel

# As root on Debian, what is missing is installed; elsewhere the tests that need it say so.
programs:
	@missing=; for program in $(PROGRAMS); do \
	    command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); \
	fi

deb rpm: packaging
	packaging/build $@

# PYTHONS="python3.9 python3.11" compiles for more than the interpreter of $(VENV).
dist pyz: $(VENV)/.packaged
	PYTHON=$(abspath $(BIN))/python packaging/build $@

# As root on Debian, what is missing is installed.
packaging:
	@missing=$$(dpkg-query -W -f '$${Status} $${Package}\n' $(PACKAGING) $(MORE) 2>&1 \
	    | grep -v '^install ok installed' || true); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	        $(PACKAGING) $(MORE) >/dev/null; \
	fi

test-packages: MORE := $(PACKAGES) $(PACKAGE_TESTS)
test-packages: packaging $(VENV)/.tested $(VENV)/.packaged
	$(BIN)/python -m pytest tests/packages

lint: $(VENV)/.linted
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The checks run as other users: their figures have to be writable by all of them.
COVERED := $(abspath build/coverage)
cover: $(VENV)/.tested programs
	rm -rf $(COVERED) && mkdir -p $(COVERED) && chmod 1777 $(COVERED)
	COVERAGE_FILE=$(COVERED)/data $(BIN)/python -m coverage run -m pytest -q -n 2 tests/unit
	COVERAGE_FILE=$(COVERED)/data $(BIN)/python -m coverage run -m pytest -q tests/kernel
	COVERAGE_FILE=$(COVERED)/data $(BIN)/python -m coverage combine -q $(COVERED)
	COVERAGE_FILE=$(COVERED)/data $(BIN)/python -m coverage report

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/archive.py
	$(BIN)/python tests/benchmarks/log_files.py

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo 'python3 is missing: install Python 3.9 or later'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' \
	    || { echo 'python3 is too old: install Python 3.9 or later, or say make PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	    || { echo 'venv or pip is missing: apt-get install python3-venv (or your python3 with pip)'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(SUITE)
	$(BIN)/python -m pip install -q --disable-pip-version-check .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check '.[test]'
	@touch $@

$(VENV)/.linted: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check '.[quality]'
	@touch $@

$(VENV)/.packaged: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check '.[package]'
	@touch $@

clean:
	rm -rf $(VENV) .tox build dist *.egg-info plugins/*.egg-info
