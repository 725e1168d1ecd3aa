"""Train what `cells.py` lists, one after another, each in a process of its own; what was stopped goes on.

OMP_NUM_THREADS=1 python experiments/language/learn.py swarm --seeds 0 1 2 3 4 --only "specialisation 4"
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from cells import CELLS, FOLDER, QUIET, run_name


def command(experiment: str, system: str, seed: int) -> list[str] | None:
    """What is to be run for this cell; None if it is there."""
    name = run_name(experiment, system, seed)
    path = Path(FOLDER) / name
    if (path / "results.json").exists():
        return None
    base = [sys.executable, "-m", "hypermarl"]
    if (path / "config.json").exists():
        return [*base, "resume", str(path)]
    own = [f"seed={seed}", f"train.folder={FOLDER}", f"train.run={name}"]
    return [*base, *CELLS[experiment][system].split(), *QUIET.split(), *own]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=CELLS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=[], help="systems, or a part of their names between commas")
    asked = parser.parse_args()
    for seed in asked.seeds:
        for system in CELLS[asked.experiment]:
            if asked.only and not any(word == system or word in system.split(", ") for word in asked.only):
                continue
            words = command(asked.experiment, system, seed)
            if words is None:
                continue
            print(" ".join(words[3:]), flush=True)
            done = subprocess.run(words, check=False)
            if done.returncode != 0:
                print(f"{system}, seed {seed}: exit code {done.returncode}", flush=True)


if __name__ == "__main__":
    main()
