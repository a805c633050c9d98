# make demo, make paper, make test: each sets up .venv first if it is missing or older than the requirements.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: demo paper test lint

demo: .venv/ready
	$(RUN) -m dataset.demo --scales 2
	$(RUN) tcw_sample.py --model cfsrcnn --ckpt_path checkpoint/x2/cfsrcnn_x2.pth \
		--test_data_dir demo/photographs --scale 2 --sample_dir demo/samples --baseline

paper: .venv/ready
	$(RUN) -m evaluation.paper --checkpoints checkpoint --data dataset --out results

test: .venv/ready
	$(RUN) -m pytest

lint: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

.venv/ready: requirements.txt requirements-backends.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.10 or newer is needed, not " + sys.version.split()[0] + ": name one with make PYTHON=...") if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt -r tests/requirements.txt
	touch .venv/ready
