#!/usr/bin/env bash
# mpe2 simple_spread_v3 trained from PettingZoo (25 steps, 3 agents, discrete actions). Seeds 0 to 2 as one batch.
set -euo pipefail
out=${1:-runs/spread}
for sharing in hyper_mlp; do
  [ -d "$out/$sharing" ] && continue
  hypermarl train env=pettingzoo/mpe2.simple_spread_v3 sharing=$sharing seeds=3 seed=0 train.frames=200_000 \
    evaluation.every=20_000 evaluation.episodes=64 train.folder="$out" train.run=$sharing train.progress=false \
    evaluation.video=false > /dev/null
done
python "$(dirname "$0")/../table.py" Final/return "$out"/*
