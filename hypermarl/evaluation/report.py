"""Evaluations as a table for the terminal, and the same numbers as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from hypermarl.evaluation.metrics import Episodes
from hypermarl.evaluation.statistics import Interval, interval, iqm

Forms = Mapping[str, Sequence[Episodes]]
"""How it was played ("vectorised", "pettingzoo") -> the episodes of each run."""

_AGENTS_SHOWN = 16


def scores(runs: Sequence[Episodes], metric: str) -> NDArray[np.float64]:
    """What the interval resamples: of one run its episodes, `[P]`; of several runs their means over episodes, `[R]`."""
    if len(runs) == 1:
        return np.asarray(runs[0].metrics()[metric])
    return np.array([np.mean(run.metrics()[metric]) for run in runs])


def summarise(runs: Sequence[Episodes], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Every metric's interquartile mean, its interval, its mean and its standard deviation, as JSON takes them."""
    metrics = {}
    for metric in runs[0].metrics():
        values = scores(runs, metric)
        found = interval(iqm, values, level=level, resamples=resamples, seed=seed)
        metrics[metric] = {
            "iqm": found.point,
            "low": found.low,
            "high": found.high,
            "mean": float(values.mean()),
            "std": float(values.std()),
        }
    return {
        "runs": len(runs),
        "episodes": sum(len(run) for run in runs),
        "interval": level,
        "resampled": "runs" if len(runs) > 1 else "episodes",
        "metrics": metrics,
    }


def agree(summaries: Mapping[str, Mapping[str, Any]], metric: str = "return") -> bool:
    """True if every two forms' intervals of a metric overlap."""
    found = [
        Interval(entry["iqm"], entry["low"], entry["high"], 0.0)
        for entry in (summary["metrics"][metric] for summary in summaries.values())
    ]
    return all(a.overlaps(b) for i, a in enumerate(found) for b in found[i + 1 :])


def table(title: str, summaries: Mapping[str, Mapping[str, Any]], agents: Sequence[str]) -> Table:
    """A row per metric, a column per form, `IQM [low, high]` in each cell; of over 16 agents the ends are shown."""
    first = next(iter(summaries.values()))
    percent = f"{first['interval']:.0%}"
    shown = Table(title=title, title_justify="left", caption=_caption(summaries), caption_justify="left")
    shown.add_column(f"IQM [{percent} interval]".replace("[", r"\["))
    for form, summary in summaries.items():
        shown.add_column(f"{form}\n{summary['episodes']} episodes", justify="right")
    for label, metric in _rows(list(first["metrics"]), agents):
        shown.add_row(label, *(_cell(summary["metrics"].get(metric)) for summary in summaries.values()))
    return shown


def _rows(metrics: Sequence[str], agents: Sequence[str]) -> list[tuple[str, str]]:
    own = {f"return_{agent}": agent for agent in agents}
    labels = {
        "return": "team return",
        "mean_reward_per_step": "mean reward per step",
        "episode_length": "episode length",
    }
    rows = [(labels.get(metric, metric.replace("_", " ")), metric) for metric in metrics if metric not in own]
    names = [metric for metric in metrics if metric in own]
    if len(names) > _AGENTS_SHOWN:
        names = names[: _AGENTS_SHOWN // 2] + names[-_AGENTS_SHOWN // 2 :]
    return rows + [(f"return of {own[metric]}", metric) for metric in names]


def _cell(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return "-"
    return rf"{_number(entry['iqm'])} \[{_number(entry['low'])}, {_number(entry['high'])}]"


def _number(value: float) -> str:
    """Three digits that matter, and none of the others: two forms and a label fit on 80 columns."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _caption(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    resampled = {summary["resampled"] for summary in summaries.values()}
    lines = [f"Intervals resample {' and '.join(sorted(resampled))}."]
    if resampled == {"episodes"}:
        lines.append("They tell of this one run, not of other seeds.")
    if len(summaries) > 1:
        verdict = "agree" if agree(summaries) else "DISAGREE"
        lines.append(
            f"The forms {verdict}: their intervals of the team return {'' if agree(summaries) else 'do not '}overlap."
        )
    return " ".join(lines)
