#!/usr/bin/env bash
# Blind-Particle Spread with 1,024 agents in 3 colours: what generates networks learns who is who, one network for all cannot.
# Usage: experiments/agents/run.sh [folder]
set -euo pipefail
folder=${1:-runs/agents}
export OMP_NUM_THREADS=1
for seed in ${SEEDS:-0 1}; do
  for sharing in ${SHARINGS:-hyper_mlp shared}; do
    python -m hypermarl train env=spread/bps_1 env.options.n_agents=1024 env.num_envs=4 sharing="$sharing" seed="$seed" \
      train.steps=64 train.frames="${FRAMES:-5120}" algorithm.lr=1e-3 algorithm.epochs=4 algorithm.minibatches=4 \
      algorithm.gamma=0.95 algorithm.lam=0.95 algorithm.normalise_advantage=all algorithm.entropy=0.001 \
      train.log_every=2 train.tensorboard=false train.progress=false evaluation.video=false evaluation.episodes=16 \
      train.folder="$folder" train.run="${sharing}_$seed"
  done
done
