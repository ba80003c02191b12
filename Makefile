# `make demo` needs GNU make and Python 3.11 or newer, nothing else. `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLEET ?= sandbox
TEMPLATES := $(shell find templates -name '*.html')
LANGUAGES := zh_Hans
APPS := accounts acl billing containers derpmgmt distribution fleet serials

# Runs beside each other, of about the same length. Chromium is not among those of the lab: it notices networks that come and go.
BROWSER_BESIDE := $(addprefix tests/browser/test_,admin.py every_page.py outage.py)
BROWSER_RUNS := $(filter-out $(BROWSER_BESIDE),$(wildcard tests/browser/test_*.py)) -m lab \
	$(foreach file,$(BROWSER_BESIDE),--beside $(file) -m lab)
# What takes four servers runs in the sandbox only. `differs`: what uses neither database nor Redis, nor a program or host of the
# lab's, ran in `make test` as it would here.
E2E := $(filter-out tests/e2e/test_bound_servers.py tests/e2e/test_allocating.py,$(wildcard tests/e2e/test_*.py))
E2E_BESIDE := $(addprefix tests/e2e/test_,checks.py engine_kinds.py faults.py life.py machines.py outage.py repair.py whole_life.py)
E2E_BESIDE_LAB := $(addprefix tests/e2e/test_,admission_away.py kill.py)
LAB_RUNS := $(filter-out $(E2E_BESIDE) $(E2E_BESIDE_LAB),$(E2E)) \
	--beside $(E2E_BESIDE) \
	--beside tests/lab $(E2E_BESIDE_LAB) \
	--beside -m differs tests/containers/test_traffic.py tests/containers/test_traffic_play.py tests/derp tests/serials tests/acl tests/accounts tests/sandbox/test_gate_answers.py

# More than there are processors: many tests wait for somebody's patience to end.
TEST_PROCESSES := 5
# Tests start the panel hundreds of times: where no bytecode is kept, each start compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

ifneq ($(PORT),)
export DERPMGMT_PORT := $(PORT)
endif

.PHONY: help demo demo-reset up check quick quick-anew test test-lab test-engines test-headscale lab-up lab-down bench shots messages styles

help:
	@echo "make demo              a panel with made-up data and servers, to play with (PORT=8000, FLEET=sandbox or lab)"
	@echo "make demo-reset        removes all that was done in the demo (FLEET=lab: in the lab's, and on its hosts); make demo begins anew"
	@echo "make up                a real panel on this machine (PORT=8000; docs/running.md)"
	@echo "make quick             the tests that are not slow, within a minute; while you change something"
	@echo "make quick-anew        measures which tests are slow, and writes them down (tests/slow.txt)"
	@echo "make test              the test suite; no root, no services"
	@echo "make check             formatting, lint, types, layers, migrations, translations, the stylesheet"
	@echo "make test-lab          the tests that need the lab: root on Debian, Docker, MariaDB, Redis, Chromium"
	@echo "make test-engines      the main job on each Docker Engine, written down in docs/engines.md (ENGINES='26 29'); an hour; debootstrap, Go"
	@echo "make test-headscale    real Headscales follow a live URL as its page says; a table of what was seen; Debian, root, Go"
	@echo "make lab-up, lab-down  three real hosts in network namespaces, to play with by make demo FLEET=lab"
	@echo "make bench             how long a customer waits for three proven relays, what a sweep, an admission and a page cost, what a panel weighs; in the lab"
	@echo "make shots            pictures of every page as every role, both languages and themes, wide and narrow, on one sheet (var/shots; ROLES=customer); Chromium"
	@echo "make messages          collect the texts to translate and compile the translations"
	@echo "make styles            keep of Tabler's stylesheet what the pages use; after a class was used that none used before"

# --with-parent: the panel also ends when make itself is killed.
demo: $(VENV)/.installed
	@DERPMGMT_FLEET=$(FLEET) exec $(BIN)/python manage.py demo --with-parent

demo-reset: $(VENV)/.installed
	@DERPMGMT_FLEET=$(FLEET) exec $(BIN)/python -m derpmgmt.reset

up: $(VENV)/.installed
	@exec $(BIN)/python manage.py up --with-parent

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing what requirements.txt lists into $(VENV); the first time takes a minute or more ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# What checks and tests write must not become the state of a panel.
check messages: export DERPMGMT_VAR_DIR := $(CURDIR)/var/check

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check . .ci/derper .ci/styles .ci/tailscale .ci/translations
	$(BIN)/ruff check . .ci/derper .ci/styles .ci/tailscale .ci/translations
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/djade --check $(TEMPLATES)
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python .ci/translations
	$(BIN)/python .ci/styles

quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -q -m "not lab and not slow"

# When `make quick` takes longer than it says: what is slow is measured and written down in tests/slow.txt.
quick-anew: $(VENV)/.installed-dev
	: >tests/slow.txt
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -q --costs tests/slow.txt.new -m "not lab and not slow"
	$(BIN)/python -m tests.costs tests/slow.txt.new
	rm tests/slow.txt.new

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m "not lab"

test-lab: $(VENV)/.installed-dev
	@test "$$(id -u)" = 0 -a -f /etc/debian_version || { echo "make test-lab needs root on Debian" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-mysql.txt
	DERPMGMT_TEST_DERPER="$$($(BIN)/python .ci/derper)" && export DERPMGMT_TEST_DERPER && \
	DERPMGMT_TEST_TAILSCALE="$$($(BIN)/python .ci/tailscale)" && export DERPMGMT_TEST_TAILSCALE && \
	export DERPMGMT_TEST_NGINX=/usr/sbin/nginx && \
		$(BIN)/python -m tests.lab.suite $(BROWSER_RUNS) && \
		$(BIN)/python -m tests.lab.suite $(LAB_RUNS)

# Not a part of CI: run it when fleet or containers change.
test-engines: $(VENV)/.installed-dev
	@test "$$(id -u)" = 0 -a -f /etc/debian_version || { echo "make test-engines needs root on Debian" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-mysql.txt
	DERPMGMT_TEST_DERPER="$$($(BIN)/python .ci/derper)" && export DERPMGMT_TEST_DERPER && \
	export DERPMGMT_TEST_NGINX=/usr/sbin/nginx && \
		$(BIN)/python -m tests.lab.engines $(ENGINES)

# Not a part of CI: run it when the live URL, its page or the versions of Headscale change.
test-headscale: $(VENV)/.installed-dev
	@test "$$(id -u)" = 0 -a -f /etc/debian_version || { echo "make test-headscale needs root on Debian" >&2; exit 1; }
	DERPMGMT_TEST_TAILSCALE="$$($(BIN)/python .ci/tailscale)" && export DERPMGMT_TEST_TAILSCALE && \
		$(BIN)/python -m tests.lab.headscale $(VERSIONS)

lab-up: $(VENV)/.installed-dev
	$(BIN)/python -m tests.lab up

lab-down: $(VENV)/.installed-dev
	$(BIN)/python -m tests.lab down

bench: $(VENV)/.installed-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-mysql.txt
	@DERPMGMT_TEST_DERPER="$$($(BIN)/python .ci/derper)" && export DERPMGMT_TEST_DERPER && $(BIN)/python -m tests.lab.benches

shots: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.browser.shots var/shots $(ROLES)

messages: $(VENV)/.installed-dev
	$(BIN)/python .ci/translations --write

styles: $(VENV)/.installed-dev
	$(BIN)/python .ci/styles --write
