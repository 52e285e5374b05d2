# make install    a virtual environment in .venv with the tested versions; does nothing if nothing has changed
# make demo       train and test on the motion data set, which it makes; results in runs/demo
# make test       the fast tests, a few minutes on two cores
# make test-all   the fast tests, then the slow ones
# make lint       ruff, mypy and codespell
# make coverage   the fast tests, with the lines of videofib that they run
# make docs       the documentation as a site, in site/index.html

PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
PY      := $(VENV)/bin/python
PYTEST  := $(PY) -m pytest -n $(WORKERS) --dist loadfile
STAMP   := $(VENV)/.installed

.PHONY: install demo test test-all lint coverage docs

install: $(STAMP)

$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "videofib needs Python 3.10 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: install
	$(PY) data_prep/motion.py --out runs/demo/raw
	$(PY) data_prep/ucf101.py --videos runs/demo/raw/videos --annotations runs/demo/raw/annotations \
		--out runs/demo/data --short-side 64
	$(PY) tools/run_net.py --cfg configs/Motion/TimeSformerXXS_joint_fibottention_8x3_48.yaml
	@echo "Done. Open runs/demo/report.html. Results: runs/demo/test_results.json; scores of every video: runs/demo/test_scores.parquet"

test: install
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib

coverage: install
	$(PYTEST) -m "not slow" --cov --cov-report term:skip-covered

# without --quiet, which would hide warnings from --strict, too
docs: install
	$(PY) -m mkdocs build --strict
