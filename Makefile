# Everything installs into .venv from the exact set in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# Images for containers set it, and each of many processes would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo demo-ab-test serve test test-slow test-faults check bench fuzz deploy clean

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

# The A/B test of the third act alone, to its verdict.
demo-ab-test: install
	$(BIN)/python -m deployments.demo --ab-test

# Other ports: make serve SERVE="--port 8105 --prefect-port 4300 --mlflow-port 5100".
serve: install
	$(BIN)/python -m deployments.serve $(SERVE)

# Three workers on two cores, because many tests wait; tests/grouping.py says who gets what.
test: install
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder \
		--ignore=tests/test_architecture.py --durations=15

# Proofs that take minutes: neither the quick run nor .ci/run has them.
test-slow: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "slow and not faults" \
		--durations=15

test-faults: install
	$(BIN)/python -m pytest -m faults --durations=15

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_architecture.py
	# A newer FastAPI breaks Prefect's server, a newer pandas Evidently.
	$(BIN)/python -W ignore -c "import evidently, prefect.server.api.server"

bench: install
	$(BIN)/python -m benchmarks

# Another seed each time; make fuzz FUZZ="--seed 7 --minutes 60" chooses.
fuzz: install
	$(BIN)/python -m tests.fuzz $(FUZZ)
	# The HTTP API by its own document; another seed and time by FUZZ_API.
	$(BIN)/python -m tests.fuzz.http_api $(FUZZ_API)

deploy: install
	$(BIN)/python -m deployments.setup

clean:
	rm -rf .venv .mlops reports
