# One door to everything: each target first installs what it needs, which is quick when all is there.
#
#   make serve   run redtier as it is without a configuration; ARGS="--config my.toml" for another
#   make test    the suite on the compiled tree, then what tests compiled modules once more as plain Python, but
#                for clients and faults; WORKERS=1 for one test at a time, ARGS="tests/test_serve.py -k tls" for
#                some of them
#   make test-long   the same with ten times as many generated sequences, every target in every protocol
#   make check   format, lint, types, layers
#   make bench   what parts of redtier cost, redtier side by side with other servers, and its other promises
#   make build   the compiled copy of proxy/ and backends/ in build/compiled/

# The system's own where it is new enough: distributions optimise theirs by profiles; one that was built from source
# without can take twice as long.
PYTHON ?= $(firstword $(shell for python in /usr/bin/python3 python3; do \
    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python; done) python3)
ARGS ?=

WORKERS ?= 4

BIN := .venv/bin
PYTEST := $(BIN)/python -P -m pytest
TESTS := $(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS)
SOURCES := $(shell find proxy backends -name '*.py' -o -name '*.json' -o -name '*.lua')
# Nothing is compiled without a C compiler, and then the sources themselves are run.
TREE := $(if $(shell command -v cc gcc),compiled,plain)
PATH_OF_TREE := $(if $(filter compiled,$(TREE)),build/compiled,.)

# A test run starts hundreds of interpreters: where this is set, as in many images, each compiles all sources anew.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: serve test test-long check bench build servers clean

serve: build
	PYTHONPATH=$(PATH_OF_TREE) $(BIN)/python -P -m proxy serve $(ARGS)

test: build servers .venv/dev .venv/clients tests/node/node_modules
ifeq ($(TREE),compiled)
	REDTIER_TREE=compiled $(TESTS) -m 'not plain'
	REDTIER_TREE=plain $(TESTS) -m 'not once' --ignore=tests/clients --ignore=tests/faults
else
	REDTIER_TREE=plain $(TESTS)
endif

test-long:
	REDTIER_LONG=1 REDTIER_EXAMPLES=10 $(MAKE) test ARGS="--timeout=3600 $(ARGS)"

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: build servers .venv/bench
	tools/setup bench
	REDTIER_TREE=$(TREE) $(PYTEST) bench $(ARGS)
	PYTHONPATH=. $(BIN)/python -P -m bench.versus
	PYTHONPATH=. $(BIN)/python -P -m bench.families
	PYTHONPATH=. $(BIN)/python -P -m bench.stalls
	PYTHONPATH=. $(BIN)/python -P -m bench.near
	PYTHONPATH=. $(BIN)/python -P -m bench.hang
	PYTHONPATH=. $(BIN)/python -P -m bench.failover
	PYTHONPATH=. $(BIN)/python -P -m bench.chat
	REDTIER_TREE=$(TREE) PYTHONPATH=. $(BIN)/python -P -m bench.copy
	REDTIER_TREE=$(TREE) PYTHONPATH=. $(BIN)/python -P -m bench.expiry
	PYTHONPATH=. $(BIN)/python -P -m bench.growing

build: build/compiled/built

clean:
	rm -rf .venv build tests/node/node_modules *.egg-info

# The shared library stays, so that a change of what is not compiled does not compile anew.
build/compiled/built: $(SOURCES) pyproject.toml setup.py .venv/build
	rm -rf build/compiled/proxy build/compiled/backends
	$(BIN)/python setup.py -q build --build-lib build/compiled
	touch $@

servers:
	tools/setup servers

# The project itself is there as sources (-e), and only after PYTHONPATH: a tree that is named comes first.
# All that is installed has what a build needs with it.
.venv/build .venv/dev .venv/bench .venv/clients: .venv/%: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e '.[$*]'
	touch $@
	test -e .venv/build || touch .venv/build

.venv/bench .venv/clients: .venv/dev

.venv/pyvenv.cfg:
	PYTHON=$(PYTHON) tools/setup venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check --upgrade pip  # Debian's takes half as long again to choose

tests/node/node_modules: tests/node/package.json | servers
	cd tests/node && npm install --no-audit --no-fund --loglevel=error
	touch $@
