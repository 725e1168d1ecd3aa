#!/usr/bin/env bash
# BenchMARL on Dispersion until 5M frames, seeds 0 to 4, first independent, then shared networks; hours. What is done is left alone.
set -euo pipefail
here=$(dirname "$0")
python=${BENCHMARL_PYTHON:-.venv-benchmarl/bin/python}
out=${1:-runs/benchmarl}
export OMP_NUM_THREADS=1 TQDM_DISABLE=1 PYTHONWARNINGS=ignore
for sharing in independent shared; do
  for seed in 0 1 2 3 4; do
    "$python" "$here/learn_benchmarl.py" --sharing "$sharing" --seed "$seed" --out "$out"
  done
done
