"""Episodes, their metrics, and marl-eval's document."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import (
    Episodes,
    Measurement,
    absolute_scores,
    document,
    merge,
    read_all,
    read_json,
    write_json,
)


def episodes(
    returns: list[list[float]], lengths: list[int], groups: dict[str, tuple[str, ...]] | None = None
) -> Episodes:
    table = np.array(returns, dtype=np.float64)
    return Episodes(
        agents=tuple(f"agent_{i}" for i in range(table.shape[1])),
        returns=table,
        lengths=np.array(lengths),
        alive=np.tile(np.array(lengths)[:, None], (1, table.shape[1])),
        environment=np.arange(len(lengths)),
        groups=groups or {},
    )


def run(value: float, algorithm: str = "ippo", task: str = "spread", seed: int = 0) -> dict:
    return document("mpe", task, algorithm, seed, [Measurement(100, episodes([[value, value]], [10]))])


def test_team_return_is_the_mean_over_agents_of_sums_over_steps() -> None:
    played = episodes([[4.0, 0.0], [1.0, 3.0]], [10, 4])
    np.testing.assert_array_equal(played.team, [2.0, 2.0])
    np.testing.assert_array_equal(played.agent("agent_1"), [0.0, 3.0])


def test_reward_per_step_divides_each_episode_by_its_own_length() -> None:
    played = episodes([[4.0, 0.0], [1.0, 3.0]], [10, 4])
    np.testing.assert_allclose(played.reward_per_step, [0.2, 0.5])
    assert np.mean(played.metrics()["mean_reward_per_step"]) == pytest.approx(0.35)  # not 4 / 14


def test_groups_are_told_apart_only_where_there_are_several() -> None:
    sides = {"hunter": ("agent_0", "agent_2"), "prey": ("agent_1",)}
    played = episodes([[4.0, -6.0, 2.0]], [5], sides)
    assert played.metrics()["return_hunter_mean"] == [3.0]
    assert played.metrics()["return_prey_mean"] == [-6.0]
    assert not any(
        "mean_" in name or name.endswith("_mean") for name in episodes([[1.0]], [2]).metrics() if "step" not in name
    )


def test_select_keeps_every_column_in_step() -> None:
    played = episodes([[1.0], [2.0], [3.0]], [10, 20, 30])
    chosen = played.select(played.environment != 1)
    assert (chosen.returns[:, 0].tolist(), chosen.lengths.tolist(), chosen.environment.tolist()) == (
        [1, 3],
        [10, 30],
        [0, 2],
    )
    assert chosen.agents == played.agents


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"returns should be \[episodes, agents\] = \(1, 2\)"):
        Episodes(("a", "b"), np.zeros((2, 1)), np.zeros(1, int), np.zeros((1, 2), int), np.zeros(1, int))


def test_document_has_the_levels_of_marl_eval() -> None:
    early, late = episodes([[1.0, 3.0]], [10]), episodes([[5.0, 7.0], [1.0, 1.0]], [10, 8])
    made = document("vmas", "dispersion", "hyper_mlp", 3, [Measurement(200, late, 9.0), Measurement(100, early, 4.0)])
    entry = made["vmas"]["dispersion"]["hyper_mlp"]["seed_3"]
    assert list(entry) == ["step_0", "step_1", "absolute_metrics"]
    assert entry["step_0"]["step_count"] == 100
    assert entry["step_0"]["elapsed_time"] == 4.0
    assert entry["step_0"]["return"] == [2.0]
    assert entry["step_1"]["return"] == [6.0, 1.0]
    assert entry["step_1"]["episode_length"] == [10.0, 8.0]
    assert entry["absolute_metrics"]["return"] == [6.0, 1.0]
    assert set(entry["absolute_metrics"]) == set(entry["step_1"]) - {"step_count", "elapsed_time"}
    assert json.loads(json.dumps(made)) == made


def test_absolute_metric_may_be_given() -> None:
    best = episodes([[9.0]], [3])
    entry = document("e", "t", "a", 0, [Measurement(1, episodes([[1.0]], [3]))], absolute=best)["e"]["t"]["a"]["seed_0"]
    assert (entry["step_0"]["return"], entry["absolute_metrics"]["return"]) == ([1.0], [9.0])


def test_merge_joins_seeds_algorithms_and_tasks() -> None:
    merged = merge(run(1.0), run(2.0, seed=1), run(3.0, "mappo"), run(4.0, task="tag"))
    assert set(merged["mpe"]) == {"spread", "tag"}
    assert set(merged["mpe"]["spread"]) == {"ippo", "mappo"}
    assert set(merged["mpe"]["spread"]["ippo"]) == {"seed_0", "seed_1"}


def test_merge_leaves_its_parts_alone() -> None:
    first = run(1.0)
    merge(first, run(2.0, seed=1))
    assert first == run(1.0)


def test_merge_takes_the_same_run_twice_but_not_two_of_one_name() -> None:
    assert merge(run(1.0), run(1.0)) == run(1.0)
    with pytest.raises(UserError, match="mpe/spread/ippo/seed_0"):
        merge(run(1.0), run(2.0))


def test_absolute_scores_are_runs_by_tasks() -> None:
    runs = merge(run(1.0), run(2.0, seed=1), run(5.0, task="tag"), run(6.0, task="tag", seed=1))
    np.testing.assert_array_equal(absolute_scores(runs, "mpe")["ippo"], [[1.0, 5.0], [2.0, 6.0]])


@pytest.mark.parametrize(
    ("runs", "environment", "metric", "words"),
    [
        (merge(run(1.0), run(2.0, "mappo", "tag")), "mpe", "return", "ippo has no run on mpe/tag"),
        (
            merge(run(1.0), run(2.0, task="tag"), run(3.0, task="tag", seed=1)),
            "mpe",
            "return",
            "unequal numbers of runs",
        ),
        (run(1.0), "vmas", "return", "'vmas'; there are: mpe"),
        (run(1.0), "mpe", "win_rate", "mpe/spread/ippo/seed_0 has no absolute metric 'win_rate'"),
    ],
)
def test_lopsided_results_are_named(runs: dict, environment: str, metric: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        absolute_scores(runs, environment, metric)


def test_files_go_there_and_back(tmp_path: Path) -> None:
    paths = [write_json(tmp_path / "new" / f"{k}.json", run(float(k), seed=k)) for k in range(3)]
    assert read_json(paths[1]) == run(1.0, seed=1)
    assert set(read_all(paths)["mpe"]["spread"]["ippo"]) == {"seed_0", "seed_1", "seed_2"}
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["0.json", "1.json", "2.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(UserError, match=r"a\.json .*not finite"):
        write_json(path, {"new": float("nan")})
    assert read_json(path) == {"old": 1}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_json(tmp_path / "file" / "b.json", {})


@pytest.mark.parametrize(("text", "words"), [("{", "not a JSON file"), ("[1]", "holds no results")])
def test_a_file_that_is_no_document_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"Cannot read .*missing\.json"):
        read_json(tmp_path / "missing.json")
