"""Print the tables of an experiment from its run folders: interquartile means over seeds, 95 % bootstrap intervals.

python experiments/language/table.py roles
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from cells import CELLS, FOLDER, run_name

from hypermarl.evaluation.statistics import interval, iqm

SEEDS = range(10)


def results(experiment: str, system: str) -> list[dict]:
    """Of every seed that is finished."""
    paths = (Path(FOLDER) / run_name(experiment, system, seed) / "results.json" for seed in SEEDS)
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def halfway(experiment: str, system: str) -> dict[int, list[dict]]:
    """Evaluations during training, by update, of every seed that has come so far, in the same form."""
    found: dict[int, list[dict]] = {}
    for seed in SEEDS:
        path = Path(FOLDER) / run_name(experiment, system, seed) / "metrics.csv"
        if not path.exists():
            continue
        rows = [
            row
            for row in csv.DictReader(path.open())
            if row.get("evaluation/exact/seen") and not row.get("Final/exact/seen")
        ]
        for row in rows:
            values = {
                k.removeprefix("evaluation/"): float(v) for k, v in row.items() if k.startswith("evaluation/") and v
            }
            used = {"update": int(row["frame"]), "examples": int(float(row["examples"]))}
            found.setdefault(used["update"], []).append(
                {**used, "cpu_seconds": float(row["time/cpu_seconds"]), "results": values}
            )
    return found


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    found = interval(iqm, values)
    return f"{found.point:.2f} [{found.low:.2f}, {found.high:.2f}]"


def row(name: str, runs: list[dict], columns: list[str]) -> str:
    used = runs[0]
    of = [cell([run["results"][column] for run in runs if column in run["results"]]) for column in columns]
    cpu = sum(run["cpu_seconds"] for run in runs) / len(runs)
    return (
        f"| {name} | {len(runs)} | {used['update']} | {used.get('examples', '-')} | {cpu:.0f} | "
        + " | ".join(of)
        + " |"
    )


def main(experiment: str) -> None:
    rows = {system: results(experiment, system) for system in CELLS[experiment]}
    halves = {system: halfway(experiment, system) for system in CELLS[experiment]}
    runs = [run for some in rows.values() for run in some] + [
        r for h in halves.values() for some in h.values() for r in some
    ]
    columns = sorted({column for run in runs for column in run["results"]})
    columns = [
        column
        for column in columns
        if column.count("/") < 1
        or not column.startswith("return/")
        or column in ("return/greedy", "return/sampled", "return/unseen")
    ]
    print("| system | seeds | updates | examples | CPU s | " + " | ".join(columns) + " |")
    print("|---|---:|---:|---:|---:|" + "---|" * len(columns))
    for system, runs in rows.items():
        for half in halves[system].values():
            print(row(f"{system}, on the way", half, columns))
        if runs:
            print(row(system, runs, columns))


if __name__ == "__main__":
    main(sys.argv[1])
