"""Turns that teach nothing get no backward pass, and the update is the one it would be with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import small_words
import torch
from small import close, stirred
from torch import Tensor

from hypermarl.language.converse import Answer, Question, Speech
from hypermarl.language.rewarding import Rewarding

GRPO = {"objective": "grpo", "group": 6, "epochs": 2}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


class Passes:
    """Whose free text a run reads with gradient and without, how it reads choices, and its backward passes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tracked: list[int] = []
        self.plain: list[int] = []
        self.read: list[tuple[bool, set[int]]] = []
        self.back = 0
        written, choices, backward = Speech.written, Speech.choices, Tensor.backward

        def watched(speech: Speech, answers: Sequence[Answer]) -> Any:
            if speech.weights is not None:
                (self.tracked if torch.is_grad_enabled() else self.plain).extend(a.question.owner for a in answers)
            return written(speech, answers)

        def chosen(speech: Speech, questions: Sequence[Question]) -> Any:
            if speech.weights is not None:
                self.read.append((torch.is_grad_enabled(), {question.owner for question in questions}))
            return choices(speech, questions)

        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
            self.back += 1
            backward(tensor, *args, **kwargs)

        patch.setattr(Speech, "written", watched)
        patch.setattr(Speech, "choices", chosen)
        patch.setattr(Tensor, "backward", counted)


def never_idle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rewarding, "_idle", lambda one, advantage: torch.zeros_like(advantage, dtype=torch.bool))


def parameters(one: Rewarding) -> list[Tensor]:
    return [p.detach().clone() for p in one.descent.parameters]


@pytest.mark.parametrize("reward", [{}, GRPO])
def test_with_nothing_to_teach_momentum_moves_on_and_nothing_goes_back(folder: Path, reward: dict[str, Any]) -> None:
    def two(reference: bool) -> tuple[list[Tensor], Passes, dict[str, float]]:
        with pytest.MonkeyPatch.context() as patch:
            if reference:
                never_idle(patch)
            one = small_words.learner(folder, reward=reward)
            stirred(one.actor)
            one.iterate()
            before = parameters(one)
            one.envs = [one.make_env(n_agents=1) for _ in one.envs]  # who speaks alone earns the same, whatever it says
            passes = Passes(patch)
            values = one.iterate()
            assert any(not torch.equal(a, b) for a, b in zip(before, one.descent.parameters, strict=True))
        return parameters(one), passes, values

    mine, passes, values = two(False)
    wanted, others, told = two(True)
    for one, other in zip(mine, wanted, strict=True):
        assert torch.equal(one, other)
    assert values == told and values["gradient_norm"] == 0
    assert passes.back == 0 and others.back == reward.get("epochs", 1)
    if reward:  # what was said is read without gradient, once; else it would be read again in both epochs
        assert passes.read == [(False, {0})] and others.read == [(False, {0}), (True, {0}), (True, {0})]


def test_free_text_that_teaches_nothing_is_read_without_gradient(folder: Path) -> None:
    def update(reference: bool) -> tuple[list[Tensor], Passes, dict[str, float]]:
        with pytest.MonkeyPatch.context() as patch:
            if reference:
                never_idle(patch)
            env = {"free": True, "scale": 0.0}  # the clerk earns nothing, whatever it says
            one = small_words.learner(folder, env=env, reward={"temperature": 2.0, "tokens": 1})
            one.envs = [one.make_env(**env) for _ in range(40)]
            stirred(one.actor)
            passes = Passes(patch)
            values = one.iterate()
        return parameters(one), passes, values

    mine, passes, values = update(False)
    wanted, others, told = update(True)
    assert set(passes.plain) == {1} and set(passes.tracked) == {0, 2}
    assert not others.plain and sorted(others.tracked) == sorted(passes.tracked + passes.plain)
    for one, other in zip(mine, wanted, strict=True):
        close(one, other)
    assert values.keys() == told.keys()
    for name, value in values.items():
        assert value == pytest.approx(told[name], abs=1e-5), name


def test_words_that_teach_nothing_are_read_when_they_are_said_alone(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        one = small_words.learner(folder, env={"scale": 0.0}, reward=GRPO)
        one.envs = [one.make_env(scale=0.0) for _ in range(36)]
        passes = Passes(patch)
        one.iterate()
    assert passes.read == [(False, {0, 1, 2}), (True, {0, 2}), (True, {0, 2})]


@pytest.mark.parametrize("reward", [{"kl": 0.1}, {"entropy": 0.1}, {"entropy": 0.1, "entropy_end": 0.0}])
def test_where_more_than_reward_is_asked_every_turn_teaches(folder: Path, reward: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        one = small_words.learner(folder, env={"n_agents": 1}, reward=reward, train={"updates": 4})
        stirred(one.actor)
        passes = Passes(patch)
        assert one.iterate()["gradient_norm"] > 0 and passes.back == 1
        one.iterate()
        later = one.iterate()  # here a bonus that falls is gone
    gone = "entropy_end" in reward
    assert passes.back == (2 if gone else 3) and (later["gradient_norm"] == 0) == gone
