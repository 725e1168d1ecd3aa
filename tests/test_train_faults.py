"""Runs that fail: what is named, and that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small import TINY, config
from small_train import FRAMES, experiment, same, tensors
from test_learner import Forgetful, Tampered, wrapped

from hypermarl import runs
from hypermarl.errors import UserError
from hypermarl.marl.learner import Learner
from hypermarl.marl.train import Experiment
from hypermarl.monitoring.progress import Progress
from hypermarl.runs import RunFolder

__all__ = ["wrapped"]  # a fixture


def poisoned(what: str) -> Callable[[Learner], None]:
    """Makes one of the parameters, or the rewards to come, no number."""

    def poison(learner: Learner) -> None:
        policy = learner.policies["agents"]
        if what == "rewards":
            step = learner.env.step

            def worse(actions: Any) -> Any:
                found = step(actions)
                for reward in found.reward.values():
                    reward[0] = float("nan")
                return found

            learner.env.step = worse  # type: ignore[method-assign]
            return
        with torch.no_grad():
            next(iter(getattr(policy, what).generator.base.values()))[:] = float("nan")

    return poison


@pytest.mark.parametrize(
    "what, terms",
    [
        ("rewards", "loss/policy and loss/value are not finite"),
        ("critic", "loss/value is not finite"),
        ("actor", "loss/policy and loss/entropy are not finite"),
    ],
)
def test_a_loss_that_is_no_number_is_named_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, terms: str
) -> None:
    iterate = Learner.iterate

    def poisonous(self: Learner) -> Any:
        if self.iteration == 3:
            poisoned(what)(self)
            if what == "critic":  # advantages were made from it too, unless only the loss sees it
                monkeypatch.setattr("hypermarl.marl.learner.prepare", sound)
        return iterate(self)

    from hypermarl.marl.objectives import prepare

    def sound(policies: Any, *rest: Any) -> Any:
        samples = prepare(policies, *rest)
        for each in samples.values():
            each.advantage = each.advantage.nan_to_num(0.5)
        return samples

    monkeypatch.setattr(Learner, "iterate", poisonous)
    with pytest.raises(UserError) as caught:
        experiment(tmp_path).run()
    said = str(caught.value)
    assert f"Seed 0: {terms}" in said
    assert f"after {4 * FRAMES} frames" in said
    kept = RunFolder.open(tmp_path / "one").latest()
    assert kept is not None
    assert kept.iteration == 2
    assert str(kept.path) in said
    assert all(x.isfinite().all() for x in safetensors.torch.load_file(kept.path / "policy.safetensors").values())
    monkeypatch.undo()
    assert Experiment.resume(tmp_path / "one").run().finished


def test_one_seed_that_fails_does_not_end_the_others(
    tmp_path: Path, wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = experiment(tmp_path / "plain", "seeds=3").run()
    monkeypatch.setattr(Tampered, "amount", float("nan"))
    monkeypatch.setattr(Tampered, "since", 16)
    wrapped(Tampered)
    said: list[str] = []
    monkeypatch.setattr(Progress, "message", lambda self, text: said.append(text))
    result = experiment(tmp_path / "hurt", "seeds=3", "seed=0").run()
    assert result.finished
    assert result.failed == (1,)
    assert len(said) == 1
    assert said[0].startswith("Seed 1: loss/policy and loss/value are not finite.")
    meta = RunFolder.open(result.folder).meta(RunFolder.open(result.folder).checkpoints()[-1])
    assert meta["healthy"] == [True, False, True]
    for s in (0, 2):
        x, y = (tensors(each.folder / f"seed_{s}") for each in (plain, result))
        assert all(torch.equal(x[k], y[k]) for k in x)
    assert all(v.isfinite().all() for v in tensors(result.folder / "seed_1").values())
    said.clear()
    assert Experiment.resume(result.folder, 5 * FRAMES).run().failed == (1,)
    assert said == [], "told once"


def test_when_the_last_seed_fails_training_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate = Learner.iterate

    def dying(self: Learner) -> Any:
        found = iterate(self)
        if self.iteration in (2, 3):
            found.terms["agents"]["value"][self.iteration - 2] = float("inf")
        return found

    monkeypatch.setattr(Learner, "iterate", dying)
    with pytest.raises(UserError, match=r"Seed 1: loss/value is not finite. Training stopped after 72 frames"):
        experiment(tmp_path, "seeds=2").run()


def test_a_full_disk_costs_nothing_that_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment(tmp_path / "whole").run()
    write = runs._write_flushed

    def full(path: Path, content: bytes) -> None:
        if f"{4 * FRAMES:012d}" in str(path) and path.name == "state.safetensors":
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(runs, "_write_flushed", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device; what was saved before stays"):
        experiment(tmp_path / "full").run()
    folder = RunFolder.open(tmp_path / "full" / "one")
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == [f"{2 * FRAMES:012d}"]
    monkeypatch.setattr(runs, "_write_flushed", write)
    assert Experiment.resume(folder.path).run().finished
    assert same(folder.path, whole.folder)


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    result = experiment(tmp_path, "seeds=2", iterations=2).run()
    path = result.folder / "config.json"
    content = json.loads(path.read_text())
    groups = content["groups"]
    content["groups"] = {"agents": groups["agents"] | {"observation": 99}}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was trained with other agents, observations or actions"):
        Experiment.resume(result.folder)
    content["groups"] = groups
    path.write_text(json.dumps(content))
    (result.folder / "seed_1" / "checkpoints" / f"{2 * FRAMES:012d}" / "meta.json").unlink()
    with pytest.raises(UserError, match=r"seed_1 lacks the checkpoint of frame 48"):
        Experiment.resume(result.folder)
    (result.folder / "seed_1" / "config.json").unlink()
    (result.folder / "seed_1").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lacks the folders of seeds 1"):
        Experiment.resume(result.folder)


def test_faults_of_the_environment_close_it(tmp_path: Path, wrapped: Any) -> None:
    from hypermarl.envs.interface import EnvironmentFault

    closed: list[Any] = []

    class Faulty(Forgetful):
        def step(self, actions: Any) -> Any:
            raise EnvironmentFault("Environment 'games/specialisation' fell over.")

        def close(self) -> None:
            closed.append(self)

    wrapped(Faulty)
    with pytest.raises(EnvironmentFault, match="fell over"):
        experiment(tmp_path).run()
    assert len(closed) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (("algorithm.gamma=1.5",), "algorithm.gamma must be between 0 and 1, not 1.5"),
        (("algorithm.lr=0",), "algorithm.lr must be more than 0"),
        (("evaluation.every=-1",), "evaluation.every must be at least 0"),
        (("seed=-1",), "seed must be at least 0"),
        (("model.actor=[8,0]",), "model.actor must be at least 1"),
        (("sharing.embedding=0",), "sharing.embedding must be at least 1"),
        (("env.max_steps=0",), "env.max_steps must be at least 1"),
        (("algorithm.minibatches=25",), "minibatches=25 is more than the 24 rows of a rollout"),
        (("model=gru", "algorithm.minibatches=4"), "more than the 3 rows of a rollout, since a recurrent policy"),
        (("algorithm.objective=torchrl", "seeds=2"), "objective=torchrl trains one seed at a time"),
        (("algorithm.objective=torchrl", "model=gru", "algorithm.minibatches=1"), "objective=torchrl"),
        (("sharing=hyper_chunked", "sharing.conditioning=one_hot", "sharing.generator.trunk=[]"), "needs features"),
    ],
)
def test_settings_with_which_nothing_could_work(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*words)


def test_no_hidden_layers_are_fine() -> None:
    assert config("model.actor=[]").model.actor == ()
    assert TINY[0] == "model.actor=[7,6]"
