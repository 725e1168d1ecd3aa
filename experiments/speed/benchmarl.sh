#!/usr/bin/env bash
# BenchMARL 1.5.2 in an environment of its own: it wants an older TorchRL than ours.
#   experiments/speed/benchmarl.sh [FOLDER]      PYTHON=python3.11 chooses the interpreter
# The one torch version fixes torchvision's, and keeps pip from fetching another torch. Where that torch is a CPU build,
# torchvision cannot be imported; BenchMARL lists it but trains VMAS without it. TorchRL's C++ extension may say that
# it does not load: prioritised replay lacks it, PPO does not.
set -euo pipefail
folder=${1:-.venv-benchmarl}
torch=torch==2.13.0
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install -q "$torch"
"$folder/bin/python" -m pip install -q -c <(echo "$torch") \
  benchmarl==1.5.2 torchrl==0.11.1 tensordict==0.11.0 vmas==1.5.2 numpy==2.4.6
OMP_NUM_THREADS=1 TQDM_DISABLE=1 PYTHONWARNINGS=ignore \
  "$folder/bin/python" "$(dirname "$0")/theirs.py" navigation --envs 16 --warmup 1 --iterations 2 > /dev/null
touch "$folder/installed"
