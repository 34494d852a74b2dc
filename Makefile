# `make run` and `make test` work on a fresh clone; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Debian packages: what tests/kernel needs; what tests/fleet needs, where a second nrpe that takes
# arguments is built from source; what builds the packages; what tests/vm needs; what
# tests/packages needs.
KERNEL := conntrack nftables iproute2 sudo util-linux systemd iputils-ping libcap2-bin
FLEET := nagios-nrpe-server nagios-nrpe-plugin nagios4-core gcc libc6-dev libssl-dev make
FLEET += icinga2-bin icinga2-common openssl graphite-carbon graphite-web influxdb zabbix-agent
# The Director, without a web server.
FLEET += icingacli icingaweb2-module-director php-cli php-mysql mariadb-server-core
FLEET += mariadb-client-core
# Where Node.js was not installed from Debian, it has an npm of its own.
FLEET += $(shell command -v npm >/dev/null || echo npm)
PACKAGING := debhelper dh-python dpkg-dev python3-nagiosplugin rpm
VM := qemu-system-x86 mmdebstrap cpio kmod gcc make libelf1
PACKAGES := lintian man-db mmdebstrap python3-venv rpm2cpio cpio rpmlint zsh
SUITE := setup.cfg pyproject.toml $(shell find plugins -type f ! -path '*/__pycache__/*' 2>/dev/null)

.PHONY: help run unit test incidents incidents-replay programs load definitions graphs screens deb rpm
.PHONY: dist pyz packaging release test-packages packages-bookworm packages-others machines kernels
.PHONY: lint bench fuzz clean

help:
	@echo 'make run            install into $(VENV) and run every check against this host'
	@echo 'make unit           run the unit tests: a minute, no root'
	@echo 'make test           run all tests; installs the test tools, and as root on Debian the'
	@echo '                    programs that the tests talk to. COVERAGE=yes measures branches'
	@echo 'make lint           run ruff, mypy, import-linter, bandit and pip-audit'
	@echo 'make definitions    write the Icinga commands, the Director basket and the graphs anew'
	@echo 'make incidents      stage every incident with real traffic; print what the checks say'
	@echo 'make incidents-replay'
	@echo '                    simulate incidents and healthy days; write docs/lead-time.md'
	@echo 'make kernels        run the kernel tests on older and newer kernels, in qemu; write the table'
	@echo '                    in docs/kernels.md. QUICK=yes runs a part on the oldest and the newest'
	@echo 'make fuzz           try generated input for FUZZ_SECONDS (60)'
	@echo 'make bench          measure speed and memory'
	@echo 'make load           send 2,000 requests to an NRPE agent, 50 at a time'
	@echo 'make graphs         draw the templates for graphs, into build/graphs'
	@echo 'make screens        photograph Icinga Web with all of it, into build/screens'
	@echo 'make deb, make rpm, make dist, make pyz'
	@echo '                    build a Debian package, an RPM package, sdist and wheel, or one file'
	@echo '                    for each check, into dist/'
	@echo 'make test-packages  build all of them, install each into a clean system, and run it there'
	@echo 'make release VERSION=1.0.0'
	@echo '                    set the version, date the CHANGELOG, build and test all packages;'
	@echo '                    DRY_RUN=yes does it in a copy'
	@echo 'make clean          remove everything that these targets made'

run: $(VENV)/.installed
	@for check in plugins/check_conntrack_*; do \
	    name=$${check##*/}; \
	    "$(BIN)/python" "$(BIN)/$$name"; code=$$?; \
	    echo "=> $$name ended with exit code $$code"; \
	    [ $$code -le 3 ] || exit 1; \
	done

# The checks run as several users, and each of them writes coverage data there.
COVERED := $(abspath build/coverage)
ifdef COVERAGE
MEASURE := COVERAGE_FILE=$(COVERED)/data $(BIN)/python -m coverage
PYTEST := $(MEASURE) run -m pytest
else
PYTEST := $(BIN)/python -m pytest
endif

# Needs no root and no program but Python.
unit: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n 2 tests/unit

test: $(VENV)/.tested programs
ifdef COVERAGE
	rm -rf $(COVERED) && mkdir -p $(COVERED) && chmod 1777 $(COVERED)
endif
	$(PYTEST) -n 2 tests/unit
	$(PYTEST) tests/kernel
ifdef COVERAGE
	$(MEASURE) combine -q $(COVERED)
	$(MEASURE) report
endif
	$(BIN)/python -m pytest tests/fleet
	$(BIN)/python -m pytest tests/fuzz tests/withstand
	$(BIN)/python -m pytest -m ci tests/incidents

# Incidents and healthy days simulated, and what each alarm says; writes docs/lead-time.md. No root.
incidents-replay: $(VENV)/.installed
	PYTHONPATH=plugins:tests $(BIN)/python -m replay.comparison --write

# Each incident staged with real traffic; prints what the checks say about it. Needs root.
incidents: $(VENV)/.tested programs
	$(BIN)/python -m pytest --timeout 300 tests/incidents

# Install missing packages, as root on Debian. Elsewhere a test that needs one says so. The policy
# file keeps the daemons of these packages from starting; the tests start their own.
POLICY := /usr/sbin/policy-rc.d
define install
	@missing=$$(dpkg-query -W -f '$${Status} $${Package}\n' $(1) 2>&1 \
	    | grep -v '^install ok installed' || true); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    if [ ! -e $(POLICY) ]; then \
	        trap 'rm -f $(POLICY)' EXIT; \
	        printf '#!/bin/sh\nexit 101\n' > $(POLICY) && chmod 755 $(POLICY); \
	    fi; \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	fi
endef

programs:
	$(call install,$(KERNEL) $(FLEET))

# As many requests as a busy agent gets in days. Takes minutes.
load: $(VENV)/.tested programs
	CHECK_CONNTRACK_REQUESTS=2000 $(BIN)/python -m pytest -s --timeout 0 tests/fleet/test_load.py

# A test fails until this was run after a change of an option, a label or a graph.
definitions: $(VENV)/.installed
	PYTHONPATH=plugins $(BIN)/python icinga2/generate.py
	$(BIN)/python graphs/build.py

# Pictures to look at after a change of a graph.
graphs: $(VENV)/.tested programs definitions
	$(BIN)/python tests/fleet/draw_graphs.py build/graphs

# The whole front end, to look at before a release. Takes minutes, and installs a browser.
SCREENS := chromium icinga2-ido-mysql icingaweb2 icingaweb2-module-graphite
SCREENS += icingaweb2-module-monitoring
screens: $(VENV)/.tested programs
	$(call install,$(SCREENS))
	$(BIN)/python tests/fleet/draw_screens.py build/screens

deb rpm: packaging
	packaging/build $@

# PYTHONS="python3.9 python3.11" compiles for these interpreters instead of that of $(VENV).
dist pyz: $(VENV)/.packaged
	PYTHON=$(abspath $(BIN))/python packaging/build $@

packaging:
	$(call install,$(PACKAGING))

# Sets the version and dates the CHANGELOG; with DRY_RUN=yes only in a copy below build/.
release: packaging $(VENV)/.tested $(VENV)/.packaged
	@[ -n "$(VERSION)" ] || { echo 'make release VERSION=1.0.0 [DRY_RUN=yes]'; exit 2; }
	$(call install,$(KERNEL) $(PACKAGES))
	$(BIN)/python packaging/release.py $(VERSION) $(if $(DRY_RUN),--dry-run)

test-packages: packaging $(VENV)/.tested $(VENV)/.packaged
	$(call install,$(KERNEL) $(PACKAGES))
	$(MAKE) --jobs=2 --output-sync packages-bookworm packages-others

# Two processes, and a system of one Debian for each of them.
packages-bookworm:
	$(BIN)/python -m pytest -k bookworm tests/packages
packages-others:
	$(BIN)/python -m pytest -k 'not bookworm' tests/packages

machines:
	$(call install,$(VM))

# Kernels and system are packages of Debian, and kept in build/kernels. Takes more than an hour; QUICK=yes
# takes a few minutes.
kernels: $(VENV)/.made machines
ifdef QUICK
	$(BIN)/python tests/vm/kernels.py --quick --optional --limit 900
else
	$(BIN)/python tests/vm/kernels.py
	$(BIN)/python tests/vm/kernels.py --table docs/kernels.md
endif

lint: $(VENV)/.linted
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r plugins plugins/check_conntrack_*
	$(BIN)/python tests/audit.py

# Half of the time goes to hypothesis, half to atheris, which is guided by coverage but has no wheel
# for every Python. Input that breaks something is left in build/fuzz; move it to tests/fuzz/corpus.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.tested
	FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 2)) $(BIN)/python -m pytest -q --timeout=0 tests/fuzz
	@$(BIN)/python -m pip install -q --disable-pip-version-check '.[fuzz]' || \
	    { echo 'atheris is not available for this Python: fuzzing was not guided by coverage'; exit 0; }; \
	mkdir -p build/fuzz && for target in netlink text log; do \
	    mkdir -p build/fuzz/$$target; \
	    PYTHONPATH=plugins:tests $(BIN)/python tests/fuzz/guided.py $$target -timeout=20 \
	        -max_total_time=$$(($(FUZZ_SECONDS) / 6)) -max_len=3000 -verbosity=0 \
	        -print_final_stats=1 -artifact_prefix=build/fuzz/$$target- build/fuzz/$$target || exit 1; \
	done

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/archive.py
	$(BIN)/python tests/benchmarks/log_files.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/table.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/listening.py
	$(BIN)/python tests/benchmarks/names.py

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
