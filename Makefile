# Needs Python 3.10 to 3.13 and make. Another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# `make demo` takes the data and config of this example.
DEMO := examples/pictures
RUN := runs/pictures-sweep

.PHONY: demo test test-full lint env clean

demo: $(STAMP)
	$(BIN)/rayft sweep $(DEMO)/sweep.yaml
	@echo
	@echo "One prediction, from the package of the best trial:"
	$(BIN)/python $(DEMO)/run.py $(RUN)
	@echo
	@echo "The same picture, over HTTP:"
	$(BIN)/python $(DEMO)/ask.py $(RUN)
	@echo
	@echo "Keep the endpoint up: $(BIN)/rayft serve $(RUN)/package"
	@echo "Files: $(RUN)/ (report.html, result.json, trials.jsonl, trials/, package/)."
	@echo "A second \`make demo\` finds the finished sweep; start anew with: $(BIN)/rayft sweep $(DEMO)/sweep.yaml --fresh"

test: lint
	$(BIN)/python -m pytest -n auto --durations=10 tests/unit tests/e2e/test_bad_input.py
# Two files at a time: these tests wait for most of their time, for processes to start and for clocks.
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=20 tests/distributed tests/integration tests/e2e --ignore=tests/e2e/test_bad_input.py

# What `make test` leaves out: more of the same kind, an hour on 2 cores.
test-full: lint
	$(BIN)/python -m pytest -m full

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tests/clients.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10 to 3.13 is needed." >&2; \
		echo "fix: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
# Clients of the endpoint, for its tests; apart, because they need an older protobuf.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(VENV)/clients -r tests/clients.txt
	@touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
