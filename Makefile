# Everything runs in .venv, which the first target builds and later ones reuse.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check bench plot clean

demo: $(STAMP)
	$(BIN)/reluctant demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/reluctant bench

families: $(STAMP)
	$(BIN)/python -m reluctant.surgery.scan

# The README's picture, about five minutes.
plot: $(STAMP)
	$(BIN)/reluctant bench --plot docs/bench.svg

# The demo's model is installed without its declared dependencies: it names pandas and tqdm,
# but the module it consists of imports torch only.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt --editable '.[hf,bench,dev]'
	$(PIP) install --constraint constraints.txt --no-deps ruaccent-predictor
	touch $@

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
