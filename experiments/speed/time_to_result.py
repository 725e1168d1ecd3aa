"""When the IQM over seeds of the greedy return passes a level, and what it took, as Markdown.

    python experiments/speed/time_to_result.py LEVEL SOURCE [SOURCE ...]

A SOURCE is a folder of `learn_benchmarl.py`, which may hold several sharings, or RUN@SPEED: a run of several seeds
and the frames of all seeds that its command makes in a second of CPU time (`results.json` has it, rows five_seeds_*).
Seconds are CPU seconds of training, of all seeds together: theirs as recorded, summed over their runs; ours frames
divided by speed. IQM of fewer than five seeds is not much of a result, so their number stands beside it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hypermarl.evaluation.statistics import iqm
from hypermarl.runs import RunFolder


@dataclass(frozen=True)
class Curve:
    """The greedy returns `[R, P]` of R seeds at P frames, and the seconds until then of all of them."""

    name: str
    frames: list[int]
    returns: np.ndarray
    seconds: list[float]

    def line(self, level: float) -> str:
        middle = [float(iqm(column[:, None])) for column in self.returns.T]
        reached = next((i for i, score in enumerate(middle) if score >= level), None)
        seeds = len(self.returns)
        last = f"{middle[-1]:.2f} at {self.frames[-1] / 1e6:.2f}M"
        if reached is None:
            return (
                f"| {self.name} | {seeds} | not by {self.frames[-1] / 1e6:.2f}M | > {self.seconds[-1]:,.0f} | {last} |"
            )
        return f"| {self.name} | {seeds} | {self.frames[reached] / 1e6:.2f}M | {self.seconds[reached]:,.0f} | {last} |"


def _read(path: Path, *names: str) -> dict[int, tuple[float, ...]]:
    """Rows of a CSV file that have all these columns, by frame."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.get(name) for name in names)]
    return {int(row["frame"]): tuple(float(row[name]) for name in names) for row in rows}


def theirs(folder: Path) -> Iterator[Curve]:
    """One curve per sharing, as far as all its seeds have come."""
    for sharing in sorted({path.stem.rpartition("_")[0] for path in folder.glob("*.csv")}):
        seeds = [_read(path, "return_greedy", "cpu") for path in sorted(folder.glob(f"{sharing}_*.csv"))]
        frames = sorted(set.intersection(*(set(seed) for seed in seeds)))
        if frames:
            returns = np.array([[seed[frame][0] for frame in frames] for seed in seeds])
            seconds = [sum(seed[frame][1] for seed in seeds) for frame in frames]
            yield Curve(f"BenchMARL, {sharing}", frames, returns, seconds)


def ours(path: Path, speed: float) -> Curve:
    run = RunFolder.open(path)
    seeds = [_read(seed.path / "metrics.csv", "evaluation/team") for seed in run.seeds() or [run]]
    frames = sorted(set.intersection(*(set(seed) for seed in seeds)))
    returns = np.array([[seed[frame][0] for frame in frames] for seed in seeds])
    return Curve(f"ours, {run.config['sharing']['name']}", frames, returns, [f * len(seeds) / speed for f in frames])


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    level = float(sys.argv[1])
    print(f"| | seeds | IQM passes {level:g} at frame | CPU seconds, all seeds | last IQM |\n|---|---|---|---|---|")
    for source in sys.argv[2:]:
        path, sign, speed = source.rpartition("@")
        for curve in [ours(Path(path), float(speed))] if sign else theirs(Path(source)):
            print(curve.line(level))


if __name__ == "__main__":
    main()
