"""Print the tables of an experiment: interquartile means over seeds, 95 % bootstrap intervals.

    python experiments/language/table.py roles
    python experiments/language/table.py roles --keep "0123abc, fp32"

Read are the run folders there are and `runs.json`, where `--keep` puts what they hold, and how they were trained.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from cells import CELLS, FOLDER, run_name

from hypermarl.evaluation.statistics import interval, iqm

SEEDS = range(10)
KEPT = Path(__file__).with_name("runs.json")

Found = dict[str, Any]
"""experiment, system, seed, update, whether that is the end, examples, cpu_seconds, results."""


def of_folder(experiment: str, system: str, seed: int) -> list[Found]:
    """Evaluations on the way and the last one, of one run, as far as it has come."""
    path = Path(FOLDER) / run_name(experiment, system, seed)
    known = {"experiment": experiment, "system": system, "seed": seed}
    found = []
    if (path / "metrics.csv").exists():
        for row in csv.DictReader((path / "metrics.csv").open()):
            values = {
                k.removeprefix("evaluation/"): float(v) for k, v in row.items() if k.startswith("evaluation/") and v
            }
            if values and row.get("time/cpu_seconds"):  # the last evaluation stands in a row of its own
                used = {"update": int(row["frame"]), "cpu_seconds": float(row["time/cpu_seconds"])}
                examples = {"examples": int(float(row["examples"]))} if row.get("examples") else {}
                found.append({**known, **used, **examples, "last": False, "results": values})
    if (path / "results.json").exists():
        last = json.loads((path / "results.json").read_text())
        found = [each for each in found if each["update"] != last["update"]]
        found.append({**known, **last, "last": True})
    return found


def place(each: Found) -> tuple[Any, ...]:
    """What tells one evaluation from every other, in the order of the tables."""
    systems = list(CELLS[each["experiment"]])
    return (each["experiment"], systems.index(each["system"]), each["last"], each["update"], each["seed"])


def everything(experiment: str, how: str = "") -> list[Found]:
    """What is kept, and what run folders of this experiment hold, which counts where the two differ."""
    found = {place(each): each for each in (json.loads(KEPT.read_text()) if KEPT.exists() else [])}
    for system in CELLS[experiment]:
        for each in (each for seed in SEEDS for each in of_folder(experiment, system, seed)):
            if found.get(place(each), {}).get("results") != each["results"]:
                found[place(each)] = {**each, "how": how}
    return [found[each] for each in sorted(found)]


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    found = interval(iqm, values)
    return f"{found.point:.2f} [{found.low:.2f}, {found.high:.2f}]"


def row(name: str, runs: list[Found], columns: list[str]) -> str:
    used = runs[0]
    of = [cell([run["results"][column] for run in runs if column in run["results"]]) for column in columns]
    cpu = sum(run["cpu_seconds"] for run in runs) / len(runs)
    return (
        f"| {name} | {len(runs)} | {used['update']} | {used.get('examples', '-')} | {cpu:.0f} | "
        + " | ".join(of)
        + " |"
    )


def shown(column: str) -> bool:
    return not column.startswith("return/") or column in ("return/greedy", "return/sampled", "return/unseen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=CELLS)
    parser.add_argument("--keep", metavar="HOW", help="write what run folders hold into runs.json; commit, precision")
    asked = parser.parse_args()
    found = everything(asked.experiment, asked.keep or "")
    if asked.keep:
        KEPT.write_text("[\n" + ",\n".join(json.dumps(each) for each in found) + "\n]\n")
    groups: dict[tuple[str, bool, int], list[Found]] = {}
    for each in found:
        if each["experiment"] == asked.experiment:
            groups.setdefault((each["system"], each["last"], each["update"]), []).append(each)
    columns = sorted({c for runs in groups.values() for run in runs for c in run["results"] if shown(c)})
    print("| system | seeds | updates | examples | CPU s | " + " | ".join(columns) + " |")
    print("|---|---:|---:|---:|---:|" + "---|" * len(columns))
    for (system, last, _), runs in groups.items():
        print(row(system if last else f"{system}, on the way", runs, columns))


if __name__ == "__main__":
    main()
