# Everything installs into .venv from the exact set in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: install demo serve test test-slow check bench deploy clean

install: .venv/.installed

# uv needs a third of pip's time; it does not read pip's settings, so they are handed on to it.
# Where it cannot be had, or cannot reach what pip reaches, pip does the same.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV := UV_FIND_LINKS="$$PIP_FIND_LINKS" UV_DEFAULT_INDEX="$$PIP_INDEX_URL" \
	$(BIN)/uv pip install --quiet --python $(BIN)/python

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	($(PIP) -c constraints.txt uv && $(UV) -c constraints.txt -e '.[dev]') || $(PIP) -c constraints.txt -e '.[dev]'
	# An empty database for the demonstration and the tests; its migrations take ten seconds.
	PREFECT_HOME="$(CURDIR)/.venv/prefect" $(BIN)/prefect server database upgrade -y >/dev/null
	touch $@

demo: install
	$(BIN)/python -m deployments.demo

serve: install
	$(BIN)/python -m deployments.serve

# Two at a time, file by file; then the faults, which need the machine to themselves. Beside others
# a test may miss its time: what failed is run once more, by itself, and what fails twice fails.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/faults \
		|| $(BIN)/python -m pytest --ignore=tests/faults --last-failed --last-failed-no-failures none
	$(BIN)/python -m pytest tests/faults || $(BIN)/python -m pytest tests/faults --last-failed

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks

deploy: install
	$(BIN)/python -m deployments.setup
	MLOPS_PROJECT_DIR="$(CURDIR)" $(BIN)/prefect --no-prompt deploy --all

clean:
	rm -rf .venv .mlops reports
