"""Runs that are stopped, killed and go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small import QUIET, config
from small_train import FRAMES, experiment, rows, same, tensors
from test_learner import Forgetful, wrapped

from hypermarl.marl.learner import Learner
from hypermarl.marl.train import Experiment
from hypermarl.runs import RunFolder

__all__ = ["wrapped"]  # a fixture


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=gru", "algorithm.minibatches=1"),
        ("seeds=2", "algorithm.value_norm=true"),
        ("env=vmas/dispersion", "env.max_steps=6", "algorithm=mappo"),
        ("env=pettingzoo/mpe2.simple_spread_v3", "env.max_steps=6", "seeds=2"),
        ("env=pettingzoo/mpe2.simple_tag_v3", "env.max_steps=6", "model=gru", "algorithm.minibatches=1"),
    ],
    ids=["game", "gru", "two seeds", "vmas", "mpe, two seeds", "unlike groups, gru"],
)
def test_resumed_is_as_if_never_stopped(tmp_path: Path, words: tuple[str, ...]) -> None:
    whole = experiment(tmp_path / "whole", *words).run()
    half = experiment(tmp_path / "half", *words, iterations=2).run()
    result = Experiment.resume(half.folder, 4 * FRAMES).run()
    assert result.finished
    assert same(result.folder, whole.folder)
    for each in ("seed_0", "seed_1") if "seeds=2" in words else ("",):
        x, y = rows(result.folder / each), rows(whole.folder / each)
        assert [row["frame"] for row in x] == [row["frame"] for row in y]
        # the half run was evaluated when it ended, the whole one was not at that time
        compared = [column for column in y[0] if not column.startswith(("time/", "Final", "evaluation"))]
        assert len(compared) > 10
        assert [[row[c] for c in compared] for row in x] == [[row[c] for c in compared] for row in y]


def test_a_finished_run_is_only_evaluated_again(tmp_path: Path) -> None:
    result = experiment(tmp_path).run()
    before = tensors(result.folder)
    again = Experiment.resume(result.folder).run()
    assert again.finished
    assert again.frame == result.frame
    assert torch.equal(torch.tensor(again.episodes[0].returns), torch.tensor(result.episodes[0].returns))
    assert all(torch.equal(v, before[k]) for k, v in tensors(result.folder).items())


def test_the_first_interrupt_ends_the_iteration_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment(tmp_path / "whole").run()
    iterate = Learner.iterate

    def interrupted(self: Learner) -> Any:
        if self.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return iterate(self)

    monkeypatch.setattr(Learner, "iterate", interrupted)
    before = signal.getsignal(signal.SIGINT)
    stopped = experiment(tmp_path / "stopped").run()
    assert signal.getsignal(signal.SIGINT) == before
    assert (stopped.finished, stopped.frame, stopped.episodes) == (False, 3 * FRAMES, [])
    assert [c.iteration for c in RunFolder.open(stopped.folder).checkpoints()] == [2, 3]
    monkeypatch.setattr(Learner, "iterate", iterate)
    assert Experiment.resume(stopped.folder).run().finished
    assert same(stopped.folder, whole.folder)


def test_the_second_interrupt_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Learner) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(Learner, "iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment(tmp_path).run()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    whole = experiment(tmp_path / "whole", f"seeds={seeds}").run()
    iterate = Learner.iterate

    def killed(self: Learner) -> Any:
        if self.iteration == 1:
            raise SystemExit
        return iterate(self)

    monkeypatch.setattr(Learner, "iterate", killed)
    with pytest.raises(SystemExit):
        experiment(tmp_path / "killed", f"seeds={seeds}").run()
    monkeypatch.setattr(Learner, "iterate", iterate)
    folder = tmp_path / "killed" / "one"
    if seeds > 1:  # the kill may have come while the folders were made
        for path in sorted((folder / "seed_1").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert Experiment.resume(folder).run().finished
    assert same(folder, whole.folder)
    for each in ("seed_0", "seed_1") if seeds > 1 else ("",):
        assert [row["frame"] for row in rows(folder / each)] == [row["frame"] for row in rows(whole.folder / each)]


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate = Learner.iterate

    def killed(self: Learner) -> Any:
        if self.iteration == 3:
            raise SystemExit
        return iterate(self)

    monkeypatch.setattr(Learner, "iterate", killed)
    with pytest.raises(SystemExit):
        experiment(tmp_path).run()
    folder = tmp_path / "one"
    assert [int(row["frame"]) for row in rows(folder)] == [FRAMES, 2 * FRAMES, 3 * FRAMES]
    Experiment.resume(folder, 2 * FRAMES).run()
    assert [int(row["frame"]) for row in rows(folder)] == [FRAMES, 2 * FRAMES]


def test_a_kill_between_the_seeds_checkpoints_and_the_joint_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiment(tmp_path / "whole", "seeds=2").run()
    save = RunFolder.save

    def killed(self: RunFolder, frame: int, *args: Any, **options: Any) -> Any:
        if frame == 4 * FRAMES and self.path.name == "one":
            raise SystemExit
        return save(self, frame, *args, **options)

    monkeypatch.setattr(RunFolder, "save", killed)
    with pytest.raises(SystemExit):
        experiment(tmp_path / "killed", "seeds=2").run()
    monkeypatch.setattr(RunFolder, "save", save)
    folder = tmp_path / "killed" / "one"
    assert [c.iteration for c in RunFolder.open(folder / "seed_1").checkpoints()] == [2, 4]
    again = Experiment.resume(folder)
    assert again.learner.iteration == 2
    assert [c.iteration for c in RunFolder.open(folder / "seed_1").checkpoints()] == [2], "the joint one decides"
    assert again.run().finished
    assert same(folder, whole.folder)


def test_environments_without_a_state_are_resumed_exactly_too(tmp_path: Path, wrapped: Any) -> None:
    wrapped(Forgetful)
    words = ("env=spread/bps_1", "env.options.n_agents=6", "env.max_steps=7", "train.log_every=1")
    whole = experiment(tmp_path / "whole", *words).run()
    half = experiment(tmp_path / "half", *words, iterations=2).run()
    assert RunFolder.open(half.folder).meta(RunFolder.open(half.folder).checkpoints()[-1])["exact"] is False
    assert Experiment.resume(half.folder, 4 * FRAMES).run().finished
    assert same(half.folder, whole.folder)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import conftest
from small import config, QUIET
from hypermarl.marl.train import Experiment
folder = Path({folder!r})
if (folder / "one").exists() and (folder / "one" / "config.json").exists():
    Experiment.resume(folder / "one").run()
else:
    Experiment(config(*{words!r})).run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("seeds=2",), ("env=vmas/dispersion", "env.max_steps=6"), ("model=gru", "algorithm.minibatches=1")]
)
def test_killed_at_any_moment_and_resumed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A real kill, again and again at random moments, until the run comes to its end: nothing is different after."""
    iterations = 40
    common = ("train.checkpoint_every=1", f"train.frames={iterations * FRAMES}", *QUIET, *words)
    whole = Experiment(config(*common, f"train.folder={tmp_path / 'whole'}", "train.run=one")).run()
    folder = tmp_path / "killed"
    lines = SCRIPT.format(
        tests=str(Path(__file__).parent),
        folder=str(folder),
        words=(*common, f"train.folder={folder}", "train.run=one"),
    )
    chance = random.Random(0)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen([sys.executable, "-c", lines], stderr=subprocess.PIPE)
        while process.poll() is None and not (folder / "one" / "config.json").exists():
            time.sleep(0.01)  # before that there is no run to resume
        if kills < 4:
            begin = newest_iteration(folder / "one")
            while process.poll() is None and newest_iteration(folder / "one") <= begin:
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)
        else:
            process.wait()
        if process.poll() is None:
            process.kill()
            kills += 1
        _, error = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error.decode()
    assert process.returncode == 0
    assert kills >= 3
    assert same(folder / "one", whole.folder)


def newest_iteration(folder: Path) -> int:
    found = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")]
    return max(found, default=-1)
