#!/usr/bin/env bash
# VMAS Navigation, 4 agents, unique goals: the paper's task with a batch and networks that a laptop finishes
# (64 environments, 2x64, 4 epochs) instead of the paper's (600, 2x256, 45 epochs). Seeds 0 to 2 as one batch.
set -euo pipefail
out=${1:-runs/navigation}
for sharing in hyper_mlp shared_id; do
  [ -d "$out/$sharing" ] && continue
  hypermarl train env=vmas/navigation_4_unique sharing=$sharing seeds=3 seed=0 train.frames=640_000 env.num_envs=64 \
    model.actor=[64,64] model.critic=[64,64] algorithm.lr=5e-4 algorithm.epochs=4 algorithm.minibatches=4 \
    evaluation.every=64_000 evaluation.episodes=64 train.folder="$out" train.run=$sharing train.progress=false \
    evaluation.video=false > /dev/null
done
python "$(dirname "$0")/../table.py" Final/return "$out"/*
