"""Few runs, honest numbers: robust means of scores and the intervals around them.

Scores are `[*batch, R, M]`: `R` independent runs (or episodes, when one run is judged) of each of `M` tasks. Every
statistic reduces the last two axes, so that thousands of resamples are one call. The definitions are those of Agarwal
et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
Statistic = Callable[..., Any]  # (*scores [*batch, R, M]) -> [*batch, ...]

_CHUNK = 2_000_000  # numbers resampled at once, so that memory stays in the tens of megabytes


@dataclass(frozen=True)
class Interval:
    """A statistic and its percentile bootstrap interval; floats, or arrays where the statistic is a curve."""

    point: Any
    low: Any
    high: Any
    level: float

    def overlaps(self, other: Interval) -> bool:
        """True if the two intervals share a point; of curves, if they do so everywhere."""
        return bool(np.all((np.asarray(self.low) <= other.high) & (np.asarray(other.low) <= self.high)))


def as_scores(values: ArrayLike) -> Scores:
    """`[R]` or `[R, M]` numbers as finite float64 `[R, M]`; a ValueError says what is wrong with them."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim == 1:
        scores = scores[:, None]
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must be [runs] or [runs, tasks] and not empty, their shape is {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite")
    return scores


def mean(scores: Scores) -> Any:
    """Mean over runs and tasks: `[*batch, R, M] -> [*batch]`."""
    return scores.mean(axis=(-2, -1))


def median(scores: Scores) -> Any:
    """Median over tasks of the mean over runs; of one task, the median over its runs. `[*batch, R, M] -> [*batch]`."""
    if scores.shape[-1] == 1:
        return np.median(scores[..., 0], axis=-1)
    return np.median(scores.mean(axis=-2), axis=-1)


def iqm(scores: Scores) -> Any:
    """Interquartile mean: of all `R * M` scores, a quarter (rounded down) is dropped at each end.

    `[*batch, R, M] -> [*batch]`. With fewer than four scores nothing is dropped and it is the mean.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    if cut == 0:
        return flat.mean(axis=-1)
    ordered = np.partition(flat, (cut, flat.shape[-1] - cut - 1), axis=-1)
    return ordered[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: Scores, target: float = 1.0) -> Any:
    """Mean shortfall from `target`, where no score counts as better than it: `[*batch, R, M] -> [*batch]`."""
    return target - np.minimum(scores, target).mean(axis=(-2, -1))


def probability_of_improvement(x: Scores, y: Scores) -> Any:
    """P(a run of x scores above a run of y), ties counting half, averaged over tasks.

    `x [*batch, R, M]`, `y [*batch, Q, M] -> [*batch]`.
    """
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x has {x.shape[-1]} tasks and y has {y.shape[-1]}; they must be the same tasks")
    left, right = x[..., :, None, :], y[..., None, :, :]
    wins = (left > right).mean(axis=(-3, -2)) + 0.5 * (left == right).mean(axis=(-3, -2))
    return wins.mean(axis=-1)


def performance_profile(scores: Scores, thresholds: ArrayLike) -> Any:
    """Share of all runs that score above each of `Q` thresholds: `[*batch, R, M] -> [*batch, Q]`."""
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    levels = np.asarray(thresholds, dtype=np.float64)
    return np.stack([(flat > level).mean(axis=-1) for level in levels], axis=-1)


def bootstrap(
    statistic: Statistic, *scores: ArrayLike, resamples: int = 2000, seed: int | np.random.Generator = 0
) -> NDArray[np.float64]:
    """The statistic of `resamples` stratified resamples: runs are drawn with replacement, within each task by itself.

    Each of `scores` is `[R, M]` and is resampled independently of the others. Returns `[resamples, ...]`.
    """
    rng = np.random.default_rng(seed)
    tables = [as_scores(table) for table in scores]
    step = max(1, min(resamples, _CHUNK // max(table.size for table in tables)))
    parts = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = [
            np.take_along_axis(table[None], rng.integers(0, len(table), (count, *table.shape)), axis=1)
            for table in tables
        ]
        parts.append(np.asarray(statistic(*drawn)))
    return np.concatenate(parts)


def interval(
    statistic: Statistic,
    *scores: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Interval:
    """The statistic with its percentile interval from a stratified bootstrap.

    With one run per task there is nothing to resample and the interval is the point: it says nothing of other seeds.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"an interval's level lies between 0 and 1, not at {level}")
    draws = bootstrap(statistic, *scores, resamples=resamples, seed=seed)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(draws, [tail, 100.0 - tail], axis=0)
    point = statistic(*(as_scores(table) for table in scores))
    return Interval(_plain(point), _plain(low), _plain(high), level)


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
