# make demo, make test, make train-x2, ...: each sets up .venv first if it is missing or older than the requirements.
PYTHON ?= python3
RUN := .venv/bin/python
TORCH ?= torch

.PHONY: demo paper test fuzz oldest lint gpu train-x2 train-x3 train-x4

demo: .venv/installed
	$(RUN) -m dataset.demo --scales 2
	$(RUN) tcw_sample.py --model cfsrcnn --ckpt_path checkpoint/x2/cfsrcnn_x2.pth \
		--test_data_dir demo/photographs --scale 2 --sample_dir demo/samples --baseline

paper: .venv/installed
	$(RUN) -m evaluation.paper --checkpoints checkpoint --data dataset --out results

test: .venv/ready
	$(RUN) -m pytest

# The test suite tries a few hundred odd files and flags, the same each time; this 10,000 new ones of each kind, in some 10 minutes.
fuzz: .venv/ready
	FUZZ_CASES=$${FUZZ_CASES:-10000} $(RUN) -m pytest -s tests/stress/test_fuzz_*.py

# The oldest versions that requirements.txt allows, of all but PyTorch: TORCH names its version, such as torch==2.4.0.
OLDEST := imresize metrics images hdf5 patches checkpoint network muon evaluate upscale_images api div2h5 curves figure determinism \
	download fetch unpack
oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest $(OLDEST:%=tests/test_%.py)

lint: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# On a borrowed GPU, with the Python at hand and without pip or a network: tests, benchmarks, then training of x2, x3 and x4
# in what is left of the minutes. Results are copied to $OUT as they come. make gpu IMAGES=FOLDER MINUTES=M [TEACHERS=FOLDER]
GPU_FLAGS ?=
gpu:
	@test -n "$(IMAGES)" -a -n "$(MINUTES)" || { echo "error: make gpu IMAGES=FOLDER MINUTES=M" >&2; exit 2; }
	$(PYTHON) -m benchmarks.gpu_session --images "$(IMAGES)" --minutes "$(MINUTES)" \
		$(if $(TEACHERS),--teachers "$(TEACHERS)") $(GPU_FLAGS)

# Weights from a folder of photographs, as the pretrained weights were made (docs/training.md): make train-x2 IMAGES=FOLDER,
# and EXTRA=FOLDER for more. An interrupted run resumes when the command is repeated. x3 and x4 start from x2's second stage.
IMAGES ?= $(PICTURES)
RUNS ?= runs
PRECISION ?= bf16
WARMUP ?= 100
STEPS_24 ?= 10000
STEPS_48 ?= 3500
STEPS_48B ?= 12000
STEPS_X3 ?= 2400
STEPS_X4 ?= 1600
X2_24 := $(RUNS)/x2/cfsrcnn_x2_$(STEPS_24).pth
X2_48 := $(RUNS)/x2/cfsrcnn_x2_48_$(STEPS_48).pth
X2_48B := $(RUNS)/x2/cfsrcnn_x2_48b_$(STEPS_48B).pth
X3 := $(RUNS)/x3/cfsrcnn_x3_$(STEPS_X3).pth
X4 := $(RUNS)/x4/cfsrcnn_x4_$(STEPS_X4).pth
TRAIN = $(RUN) train.py --model cfsrcnn --train_data_path $(RUNS)/images.h5 --val_data_dir $(RUNS)/images_held_out \
	--optimizer muon --lr_schedule cosine --warmup $(WARMUP) --clip 1 --loss_fn L1 --precision $(PRECISION) --print_interval 500 --resume

train-x2: $(X2_48B)
train-x3: $(X3)
train-x4: $(X4)

$(RUNS)/images.h5 $(RUNS)/shrunk.h5: | .venv/installed
	@test -n "$(IMAGES)" || { echo "error: name a folder of photographs: make train-x2 IMAGES=FOLDER" >&2; exit 2; }
	$(RUN) div2h5.py --source "$(IMAGES)" $(if $(EXTRA),--extra "$(EXTRA)") --hold_out 8 \
		$(if $(findstring shrunk,$@),--shrink 0.6 --scales 2) --out $@

$(X2_24): | $(RUNS)/images.h5 $(RUNS)/shrunk.h5
	$(TRAIN) --scale 2 --init identity --patch_size 24 --batch_size 8 --lr 1e-3 --ema 0.999 --max_steps $(STEPS_24) \
		--ckpt_dir $(@D) --ckpt_name cfsrcnn_x2

$(X2_48): | $(X2_24)
	$(TRAIN) --scale 2 --pretrained $(X2_24) --patch_size 48 --batch_size 4 --lr 5e-4 --ema 0.999 --max_steps $(STEPS_48) \
		--ckpt_dir $(@D) --ckpt_name cfsrcnn_x2_48

$(X2_48B): | $(X2_48)
	$(TRAIN) --train_data_path $(RUNS)/shrunk.h5 --scale 2 --pretrained $(X2_48) --patch_size 48 --batch_size 8 --lr 1e-3 --ema 0.999 \
		--max_steps $(STEPS_48B) --ckpt_dir $(@D) --ckpt_name cfsrcnn_x2_48b

$(X3): | $(X2_48)
	$(TRAIN) --scale 3 --pretrained $(X2_48) --patch_size 36 --batch_size 8 --lr 1e-3 --ema 0.999 --max_steps $(STEPS_X3) \
		--ckpt_dir $(@D) --ckpt_name cfsrcnn_x3

$(X4): | $(X2_48)
	$(TRAIN) --scale 4 --pretrained $(X2_48) --patch_size 36 --batch_size 8 --lr 1e-3 --ema 0.999 --max_steps $(STEPS_X4) \
		--ckpt_dir $(@D) --ckpt_name cfsrcnn_x4

.venv-oldest/ready: requirements.txt
	$(PYTHON) -m venv .venv-oldest
	sed '/^torch/d; s/>=\([0-9.]*\)/==\1.*/' requirements.txt > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet -r .venv-oldest/oldest.txt pytest $(TORCH)
	touch .venv-oldest/ready

.venv/ready: requirements.txt requirements-backends.txt tests/requirements.txt
	$(RUN) -m pip install --quiet -r requirements.txt -r tests/requirements.txt
	touch $@

.venv/ready: .venv/installed  # to which the line above adds what the tests need

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.10 or newer is needed, not " + sys.version.split()[0] + ": name one with make PYTHON=...") if sys.version_info < (3, 10) else 0'
	@echo "installing PyTorch and the rest into .venv, which takes some minutes and gigabytes"
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@
