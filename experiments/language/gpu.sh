#!/usr/bin/env bash
# The larger run that a CPU does not reach: MODEL is a folder of a Hugging Face causal model as safetensors (1B to 8B).
#   MODEL=/models/Qwen3-4B-Instruct experiments/language/gpu.sh
# Started again, it goes on where it was stopped. DEVICE=cpu and DRY=--dry-run only show what would be trained.
set -euo pipefail
: "${MODEL:?say which model: MODEL=FOLDER $0}"
SEEDS="${SEEDS:-0 1 2}"
RUNS=runs/language-gpu

run() { # name, then the words after `hypermarl`
  local name=$1
  shift
  if [ -e "$RUNS/$name/results.json" ]; then
    echo "$name is there"
  elif [ -e "$RUNS/$name/config.json" ]; then
    hypermarl resume "$RUNS/$name"
  else
    hypermarl "$1" train ${DRY:-} "${@:2}" backbone.model="$MODEL" backbone.frame=chat device="${DEVICE:-cuda}" \
      train.folder="$RUNS" train.run="$name"
  fi
}

for seed in $SEEDS; do
  for sharing in hyper_text hyper_t2l hyper_modulated hyper_text_id shared shared_id independent; do
    run "roles-$sharing-s$seed" language task=roles sharing=$sharing teach.roles=26 teach.rows=8 teach.items=16 \
      train.lr=1e-3 train.updates=2000 train.evaluate_every=500 seed="$seed"
  done
  for sharing in hyper_reader hyper_text shared_id; do
    run "conditional-$sharing-s$seed" language task=conditional sharing=$sharing teach.roles=32 teach.rows=8 \
      teach.items=16 train.lr=1e-3 train.updates=4000 train.evaluate_every=1000 seed="$seed"
  done
  for sharing in hyper_document hyper_reader shared_id; do
    run "documents-$sharing-s$seed" language task=documents sharing=$sharing teach.roles=8 teach.rows=8 teach.items=12 \
      teach.distil=0.5 train.lr=1e-3 train.updates=4000 train.evaluate_every=1000 seed="$seed"
  done
  for sharing in hyper_text hyper_mlp independent shared shared_id; do
    for agents in 4 8 16; do
      run "specialisation-$agents-$sharing-s$seed" swarm env=words/specialisation env.options.n_agents=$agents \
        sharing=$sharing train.updates=$((agents < 16 ? 20 * agents : 240)) seed="$seed"
    done
    run "synchronisation-8-$sharing-s$seed" swarm env=words/synchronisation env.options.n_agents=8 sharing=$sharing \
      train.updates=80 seed="$seed"
    run "relay-$sharing-s$seed" swarm env=words/relay sharing=$sharing train.updates=300 seed="$seed"
  done
done
