"""Statistics against brute force, scipy and simulation."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from scipy import stats

from hypermarl.evaluation.statistics import (
    Interval,
    as_scores,
    bootstrap,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (4, 1), (5, 1), (10, 3), (7, 5), (32, 1)])
def test_iqm_is_scipys_trimmed_mean(shape: tuple[int, int], rng: np.random.Generator) -> None:
    scores = rng.normal(size=shape)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


def test_iqm_ignores_outliers_that_move_the_mean(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(20, 1))
    spoiled = scores.copy()
    spoiled[np.argmax(scores)] = 1e9
    assert iqm(spoiled) == iqm(scores)
    assert mean(spoiled) > 1e6


@pytest.mark.parametrize(
    "statistic", [mean, median, iqm, optimality_gap, partial(performance_profile, thresholds=[0, 1])]
)
def test_statistics_reduce_a_batch_of_tables_one_by_one(statistic, rng: np.random.Generator) -> None:
    batch = rng.normal(size=(6, 9, 4))
    alone = np.stack([statistic(table) for table in batch])
    np.testing.assert_allclose(statistic(batch), alone, atol=1e-12)


def test_median_is_over_tasks_of_means_over_runs() -> None:
    scores = np.array([[0.0, 10.0, 3.0], [2.0, 10.0, 5.0]])  # task means 1, 10, 4
    assert median(scores) == 4.0
    assert median(np.array([[1.0], [9.0], [2.0]])) == 2.0


def test_optimality_gap_counts_nothing_above_the_target() -> None:
    assert optimality_gap(np.array([[0.5, 5.0]])) == pytest.approx(0.25)
    assert optimality_gap(np.array([[0.5, 5.0]]), target=2.0) == pytest.approx(0.75)


def test_probability_of_improvement_is_brute_force_and_mann_whitney(rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 5, (6, 3)).astype(float), rng.integers(0, 5, (8, 3)).astype(float)
    per_task = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(x[:, m], y[:, m])])
        for m in range(3)
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(per_task))
    u = stats.mannwhitneyu(x[:, 0], y[:, 0]).statistic / 48
    assert probability_of_improvement(x[:, :1], y[:, :1]) == pytest.approx(u)
    assert probability_of_improvement(y, x) == pytest.approx(1 - np.mean(per_task))


def test_probability_of_improvement_wants_the_same_tasks() -> None:
    with pytest.raises(ValueError, match="2 tasks and y has 3"):
        probability_of_improvement(np.zeros((4, 2)), np.zeros((4, 3)))


def test_performance_profile_counts_strictly_above(rng: np.random.Generator) -> None:
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_allclose(performance_profile(scores, [-1, 0, 1.5, 3]), [1.0, 0.75, 0.5, 0.0])


def test_bootstrap_stays_within_tasks() -> None:
    scores = np.array([[0.0, 100.0], [1.0, 101.0], [2.0, 102.0]])
    tables = bootstrap(lambda drawn: drawn, scores, resamples=200)
    assert tables.shape == (200, 3, 2)
    assert set(np.unique(tables[..., 0])) == {0.0, 1.0, 2.0}
    assert set(np.unique(tables[..., 1])) == {100.0, 101.0, 102.0}
    assert not np.array_equal(tables[..., 0] + 100, tables[..., 1])  # tasks are drawn apart from one another


def test_bootstrap_enumerates_what_it_samples() -> None:
    """All 27 resamples of three runs, exactly, against the drawn ones."""
    scores = np.array([1.0, 2.0, 6.0])
    exact = np.array([np.mean(draw) for draw in itertools.product(scores, repeat=3)])
    drawn = bootstrap(mean, scores, resamples=40_000, seed=3)
    for value in np.unique(exact):
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(np.mean(np.isclose(exact, value)), abs=0.01)


def test_chunks_are_drawn_from_one_stream(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    scores = rng.normal(size=(8, 2))
    whole = bootstrap(iqm, scores, resamples=100, seed=1)
    monkeypatch.setattr("hypermarl.evaluation.statistics._CHUNK", 16 * 7)
    chunked = bootstrap(iqm, scores, resamples=100, seed=1)
    assert chunked.shape == (100,)
    np.testing.assert_array_equal(whole, chunked)


def test_interval_is_seeded(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(10, 2))
    assert interval(iqm, scores, seed=5) == interval(iqm, scores, seed=5)
    assert interval(iqm, scores, seed=5) != interval(iqm, scores, seed=6)


def test_interval_of_one_run_is_its_point() -> None:
    found = interval(iqm, [3.0])
    assert (found.point, found.low, found.high) == (3.0, 3.0, 3.0)


def _coverage(level: float, runs: int = 20, tasks: int = 3, trials: int = 400) -> float:
    rng = np.random.default_rng(11)
    offsets = np.array([0.0, 5.0, -3.0])[:tasks]
    hits = 0
    for trial in range(trials):
        scores = rng.normal(loc=offsets, size=(runs, tasks))
        found = interval(mean, scores, level=level, resamples=400, seed=trial)
        hits += found.low <= offsets.mean() <= found.high
    return hits / trials


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    assert 0.90 <= _coverage(0.95) <= 0.98
    assert 0.43 <= _coverage(0.5) <= 0.57


def test_interval_of_improvement_separates_what_differs(rng: np.random.Generator) -> None:
    low, high = rng.normal(size=(10, 2)), rng.normal(loc=3.0, size=(10, 2))
    assert interval(probability_of_improvement, high, low).low > 0.9
    same = interval(probability_of_improvement, low, rng.normal(size=(10, 2)))
    assert same.low < 0.5 < same.high


def test_profile_has_a_band(rng: np.random.Generator) -> None:
    found = interval(partial(performance_profile, thresholds=[-0.5, 0.0, 0.5]), rng.normal(size=(10, 2)))
    assert found.point.shape == found.low.shape == found.high.shape == (3,)
    assert (found.low <= found.point).all() and (found.point <= found.high).all() and (found.low < found.high).all()


def test_overlap() -> None:
    assert Interval(1, 0, 2, 0.95).overlaps(Interval(3, 2, 4, 0.95))
    assert not Interval(1, 0, 2, 0.95).overlaps(Interval(3, 2.1, 4, 0.95))


@pytest.mark.parametrize(
    ("values", "words"),
    [([], "not empty"), (np.zeros((2, 2, 2)), r"\(2, 2, 2\)"), ([1.0, np.nan, np.inf], "2 of 3 scores are not finite")],
)
def test_bad_scores_are_named(values, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_scores(values)


def test_level_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="95"):
        interval(iqm, [1.0, 2.0], level=95)
