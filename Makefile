# svkit from recordings to a report. `make all` needs only Python 3.10-3.13: it makes the virtual environment, renders the
# demo corpus, and runs every stage. A finished stage runs again only if its settings or inputs have changed.
#
#   make all                                    the demo, about ten minutes on two cores
#   make all CORPUS=folder ROOT=DIR PRESET=tiny your own recordings, in a directory for each speaker; again after you added
#                                               some. EVAL_SPEAKERS=N: so many evaluate
#   make all CORPUS=voxceleb VOXCELEB=DIR MUSAN=DIR RIRS=DIR PRESET=w2v-bert-2.0 ENCODER=facebook/w2v-bert-2.0 NPROC=8
#
# SPARSITY=0.5 prunes half of the encoder. EXP=DIR is the experiment's directory; to start anew, delete it.
# EXP must not contain spaces, which make cannot handle; other paths may.

CORPUS ?= demo
EXP ?= $(if $(filter demo,$(CORPUS)),exp,exp-$(CORPUS))
PRESET ?= $(if $(filter demo,$(CORPUS)),tiny,w2v-bert-2.0)
SPARSITY ?= 0.8
NPROC ?= 1
# If these are empty, the experiment keeps what it was made with (exp/config.toml); a new one takes the preset's encoder and
# seed, and the augmentation material that is named. AUGMENT=none switches augmentation off, AUGMENT=all on again.
ENCODER ?=
SEED ?=
AUGMENT ?=
LEVELS ?=
# The manifest of the cohort, which `make calibrated` uses for adaptive S-norm; by default the training list.
COHORT ?= $(EXP)/data/train.tsv
ROOT ?=
VOXCELEB ?= $(SVKIT_VOXCELEB)
EVAL_SPEAKERS ?=
TRIALS ?=
NOISE ?=
MUSIC ?=
MUSAN ?=
RIRS ?=

PYTHON ?= python3
VENV ?= .venv
SETUP ?= $(VENV)/.installed
SVKIT ?= $(VENV)/bin/svkit
TORCHRUN ?= $(VENV)/bin/torchrun

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup all prepare report calibrated sparsity-sweep pruning-quality test test-slow check static format docs dist \
        bench soak clean FORCE

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile
	@echo 'Targets: setup all calibrated sparsity-sweep pruning-quality test test-slow check static format docs dist bench soak clean'

# ---- Set-up -------------------------------------------------------------------------------------------------------

setup: $(SETUP)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing svkit and its packages (about 6 GB) in $(VENV); this takes minutes'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# ---- The chain ----------------------------------------------------------------------------------------------------

# Quotes a path as one word of the shell, whatever is in it.
quote = '$(subst ','\'',$(1))'
# $(call option,--flag,VALUE) gives the option, or nothing if VALUE is empty.
option = $(if $(strip $(2)),$(1) $(call quote,$(2)))
# Flags for output that already exists: finished output is kept if its settings and inputs are the same, else replaced.
# Unfinished output gets no flag, so svkit resumes it, or says what differs.
update = $(if $(wildcard $@),--keep-finished --overwrite)

recipe = --exp $(EXP) --preset $(call quote,$(PRESET)) $(if $(SEED),--set seed=$(SEED))
# Of a folder, svkit knows the settings but not whether its files are the same, so what was prepared is not kept.
prepared = $(wildcard $(EXP)/data/provenance.json)
prepare_options = $(if $(prepared),$(if $(filter folder,$(CORPUS)),,--keep-finished) --overwrite) \
    --preset $(call quote,$(PRESET)) $(call option,--encoder,$(ENCODER)) \
    $(call option,--seed,$(SEED)) $(call option,--eval-speakers,$(EVAL_SPEAKERS)) $(call option,--trials,$(TRIALS))
launch = $(if $(filter-out 0 1,$(NPROC)),$(TORCHRUN) --standalone --nproc-per-node $(NPROC) -m svkit,$(SVKIT))
augment = $(if $(AUGMENT),$(if $(filter none,$(AUGMENT)),--no-augment,--augment))
corpus_root = $(if $(filter voxceleb,$(CORPUS)),$(VOXCELEB),$(if $(filter demo,$(CORPUS)),,$(ROOT)))

# Which files your own recordings have, so that more or fewer are noticed; a published corpus does not change.
listing := $(if $(filter folder,$(CORPUS)),$(if $(ROOT),$(shell find -L $(call quote,$(ROOT)) -type f 2>/dev/null | LC_ALL=C sort | cksum)))

define data_settings
corpus=$(CORPUS) root=$(corpus_root) eval_speakers=$(EVAL_SPEAKERS) trials=$(TRIALS) seed=$(SEED)
noise=$(NOISE) music=$(MUSIC) musan=$(MUSAN) rirs=$(RIRS) $(if $(listing),files=$(listing))
endef
define model_settings
preset=$(PRESET) encoder=$(ENCODER) augment=$(AUGMENT) seed=$(SEED) sparsity=$(SPARSITY)
endef
export data_settings model_settings

benchmarks := $(dir $(lastword $(MAKEFILE_LIST)))benchmarks
# Benchmarks that need only random weights and numbers. Those that read crops also run if the recordings are there.
speed := features encoder_speed pruned_speed training_speed scoring
VOICES ?= ../shared/voices
FOLDS ?= exp-folds
ONLY_FOLDS ?=

data := $(EXP)/.make/prepared
dense := $(EXP)/finetune/lmft/provenance.json
pruned_structure := $(EXP)/prune/provenance.json
distilled := $(EXP)/distill/provenance.json
pruned := $(EXP)/finetune-pruned/lmft/provenance.json
embeddings := $(EXP)/embeddings/pruned/provenance.json

# make deletes targets when it is interrupted; these mark finished stages and must stay.
.PRECIOUS: $(dense) $(pruned_structure) $(distilled) $(pruned) $(embeddings)

all: report

# These files hold the settings of the last run, and are rewritten only if a setting has changed.
$(EXP)/.make/data $(EXP)/.make/model: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' "$$$(@F)_settings" | cmp --silent - $@ || printf '%s\n' "$$$(@F)_settings" > $@

prepare: $(data)

$(data): $(EXP)/.make/data | $(SETUP)
ifneq ($(filter w2v-bert-2.0%,$(PRESET)),)
ifneq ($(AUGMENT),none)
	@if [ -z $(call quote,$(NOISE)$(MUSAN)) ] || [ -z $(call quote,$(RIRS)) ]; then \
	    echo 'error: the published recipe $(PRESET) needs noise and room impulse responses: give MUSAN=DIR (or' \
	        'NOISE=DIR and MUSIC=DIR) and RIRS=DIR, or AUGMENT=none' >&2; exit 2; fi
endif
endif
ifneq ($(filter-out demo voxceleb,$(CORPUS)),)
	@[ -n $(call quote,$(ROOT)) ] || { echo 'error: CORPUS=$(CORPUS) needs ROOT=DIR' >&2; exit 2; }
endif
	$(SVKIT) prepare $(CORPUS)$(if $(corpus_root), $(call quote,$(corpus_root))) --exp $(EXP) $(prepare_options)
	$(if $(NOISE),$(SVKIT) prepare noise $(call quote,$(NOISE)) --exp $(EXP) --keep-finished --overwrite)
	$(if $(MUSIC),$(SVKIT) prepare music $(call quote,$(MUSIC)) --exp $(EXP) --keep-finished --overwrite)
	$(if $(MUSAN),$(SVKIT) prepare musan $(call quote,$(MUSAN)) --exp $(EXP) --keep-finished --overwrite)
	$(if $(RIRS),$(SVKIT) prepare rirs $(call quote,$(RIRS)) --exp $(EXP) --keep-finished --overwrite)
	@touch $@

# Lists that were prepared by hand count, too.
$(dense): $(data) $(EXP)/.make/model $(prepared) | $(SETUP)
	$(launch) finetune $(recipe) $(call option,--encoder,$(ENCODER)) $(augment) $(update)
	@touch $@

$(pruned_structure): $(dense) | $(SETUP)
	$(launch) prune --sparsity $(SPARSITY) $(recipe) $(update)
	@touch $@

$(distilled): $(pruned_structure) | $(SETUP)
	$(launch) distill $(recipe) $(update)
	@touch $@

$(pruned): $(distilled) | $(SETUP)
	$(launch) finetune --from $(EXP)/distill $(recipe) $(augment) $(update)
	@touch $@

$(embeddings): $(pruned) $(dense) $(data) | $(SETUP)
	$(launch) extract $(recipe) $(update)
	@touch $@

$(EXP)/scores/.scored: $(embeddings) | $(SETUP)
	for list in $(EXP)/data/trials/*.txt; do \
	    $(SVKIT) score "$$list" --exp $(EXP) --keep-finished --overwrite; done
	@touch $@

report: $(EXP)/scores/.scored | $(SETUP)
	$(SVKIT) report --exp $(EXP) --keep-finished --overwrite

# The last step of the paper: adaptive S-norm, then a calibration that computes log-likelihood ratios from score, durations,
# norms and mean scores against the cohort. It is learnt on the validation trials, whose speakers are neither in the training
# nor in the evaluation.
cohort = $(basename $(notdir $(COHORT)))
normed = --norm asnorm --cohort-speakers --qmf --exp $(EXP) --keep-finished --overwrite
calibrated: report
	$(launch) extract $(EXP)/data/valid.tsv $(recipe) --keep-finished --overwrite
	$(launch) extract $(call quote,$(COHORT)) $(recipe) --keep-finished --overwrite
	for model in dense pruned; do \
	    own=$(EXP)/embeddings/$$model; cohort="$$own-"$(call quote,$(cohort)); \
	    $(SVKIT) score $(EXP)/data/valid_trials.txt --embeddings $$own-valid --cohort "$$cohort" --calibrate $(normed); \
	    learnt=$(EXP)/scores/$$model-valid/valid_trials-asnorm-speakers-$${cohort##*/}/calibration.json; \
	    for list in $(EXP)/data/trials/*.txt; do \
	        $(SVKIT) score "$$list" --embeddings $$own --cohort "$$cohort" --calibration "$$learnt" $(normed); done; done
	$(SVKIT) report --exp $(EXP) --keep-finished --overwrite

# sparsity-sweep: EER against parameters, MACs and time at sparsities of 0.5 to 0.95, in $(EXP)/report/sweep.
# pruning-quality: the guided cut against other ways to the same size, over four folds of the voices, in docs/results; takes
# hours on two cores. Run it with ONLY_FOLDS="0 1" in one terminal and "2 3" in another to use both.
# Both keep finished parts.
sparsity-sweep: report
	$(VENV)/bin/python $(benchmarks)/sparsity_sweep.py --exp $(EXP) --preset $(call quote,$(PRESET)) \
	    $(call option,--seed,$(SEED)) $(filter --no-augment,$(augment)) $(if $(LEVELS),--levels $(LEVELS))

# Torch-Pruning, the peer, is not part of the set-up, because few users run this. PRECISION=bf16 halves the time on a
# processor with bf16 instructions (AVX512-BF16, AMX) and multiplies it by ten on any other.
pruning-quality: $(SETUP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(VENV)/bin/python $(benchmarks)/pruning_quality.py --voices $(call quote,$(VOICES)) --home $(FOLDS) \
	    $(if $(ONLY_FOLDS),--folds $(ONLY_FOLDS)) --sparsity $(SPARSITY) $(if $(PRECISION),--set precision=$(PRECISION))
	$(VENV)/bin/python $(benchmarks)/figures.py

# ---- Checks -------------------------------------------------------------------------------------------------------

# The tests run in JOBS processes and in random order; the output says how to repeat that order. To run them in one process
# and in the order of the files: pytest -p no:randomly.
JOBS ?= 2
test: $(SETUP)
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal -m 'not slow'

# The tests that `make test` leaves out, because they take seconds each. CI runs them, too.
test-slow: $(SETUP)
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal -m slow

check: static test-slow test

static: $(SETUP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

format: $(SETUP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/python $(benchmarks)/commands_page.py
	$(VENV)/bin/python $(benchmarks)/figures.py

# The documentation as a site in build/site; a broken link or anchor, and any other warning, is an error.
docs: $(SETUP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --config-file .ci/mkdocs.yml

# Writes to dist/ what goes to PyPI (docs/releasing.md). A TAG that is not the version is refused.
TAG ?=
dist: $(SETUP)
	@version=$$($(VENV)/bin/python -c 'from importlib.metadata import version; print(version("svkit"))'); \
	if [ -n '$(TAG)' ] && [ '$(TAG)' != "v$$version" ]; then \
	    echo "error: TAG=$(TAG): expected v$$version, the version in pyproject.toml" >&2; exit 2; fi
	rm -rf dist
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'twine>=6,<8'
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/python -m twine check --strict dist/*

# Runs the long tests that `make test` leaves out. Then, for SOAK_MINUTES, kills every stage, takes resources from it and
# starts it twice at once; the counts go to docs/results/soak.{json,md}.
SOAK_MINUTES ?= 10
RESULTS ?=
soak: $(SETUP)
	SVKIT_SOAK=1 $(VENV)/bin/python -m pytest tests/soak tests/hostile
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VENV)/bin/python -m tests.soak --minutes $(SOAK_MINUTES)

# All benchmarks run, even if one misses its target. With RESULTS=docs/results the figures are written there.
bench: $(SETUP)
	missed=; for name in $(speed); do \
	    $(VENV)/bin/python $(benchmarks)/$$name.py $(if $(RESULTS),--json $(RESULTS)/$$name.json) || missed="$$missed $$name"; \
	done; \
	if [ -d $(call quote,$(VOICES)) ]; then for name in data_loading shard_loading; do \
	    $(VENV)/bin/python $(benchmarks)/$$name.py $(call quote,$(VOICES)) $(if $(RESULTS),--json $(RESULTS)/$$name.json); \
	done; fi; \
	if [ -n "$$missed" ]; then echo "below a target:$$missed"; exit 1; fi

# Keeps the virtual environment and the experiments, because they took time to make.
clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .ci-venv-*
	find svkit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
