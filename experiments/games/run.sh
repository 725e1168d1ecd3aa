#!/usr/bin/env bash
# Temporal games, 10,240 environment steps, seeds 0 to 4 of every sharing mode trained as one batch.
set -euo pipefail
out=${1:-runs/games}
for game in specialisation synchronisation; do
  for agents in 4 8 16; do
    for sharing in shared shared_id independent hyper_linear hyper_mlp; do
      [ -d "$out/$game-$agents-$sharing" ] && continue
      hypermarl train env=games/$game env.options.n_agents=$agents sharing=$sharing seeds=5 seed=0 \
        train.folder="$out" train.run="$game-$agents-$sharing" train.progress=false evaluation.video=false > /dev/null
    done
  done
done
python "$(dirname "$0")/../table.py" Final/mean_reward_per_step "$out"/*-{4,8,16}-*
