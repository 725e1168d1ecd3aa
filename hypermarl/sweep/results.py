"""What a sweep found, in one place, rewritten as cells end:

    results.md       the table of methods and the state of every cell, for people
    results.csv      a row per task and method: interquartile means over seeds with their intervals
    cells.csv        a row per cell and seed: state, frames, seconds, and its own final evaluation
    marl_eval.json   the final evaluations, as marl-eval reads them

A method is an algorithm with a way of sharing; whatever else was varied is added to its name, or to the task's if it is
a setting of the environment. A score is a seed's mean over the episodes of its final evaluation.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from hypermarl import config as settings
from hypermarl.evaluation.metrics import Document, merge, write_json
from hypermarl.evaluation.statistics import interval, iqm
from hypermarl.runs import write_atomically
from hypermarl.sweep.folder import Cell, Record, SweepFolder

_NAMED = ("env", "sharing", "algorithm", "seed", "seeds")  # axes that the names of tasks and methods hold, or average
METRICS = ("return", "mean_reward_per_step", "episode_length")


@dataclass(frozen=True)
class Score:
    """One seed of one cell; `values` by metric, empty while its cell is not finished."""

    cell: Cell
    record: Record
    task: str
    method: str
    seed: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One method on one task; `metrics` by name: point, low, high, mean, std over the seeds that are finished."""

    task: str
    method: str
    finished: int
    seeds: int
    metrics: Mapping[str, Mapping[str, float]]
    frames: int
    seconds: float


def scores(folder: SweepFolder, records: Mapping[str, Record]) -> list[Score]:
    """Every seed of every cell, in the order of the cells."""
    varied = [key for key in folder.grid.axes if key not in _NAMED]
    found = []
    for cell in folder.cells:
        record, task, method = records[cell.name], *_labels(cell, varied)
        runs = _runs(record.document)
        for seed in cell.config.all_seeds:
            own = runs.get(f"seed_{seed}", {}).get("absolute_metrics", {})
            values = {metric: float(np.mean(own[metric])) for metric in METRICS if own.get(metric)}
            found.append(Score(cell, record, task, method, seed, values))
    return found


def rows(found: Sequence[Score]) -> list[Row]:
    """A row per task and method, in the order in which they first appear."""
    grouped: dict[tuple[str, str], list[Score]] = {}
    for score in found:
        grouped.setdefault((score.task, score.method), []).append(score)
    made = []
    for (task, method), own in grouped.items():
        ready = [score for score in own if score.values]
        metrics = {metric: _summary([score.values[metric] for score in ready]) for metric in METRICS if ready}
        cells = {score.cell.name: score for score in own}.values()
        frames = sum(score.record.frame * score.cell.config.seeds for score in cells)
        seconds = sum(score.record.seconds for score in cells if score.record.frame)
        made.append(Row(task, method, len(ready), len(own), metrics, frames, seconds))
    return made


def merged(folder: SweepFolder, records: Mapping[str, Record]) -> Document:
    """The final evaluations of all finished cells, under the names of the table."""
    parts: list[Document] = []
    for score in scores(folder, records):
        if score.values:
            environment, _, task = score.task.partition("/")
            run = _runs(score.record.document)[f"seed_{score.seed}"]
            parts.append({environment: {task: {score.method: {f"seed_{score.seed}": run}}}})
    return merge(*parts)


def write(folder: SweepFolder, records: Mapping[str, Record]) -> None:
    """Write all files anew."""
    found = scores(folder, records)
    table = rows(found)
    write_atomically(folder.path / "results.csv", _csv(_summaries(table)))
    write_atomically(folder.path / "cells.csv", _csv(_cells(folder, found)))
    write_atomically(folder.path / "results.md", _markdown(folder, records, table).encode())
    write_json(folder.path / "marl_eval.json", merged(folder, records))


def shown(table: Sequence[Row]) -> Table:
    """The table of methods for a terminal."""
    made = Table(box=SIMPLE, caption=_CAPTION, caption_justify="left")
    for name in ("task", "method"):
        made.add_column(name, overflow="fold")
    for name in ("seeds", r"return \[95%]", "frames/s"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in table:
        seeds, score, _, speed = _texts(row)
        made.add_row(*map(escape, (row.task, row.method, seeds, score, speed)))
    return made


_CAPTION = "IQM over seeds of the final evaluation; intervals resample seeds. frames/s include start and evaluation."


def _labels(cell: Cell, varied: Sequence[str]) -> tuple[str, str]:
    """Names of task and method; what was varied is read from the settings, so that a default has its value too."""
    task, method = [cell.task], [cell.method]
    for key in varied:
        name = f"{key.rpartition('.')[2]}={_text(_value(cell, key))}"
        (task if key.partition(".")[0] == "env" else method).append(name)
    return " ".join(task), " ".join(method)


def _value(cell: Cell, key: str) -> Any:
    if key in settings.groups():
        return cell.presets.get(key, "-")
    value = settings.to_dict(cell.config)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _runs(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The seeds of a document of one environment, one task and one algorithm."""
    for tasks in document.values():
        for algorithms in tasks.values():
            for runs in algorithms.values():
                return dict(runs)
    return {}


def _summary(values: Sequence[float]) -> dict[str, float]:
    found = interval(iqm, values)
    spread = np.asarray(values)
    low, high, point = float(found.low), float(found.high), float(found.point)
    return {"iqm": point, "low": low, "high": high, "mean": float(spread.mean()), "std": float(spread.std())}


def _summaries(table: Sequence[Row]) -> list[dict[str, Any]]:
    lines = []
    for row in table:
        line: dict[str, Any] = {"task": row.task, "method": row.method, "seeds": row.seeds, "finished": row.finished}
        for metric in METRICS:
            own = row.metrics.get(metric, {})
            line |= {f"{metric}_{name}": own.get(name) for name in ("iqm", "low", "high", "mean", "std")}
        lines.append({**line, "frames": row.frames, "seconds": round(row.seconds, 3), "frames_per_second": _speed(row)})
    return lines


def _cells(folder: SweepFolder, found: Sequence[Score]) -> list[dict[str, Any]]:
    lines = []
    for score in found:
        cell, record = score.cell, score.record
        line: dict[str, Any] = {"cell": cell.name, "task": score.task, "method": score.method, "seed": score.seed}
        line |= {key: _text(_value(cell, key)) for key in folder.grid.axes if key != "seed"}
        line |= {"state": record.state, "attempts": record.attempts, "frames": record.frame}
        line |= {"seconds": round(record.seconds, 3), "node": record.node}
        lines.append({**line, **{m: score.values.get(m) for m in METRICS}, "sentence": record.sentence})
    return lines


def _csv(lines: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def _markdown(folder: SweepFolder, records: Mapping[str, Record], table: Sequence[Row]) -> str:
    lines = [
        "| task | method | seeds | return: IQM [95% interval] | reward per step | frames/s |",
        "|---|---|" + "--:|" * 4,
    ]
    lines += [f"| {row.task} | {row.method} | {' | '.join(_texts(row))} |" for row in table]
    lines += ["", _CAPTION, "", "| cell | state | attempts | frames | seconds | |", "|---|---|--:|--:|--:|---|"]
    for cell in folder.cells:
        record = records[cell.name]
        broke = f"seed {', '.join(map(str, record.failed_seeds))} broke off" if record.failed_seeds else ""
        told = (record.sentence or broke).replace("|", r"\|")
        lines.append(
            f"| {cell.name} | {record.state} | {record.attempts} | {record.frame:,} | {record.seconds:.0f} | {told} |"
        )
    return "\n".join(lines) + "\n"


def _texts(row: Row) -> list[str]:
    """Seeds, return, reward per step and speed of a row."""
    seeds = str(row.seeds) if row.finished == row.seeds else f"{row.finished} of {row.seeds}"
    speed = _speed(row)
    return [seeds, _bounds(row, "return"), _bounds(row, "mean_reward_per_step"), f"{speed:,.0f}" if speed else "-"]


def _bounds(row: Row, metric: str) -> str:
    own = row.metrics.get(metric)
    if own is None:
        return "-"
    return _number(own["iqm"]) + (f" [{_number(own['low'])}, {_number(own['high'])}]" if row.finished > 1 else "")


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _speed(row: Row) -> float | None:
    return round(row.frames / row.seconds, 1) if row.seconds and row.frames else None
