# The rules behind run_v1.sh ... run_v4.sh: what each stage needs, makes and runs.
#
# `pipeline.sh` starts make in the OUT folder, so that every name here is relative and without spaces, and
# sets: BIN (programs), OUT, TEST (quoted for the shell), WANT (folder with the settings of this run),
# *_FLAGS (of the stages), DRY (1: print only), NAMES (with DRY and -n: only the stages' names), PYTHON, HELPER.
# Batch systems run the same command lines: `make stages` prints them as shell functions (see stage.sh).
#
# A stage is done when `.done/STAGE` is there: it holds the settings that the stage ran with, and its time
# says when. `.done/STAGE.started` is the same, written before.

SHELL := /bin/bash
.SUFFIXES:
.DELETE_ON_ERROR:
.NOTPARALLEL: # stages follow each other; side by side run the workers of one training
.PHONY: all stages FORCE
all: .done/evaluate

# $(call stale,STAGE,RESULT): FORCE if the stage's settings differ from the last run's, or its result is gone.
stale = $(shell test -e $2 && cmp -s $(WANT)/$1 .done/$1 || echo FORCE)
# $(call foreign,STAGE): --overwrite if the stage's folder holds something that this run made, or started, with other settings.
foreign = $(shell for f in .done/$1 .done/$1.started; do test -e $$f && ! cmp -s $(WANT)/$1 $$f && echo --overwrite && break; done)

# The command lines of the chain; nowhere else are they written.
PREPARE = $(strip $(BIN)/prepare --config $(OUT)/config.json --output $(OUT)/data $(PREPARE_FLAGS))
CREATE = $(strip $(BIN)/search create --config $(OUT)/config.json --study $(OUT)/study $(SEARCH_FLAGS))
TRAIN = $(strip $(BIN)/train --study $(OUT)/study --data $(OUT)/data $(TRAIN_FLAGS))
EVALUATE = $(strip $(BIN)/evaluate --model $(OUT)/study/best.onnx --data $(TEST) --output $(OUT)/report --overwrite $(EVALUATE_FLAGS))

# $(call start,STAGE), $(call run,STAGE,COMMAND), $(call finish,STAGE): the three parts of each recipe. `exec` makes the
# stage itself make's child, so that it hears of signals.
ifdef DRY
start =
run = $(if $(NAMES),$1,$(strip $2))
finish =
else
start = mkdir -p .done && cp $(WANT)/$1 .done/$1.started
run = printf '\n$$ %s\n' '$(subst ','\'',$(strip $2))' >&2; exec $(strip $2)
finish = cp .done/$1.started .done/$1
endif

# NPZ files -> splits
.done/prepare: $(call stale,prepare,data/manifest.json)
	$(call start,prepare)
	$(call run,prepare,$(PREPARE) $(call foreign,prepare))
	$(if $(DRY),,$(PYTHON) $(HELPER) training-data data/manifest.json .done/training-data)
	$(call finish,prepare)

# What the training sees of the splits; its time moves only when that changes, which a dry run can't know.
ifdef DRY
.done/training-data: | .done/prepare
else
.done/training-data: .done/prepare
	true
endif

# Search space and budget -> study. A study of other settings or data is set aside, never deleted.
.done/study: .done/training-data $(call stale,study,study/study.json)
	$(if $(DRY),,$(PYTHON) $(HELPER) set-aside-study $(WANT)/study)
	$(call start,study)
	$(call run,study,$(CREATE))
	$(call finish,study)

# Study -> trained trials and the best model
.done/train: .done/study $(call stale,train,study/best.onnx)
	$(call start,train)
	$(call run,train,$(TRAIN))
	$(call finish,train)

# Best model and test set -> report
.done/evaluate: .done/prepare .done/train $(wildcard $(WANT)/test/. $(WANT)/test/*.parquet) $(call stale,evaluate,report/report.json)
	$(call start,evaluate)
	$(call run,evaluate,$(EVALUATE))
	$(call finish,evaluate)

# For batch systems: the same command lines as shell functions, the work of `prepare` in shards.
define STAGES
prepare_all() { exec $(PREPARE) $(call foreign,prepare); }
prepare_scan() { exec $(PREPARE) $(call foreign,prepare) --phase scan --shard "$$shard"; }
prepare_plan() { exec $(PREPARE) $(call foreign,prepare) --phase plan; }
prepare_write() { exec $(PREPARE) $(call foreign,prepare) --phase write --shard "$$shard"; }
search_create() { exec $(CREATE); }
train_study() { exec $(TRAIN); }
evaluate_best() { exec $(EVALUATE); }
note_training_data() { $(PYTHON) $(HELPER) training-data data/manifest.json .done/training-data; }
set_aside_study() { $(PYTHON) $(HELPER) set-aside-study batch/want/study; }
study_status() { $(BIN)/search status --study $(OUT)/study; }
print_summary() { $(PYTHON) $(HELPER) summary $(OUT)/report; }
endef
stages:
	$(info $(STAGES))
	@:
