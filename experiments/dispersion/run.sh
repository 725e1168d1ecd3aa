#!/usr/bin/env bash
# VMAS Dispersion at the paper's setting, 5M frames, seeds 0 to 4 as one batch.
set -euo pipefail
out=${1:-runs/dispersion}
for sharing in shared_id hyper_mlp; do
  [ -d "$out/$sharing" ] && continue
  hypermarl train env=vmas/dispersion sharing=$sharing seeds=5 seed=0 train.frames=5_000_000 \
    train.folder="$out" train.run=$sharing train.progress=false evaluation.video=false > /dev/null
done
python "$(dirname "$0")/../table.py" Final/return "$out"/*
