"""Whole runs: what lies in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import QUIET, config
from small_train import FRAMES, experiment, rows

from hypermarl.marl.train import Experiment, Result
from hypermarl.runs import RunFolder


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_from_the_first_frame_to_the_last(tmp_path: Path, seeds: int) -> None:
    result = experiment(tmp_path, "seed=3", f"seeds={seeds}", "evaluation.every=48").run()
    assert result == Result(tmp_path / "one", 4 * FRAMES, True, result.episodes)
    assert len(result.episodes) == seeds
    for episodes in result.episodes:
        assert episodes.returns.shape == (2, 4)  # two episodes, four agents
        assert set(episodes.lengths) == {10}
    folder = RunFolder.open(result.folder)
    assert folder.config["seed"] == 3
    own = folder.seeds() or [folder]
    assert [each.config["seed"] for each in own] == [3, 4][:seeds]
    assert [each.config["seeds"] for each in own] == [1] * seeds
    for each in own:
        assert [c.frame for c in each.checkpoints()] == [2 * FRAMES, 4 * FRAMES]
        table = rows(each.path)
        assert [int(row["frame"]) for row in table] == [FRAMES * i for i in range(1, 5)]
        assert [bool(row["evaluation/team"]) for row in table] == [False, True, False, True]
        assert all(row["loss/policy"] and row["policy/kl"] and row["time/fps"] for row in table)
        assert table[0]["diversity/snd"]
        assert table[-1]["Final/return"]
    newest = folder.latest()
    assert newest is not None
    assert (newest.path / "optimizer.safetensors").exists()
    assert folder.meta(newest)["healthy"] == [True] * seeds
    # nothing but safetensors, JSON, text and TensorBoard's own
    assert {p.suffix for p in result.folder.rglob("*") if p.is_file()} <= {
        ".json",
        ".safetensors",
        ".csv",
        ".tsv",
        ".pbtxt",
        ".png",
        "",
    }


@pytest.mark.parametrize("every, at", [(0, [96]), (48, [48, 96]), (40, [48, 96]), (1, [24, 48, 72, 96]), (1000, [96])])
def test_when_it_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, at: list[int]) -> None:
    made = experiment(tmp_path, f"evaluation.every={every}")
    found: list[int] = []
    take = made.exam.take
    monkeypatch.setattr(made.exam, "take", lambda policies: (found.append(made.learner.frame), take(policies))[1])
    made.run()
    assert found == at
    assert made.exam._env is None, "closed"


def test_names_of_runs_do_not_collide(tmp_path: Path) -> None:
    first, second = (experiment(tmp_path, iterations=1) for _ in range(2))
    assert [each.folder.path.name for each in (first, second)] == ["one", "one-2"]
    named = Experiment(config(f"train.folder={tmp_path}", "seed=4", *QUIET))
    assert named.folder.path.name == "specialisation-hyper_mlp-ippo-s4"
    for each in (first, second, named):
        each.learner.close()


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    result = experiment(tmp_path, "train.checkpoint_every=1", "train.keep_checkpoints=2", "seeds=2").run()
    for each in (RunFolder.open(result.folder), *RunFolder.open(result.folder).seeds()):
        assert [c.iteration for c in each.checkpoints()] == [3, 4]


def test_rows_between_two_are_not_lost(tmp_path: Path) -> None:
    """Episodes of 10 steps end in some rollouts of 8 steps and not in others: a row tells of all since the last."""
    often, seldom = (
        experiment(tmp_path / str(every), f"train.log_every={every}", iterations=5).run().folder for every in (1, 5)
    )
    assert [bool(row["return/team"]) for row in rows(often)] == [False, True, True, True, True]
    (row,) = rows(seldom)
    found = [float(each["return/team"]) for each in rows(often) if each["return/team"]]
    assert float(row["return/team"]) == pytest.approx(sum(found) / 4, rel=1e-5)
    assert float(row["episode/length"]) == 10
    agents = [float(row[f"return/agent_{i}"]) for i in range(4)]
    assert sum(agents) / 4 == pytest.approx(float(row["return/team"]), rel=1e-5)


def test_each_seed_has_numbers_of_its_own(tmp_path: Path) -> None:
    together = experiment(tmp_path / "both", "seeds=2").run()
    tables = [rows(together.folder / f"seed_{s}") for s in range(2)]
    assert tables[0][-1]["loss/value"] != tables[1][-1]["loss/value"]
    assert tables[0][-1]["return/team"] != tables[1][-1]["return/team"]
    # games hold no chance, so a seed among others plays what it would have played alone
    alone = experiment(tmp_path / "alone", "seed=1").run()
    for x, y in zip(tables[1], rows(alone.folder), strict=True):
        assert float(x["loss/value"]) == pytest.approx(float(y["loss/value"]), rel=1e-4)
        assert x["return/team"] == y["return/team"]
    assert torch.equal(torch.tensor(together.episodes[1].returns), torch.tensor(alone.episodes[0].returns))
