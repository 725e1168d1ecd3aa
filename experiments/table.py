"""One results table from run folders: IQM over seeds with a 95 % bootstrap interval, as Markdown.

    python experiments/table.py METRIC RUN [RUN ...]

METRIC is a column of metrics.csv, for instance Final/mean_reward_per_step, Final/return or evaluation/team; with
METRIC@FRAME the row nearest to that frame is read, else the last one that has a value. A run that trained several seeds
counts once per seed.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from hypermarl.evaluation.statistics import interval, iqm
from hypermarl.runs import RunFolder


def value(folder: Path, metric: str) -> float:
    """The metric of one seed."""
    name, _, frame = metric.partition("@")
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [(int(row["frame"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    if not rows:
        raise SystemExit(f"{folder} has no {name}")
    return min(rows, key=lambda row: abs(row[0] - int(float(frame))))[1] if frame else rows[-1][1]


def line(path: Path, metric: str) -> str:
    """One row of the table."""
    run = RunFolder.open(path)
    seeds = run.seeds() or [run]
    scores = np.array([value(seed.path, metric) for seed in seeds])[:, None]
    bounds = interval(iqm, scores)
    each = " ".join(f"{score:.3f}" for score in scores[:, 0])
    config = run.config
    env = f"{config['env']['kind']}/{config['env']['name']}"
    agents = sum(len(group["agents"]) for group in run.groups.values())
    middle = f"{bounds.point:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
    return f"| {env} | {agents} | {config['sharing']['name']} | {config['algorithm']['name']} | {middle} | {each} |"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    print(
        f"| environment | agents | sharing | algorithm | {sys.argv[1]}, IQM [95 %] | seeds |\n|---|---|---|---|---|---|"
    )
    for argument in sys.argv[2:]:
        print(line(Path(argument), sys.argv[1]))
