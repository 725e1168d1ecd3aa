#!/usr/bin/env bash
# The larger run that a CPU does not reach: MODEL is a folder of a Hugging Face causal model as safetensors (1B to 8B).
#   MODEL=/models/Qwen3-4B-Instruct experiments/language/gpu.sh
set -euo pipefail
: "${MODEL:?say which model: MODEL=FOLDER $0}"
SEEDS="${SEEDS:-0 1 2}"
common="backbone.model=$MODEL device=cuda backbone.frame=chat train.folder=runs/language-gpu train.lr=1e-3 teach.unrelated=1"
for seed in $SEEDS; do
  for sharing in hyper_text hyper_t2l hyper_modulated hyper_text_id shared shared_id independent; do
    hypermarl language train task=roles sharing=$sharing $common teach.roles=26 teach.rows=8 teach.items=16 \
      train.updates=2000 train.evaluate_every=500 seed=$seed train.run=roles-$sharing-s$seed
  done
  for sharing in hyper_reader hyper_text shared_id; do
    hypermarl language train task=conditional sharing=$sharing $common teach.roles=32 teach.rows=8 teach.items=16 \
      train.updates=4000 train.evaluate_every=1000 seed=$seed train.run=conditional-$sharing-s$seed
  done
  for sharing in hyper_document hyper_reader shared_id; do
    hypermarl language train task=documents sharing=$sharing $common teach.roles=8 teach.rows=8 teach.items=12 \
      teach.distil=0.5 train.updates=4000 train.evaluate_every=1000 seed=$seed train.run=documents-$sharing-s$seed
  done
done
