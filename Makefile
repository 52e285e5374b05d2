# make install   a virtual environment in .venv with the tested versions (nothing is done twice)
# make demo      the main job on the embedded motion data set, results in runs/demo
# make test      the whole test suite
# make lint      ruff

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

.PHONY: install demo test lint

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "videofib needs Python 3.10 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: install
	$(PY) tools/demo.py --out runs/demo

test: install
	$(PY) -m pytest

lint: install
	$(VENV)/bin/ruff check .
