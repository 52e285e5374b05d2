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
	$(PY) data_prep/motion.py --out runs/demo/raw
	$(PY) data_prep/ucf101.py --videos runs/demo/raw/videos --annotations runs/demo/raw/annotations \
		--out runs/demo/data --short-side 64
	$(PY) tools/run_net.py --cfg configs/Motion/TimeSformerXXS_joint_fibottention_8x3_48.yaml
	@echo "Done. Open runs/demo/report.html. Results: runs/demo/test_results.json; scores of every video: runs/demo/test_scores.parquet"

test: install
	$(PY) -m pytest

lint: install
	$(VENV)/bin/ruff check .
