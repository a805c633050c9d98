# make demo, make test, make train-x2, ...: each sets up .venv first if it is missing or older than the requirements.
PYTHON ?= python3
RUN := .venv/bin/python
TORCH ?= torch

.PHONY: app demo paper test fuzz oldest lint gpu train-x2 train-x3 train-x4

demo: .venv/installed
	$(RUN) -m dataset.demo --scales 2
	$(RUN) tcw_sample.py --model cfsrcnn --ckpt_path checkpoint/x2/cfsrcnn_x2.pth \
		--test_data_dir demo/photographs --scale 2 --sample_dir demo/samples --baseline

# PEERS=FOLDER adds rows of RLFN and BSRN, whose published weights (rlfn_x2.pth, bsrn_x4.pth, ...) are in FOLDER.
# A page on this machine alone: make app FLAGS="--port 8000".
app: .venv-app/ready
	.venv-app/bin/python -m inference.app --open $(FLAGS)

paper: .venv/installed
	$(RUN) -m evaluation.paper --checkpoints checkpoint --data dataset --out results $(if $(PEERS),--peers "$(PEERS)")

# A process for each core, up to 8, each on one thread: more threads than cores mostly wait for one another. In the order of
# the files: with those of the most tests first, the slowest tests would come last, and on one core.
test: .venv/ready .venv-app/ready
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# The test suite tries a few hundred malformed files and flags, the same each time; this 10,000 new ones of each kind.
fuzz: .venv/ready
	FUZZ_CASES=$${FUZZ_CASES:-10000} $(RUN) -m pytest -s tests/stress/test_fuzz_*.py

# The oldest versions that requirements.txt allows, of all but PyTorch: TORCH names its version, such as torch==2.4.0.
OLDEST := imresize metrics images deep_images image_files hdf5 patches checkpoint network muon evaluate upscale_images api div2h5 curves figure \
	determinism download fetch unpack
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

# Weights from a folder of photographs, as the pretrained weights were made (docs/training.md): make train-x2 IMAGES=FOLDER, with
# EXTRA=FOLDER for more photographs and TEACHERS=FOLDER for distillation from the weights of RLFN and BSRN in that folder.
# GPU=1: the last stage has the batches, the learning rate and the minutes of one H200, and is followed by a second such stage,
# whose variables start with NEXT; at x3 and x4 both use the same training set. An interrupted run resumes when the command is
# repeated. x3 and x4 start from x2, with GPU=1 from the first of its two last stages.
IMAGES ?= $(PICTURES)
RUNS ?= runs
PRECISION ?= bf16
WARMUP ?= 100
HELD_OUT ?= 8
STEPS_24 ?= 10000
STEPS_48 ?= 3500
STEPS_48B ?= 12000
STEPS_FIRST ?= 3400
ifdef GPU
LAST ?= --lr 2e-3 --ema 0.999 --warmup 300 --print_interval 5000 --cuda_graph
SIZE_X2 ?= --batch_size 24 --patch_size 64
SIZE_X3 ?= --batch_size 20 --patch_size 64
SIZE_X4 ?= --batch_size 24 --patch_size 48
MINUTES_X2 ?= 2.93
MINUTES_X3 ?= 1.58
MINUTES_X4 ?= 1.53
SHRINK_X2 ?= 0.75 0.5
SHRINK_X3 ?= 0.8 0.6
SHRINK_X4 ?= 0.8 0.6
NEXT ?= $(LAST) --compile
NEXT_SIZE_X2 ?= --batch_size 44 --patch_size 48
NEXT_SIZE_X3 ?= --batch_size 37 --patch_size 48
NEXT_SIZE_X4 ?= --batch_size 24 --patch_size 48
NEXT_MINUTES_X2 ?= 2.78
NEXT_MINUTES_X3 ?= 2.89
NEXT_MINUTES_X4 ?= 3.12
NEXT_SHRINK_X2 ?= 0.8 0.6
else
LAST ?= --lr 1e-3 --ema 0.998
SIZE_X2 ?= --batch_size 8 --patch_size 48
SIZE_X3 ?= --batch_size 8 --patch_size 36
SIZE_X4 ?= --batch_size 8 --patch_size 36
MINUTES_X2 ?= 60
MINUTES_X3 ?= 60
MINUTES_X4 ?= 62
SHRINK_X2 ?= 0.6
SHRINK_X3 ?= 0.6
SHRINK_X4 ?= 0.6
endif
MAX_STEPS ?= 1000000
TARGETS := $(if $(TEACHERS),distilled,photographs)
X2_24 := $(RUNS)/x2/cfsrcnn_x2_$(STEPS_24).pth
X2_48 := $(RUNS)/x2/cfsrcnn_x2_48_$(STEPS_48).pth
X2_48B := $(RUNS)/x2/cfsrcnn_x2_48b_$(STEPS_48B).pth
X2_FIRST := $(RUNS)/x2/cfsrcnn_x2_$(TARGETS)_first_$(STEPS_FIRST).pth
X2 := $(RUNS)/x2/cfsrcnn_x2_$(TARGETS).pth
X3 := $(RUNS)/x3/cfsrcnn_x3_$(TARGETS).pth
X4 := $(RUNS)/x4/cfsrcnn_x4_$(TARGETS).pth
VALIDATION = $(if $(filter-out 0,$(HELD_OUT)),$(RUNS)/images_held_out,none)
TRAIN = $(RUN) train.py --model cfsrcnn --val_data_dir $(VALIDATION) --optimizer muon --lr_schedule cosine \
	--warmup $(WARMUP) --clip 1 --loss_fn L1 --precision $(PRECISION) --print_interval 500 --resume --ckpt_dir $(@D)

train-x2: $(X2)
train-x3: $(X3)
train-x4: $(X4)

CHECK_IMAGES = @test -n "$(IMAGES)" || { echo "error: name a folder of photographs: make train-x2 IMAGES=FOLDER" >&2; exit 2; }

$(RUNS)/images.h5: | .venv/installed
	$(CHECK_IMAGES)
	$(RUN) div2h5.py --source "$(IMAGES)" $(if $(EXTRA),--extra "$(EXTRA)") --hold_out $(HELD_OUT) --out $@

# $(call photographs,FRACTIONS) and $(call distilled,FRACTIONS): each image again at these fractions of its size.
define photographs
$(CHECK_IMAGES)
$(RUN) div2h5.py --source "$(IMAGES)" $(if $(EXTRA),--extra "$(EXTRA)") --hold_out $(HELD_OUT) --shrink $1 --scales $* --out $@
endef

$(RUNS)/photographs_x%.h5: | .venv/installed
	$(call photographs,$(SHRINK_X$*))

$(RUNS)/photographs_next_x%.h5: | .venv/installed
	$(call photographs,$(NEXT_SHRINK_X$*))

# The weights as published: rlfn_x2.pth and net_g_BSRN_x2.pth, or bsrn_x2.pth. RLFN has none for x3: BSRN alone teaches there, on
# a GPU by the mean of its outputs for the 8 dihedral transforms.
RLFN = $(addprefix --teacher rlfn=,$(wildcard $(TEACHERS)/rlfn_x$*.pth))
BSRN = $(addprefix --teacher bsrn=,$(firstword $(wildcard $(TEACHERS)/bsrn_x$*.pth $(TEACHERS)/net_g_BSRN_x$*.pth)))
define distilled
$(CHECK_IMAGES)
@test -n "$(RLFN)$(BSRN)" || { echo "error: $(TEACHERS) has neither rlfn_x$*.pth nor bsrn_x$*.pth" >&2; exit 2; }
$(RUN) -m training.distillation --scale $* $(strip $(RLFN) $(BSRN)) --source "$(IMAGES)" $(if $(EXTRA),"$(EXTRA)") --hold_out $(HELD_OUT) \
	--shrink $1 $(if $(GPU),$(if $(and $(RLFN),$(BSRN)),,--self_ensemble)) --out $@
endef

$(RUNS)/distilled_x%.h5: | .venv/installed
	$(call distilled,$(SHRINK_X$*))

$(RUNS)/distilled_next_x%.h5: | .venv/installed
	$(call distilled,$(NEXT_SHRINK_X$*))

$(X2_24): | $(RUNS)/images.h5 $(RUNS)/photographs_x2.h5
	$(TRAIN) --scale 2 --train_data_path $(RUNS)/images.h5 --init identity --patch_size 24 --batch_size 8 --lr 1e-3 --ema 0.999 \
		--max_steps $(STEPS_24) --ckpt_name cfsrcnn_x2

$(X2_48): | $(X2_24)
	$(TRAIN) --scale 2 --train_data_path $(RUNS)/images.h5 --pretrained $(X2_24) --patch_size 48 --batch_size 4 --lr 5e-4 \
		--ema 0.999 --max_steps $(STEPS_48) --ckpt_name cfsrcnn_x2_48

$(X2_48B): | $(X2_48)
	$(TRAIN) --scale 2 --train_data_path $(RUNS)/photographs_x2.h5 --pretrained $(X2_48) --patch_size 48 --batch_size 8 --lr 1e-3 \
		--ema 0.999 --max_steps $(STEPS_48B) --ckpt_name cfsrcnn_x2_48b

$(X2_FIRST): | $(X2_48B) $(RUNS)/$(TARGETS)_x2.h5
	$(TRAIN) --scale 2 --train_data_path $(RUNS)/$(TARGETS)_x2.h5 --pretrained $(X2_48B) --patch_size 48 --batch_size 8 --lr 1e-3 \
		--ema 0.998 --hard_crops 4 --max_steps $(STEPS_FIRST) --ckpt_name cfsrcnn_x2_$(TARGETS)_first

# A last stage, $(call last_stage,SCALE,INITIAL WEIGHTS,TRAINING SET,MINUTES,FLAGS), and its last checkpoint under the target's name.
define last_stage
$(TRAIN) --scale $1 --train_data_path $3 --pretrained $2 $5 --max_minutes $4 --max_steps $(MAX_STEPS) --ckpt_name $(basename $(@F))
cp "$$(ls -t $(basename $@)_[0-9]*.pth | head -n 1)" $@.part && mv $@.part $@
endef
# On a GPU two of them follow one another, which made the pretrained weights: "last", then "next".
last = $(call last_stage,$1,$2,$(RUNS)/$(TARGETS)_x$1.h5,$(MINUTES_X$1),$(SIZE_X$1) $(LAST) --hard_crops 4)
next = $(call last_stage,$1,$2,$3,$(NEXT_MINUTES_X$1),$(NEXT_SIZE_X$1) $(NEXT) --hard_crops 16)

ifdef GPU
X2_LAST := $(RUNS)/x2/cfsrcnn_x2_$(TARGETS)_gpu.pth
X3_LAST := $(RUNS)/x3/cfsrcnn_x3_$(TARGETS)_gpu.pth
X4_LAST := $(RUNS)/x4/cfsrcnn_x4_$(TARGETS)_gpu.pth

$(X2): | $(X2_LAST) $(RUNS)/$(TARGETS)_next_x2.h5
	$(call next,2,$(X2_LAST),$(RUNS)/$(TARGETS)_next_x2.h5)

$(X3): | $(X3_LAST) $(RUNS)/$(TARGETS)_x3.h5
	$(call next,3,$(X3_LAST),$(RUNS)/$(TARGETS)_x3.h5)

$(X4): | $(X4_LAST) $(RUNS)/$(TARGETS)_x4.h5
	$(call next,4,$(X4_LAST),$(RUNS)/$(TARGETS)_x4.h5)
else
X2_LAST := $(X2)
X3_LAST := $(X3)
X4_LAST := $(X4)
endif

$(X2_LAST): | $(X2_FIRST) $(RUNS)/$(TARGETS)_x2.h5
	$(call last,2,$(X2_FIRST))

$(X3_LAST): | $(X2_LAST) $(RUNS)/$(TARGETS)_x3.h5
	$(call last,3,$(X2_LAST))

$(X4_LAST): | $(X2_LAST) $(RUNS)/$(TARGETS)_x4.h5
	$(call last,4,$(X2_LAST))

# On top of .venv, whose packages it sees: Gradio allows no Pillow as new as .venv's, which stays as it is.
SITE := -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
.venv-app/ready: requirements-app.txt | .venv/installed
	$(RUN) -m venv --without-pip .venv-app
	$(RUN) $(SITE) > "$$(.venv-app/bin/python $(SITE))/base.pth"
	.venv-app/bin/python -m pip install --quiet -r requirements-app.txt
	touch $@

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
