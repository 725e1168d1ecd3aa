"""Learning from reward: gradients are those of the plain sum over samples, agents with an identity learn to differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_words
import torch
from small import close, rng, stirred
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language import converse as conversing
from hypermarl.language.converse import Conversation, Turn
from hypermarl.language.objectives import (
    OBJECTIVES,
    advantages,
    divergence,
    entropy,
    estimated_divergence,
    returns_to_go,
)
from hypermarl.language.rewarding import Rewarding
from hypermarl.language.rows import positions
from hypermarl.language.settings import RewardConfig

SHARINGS = tuple(small_words.SHARING)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def gradients(one: Rewarding) -> tuple[dict[str, float], list[Tensor], Conversation]:
    """Of one update, which is kept from moving anything; and what was said in it."""
    found: list[Tensor] = []

    def keep(update: int) -> float:
        found[:] = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in one.descent.parameters]
        one.descent.optimizer.zero_grad()
        return 0.0

    one.descent.step = keep  # type: ignore[method-assign]
    values = one.iterate()
    assert one._last is not None
    return values, found, one._last


def scores(one: Rewarding, turn: Turn, adapted: bool = True) -> Tensor:
    """`[L, V]` log-probabilities after every token, of one turn by itself in one row, at the settings' temperature."""
    told = turn.answer.tokens if turn.answer else ()
    ids = torch.tensor([[*turn.question.tokens, *told]])
    arguments = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": positions(torch.ones_like(ids)),
    }
    if adapted:
        weights = one.actor.weights(one.who())
        number = one.agents.index(turn.agent)
        mine = {name: tensor[number if len(tensor) > 1 else 0][None] for name, tensor in weights.items()}
        logits = one.target.apply(mine, arguments).logits[0]
    else:
        logits = one.target.network(**arguments).logits[0]
    return logits / one.config.reward.temperature


def token_scores(one: Rewarding, turn: Turn, adapted: bool = True) -> tuple[Tensor, Tensor]:
    """Log-probability of each token said (a choice is one, an end another), and what it was drawn from."""
    raw = scores(one, turn, adapted)
    if turn.answer is None:
        drawn = raw[-1:, list(turn.question.words)].log_softmax(-1)
        return drawn[:, turn.choice], drawn
    first = len(turn.question.tokens) - 1
    drawn = raw[first : first + turn.answer.length].log_softmax(-1)
    said = [drawn[i, token] for i, token in enumerate(turn.answer.tokens)]
    if turn.answer.ended:
        said.append(drawn[-1, sorted(one.backbone.stops)].exp().sum().log())
    return torch.stack(said), drawn


def explicit_loss(one: Rewarding, talk: Conversation) -> Tensor:
    """The same objective as a sum over single samples, each with a forward pass of its own."""
    config = one.config.reward
    worth = []
    for turn in talk.turns:
        later = talk.rewards[turn.copy][turn.step :]
        worth.append(sum(config.gamma**k * rewards.get(turn.agent, 0.0) for k, rewards in enumerate(later)))
    losses = []
    for turn, earned in zip(talk.turns, worth, strict=True):
        alike = [
            w
            for other, w in zip(talk.turns, worth, strict=True)
            if other.agent == turn.agent and (config.objective != "grpo" or other.prompt == turn.prompt)
        ]
        mean = sum(alike) / len(alike)
        deviation = math.sqrt(sum((w - mean) ** 2 for w in alike) / len(alike))
        advantage = (earned - mean) / deviation if deviation > 1e-6 else 0.0
        said, drawn = token_scores(one, turn)
        with torch.no_grad():
            plain, plain_drawn = token_scores(one, turn, adapted=False)
        if turn.answer is None:
            apart = (drawn.exp() * (drawn - plain_drawn)).sum()
        else:
            apart = ((plain - said).exp() - 1 - (plain - said)).sum()
        surprise = -(drawn.exp() * drawn).sum(-1).mean()
        losses.append(-advantage * said.sum() + config.kl * apart - config.entropy * surprise)
    return torch.stack(losses).mean()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "reinforce": ({}, {}),
    "grpo at ratio 1": ({}, {"objective": "grpo"}),
    "divergence, entropy, temperature": ({}, {"kl": 0.7, "entropy": 0.3, "temperature": 1.7}),
    "steps": ({"steps": 3}, {"gamma": 0.9, "kl": 0.2}),
    "rounds": ({"steps": 2}, {"episodes": 2}),
    "free text": ({"free": True}, {"kl": 0.5, "entropy": 0.2, "temperature": 1.3}),
    "free text, grpo": ({"free": True, "steps": 2}, {"objective": "grpo", "kl": 0.5}),
}


@pytest.mark.parametrize("piece", [conversing.PIECE, 9], ids=["kept", "read again"])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_plain_sum_over_samples(
    case: str, piece: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversing, "PIECE", piece)
    env, reward = CASES[case]
    one = small_words.learner(folder, "hyper_mlp", env, reward={"group": 3, "tokens": 4, **reward})
    stirred(one.actor)
    values, found, talk = gradients(one)
    loss = explicit_loss(one, talk)
    wanted = torch.autograd.grad(loss, one.descent.parameters)
    assert max(float(g.abs().max()) for g in wanted) > 1e-3
    for mine, other in zip(found, wanted, strict=True):
        close(mine, other, atol=1e-4)
    if one.config.reward.objective == "reinforce":  # a ratio of 1 has another value than a log-probability
        assert values["loss/policy"] == pytest.approx(float(loss.detach()), abs=1e-5)


@pytest.mark.parametrize(
    ("fall", "update", "bonus"),
    [
        (None, 0, 0.9),
        (None, 1, 0.45),
        (None, 2, 0.0),
        (None, 8, 0.0),
        ((0.5, 0.75), 0, 0.9),
        ((0.25, 0.75), 1, 0.9),
        ((0.25, 0.75), 2, 0.45),
        ((0.25, 0.75), 3, 0.0),
        ((0.5, 0.5), 2, 0.9),
        ((0.5, 0.5), 3, 0.0),
    ],
)
def test_a_bonus_that_falls_does_so_in_a_line(
    fall: tuple[float, float] | None, update: int, bonus: float, folder: Path
) -> None:
    own = {} if fall is None else {"entropy_fall": fall}
    one = small_words.learner(folder, "hyper_mlp", reward={"group": 3, "entropy": 0.9, "entropy_end": 0.0, **own})
    one.config = replace(one.config, train=replace(one.config.train, updates=4))
    one.update = update
    stirred(one.actor)
    _, found, talk = gradients(one)
    one.config = replace(one.config, reward=replace(one.config.reward, entropy=bonus))
    for mine, other in zip(found, torch.autograd.grad(explicit_loss(one, talk), one.descent.parameters), strict=True):
        close(mine, other, atol=1e-4)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_every_way_of_sharing_gets_its_gradient(sharing: str, folder: Path) -> None:
    one = small_words.learner(folder, sharing)
    stirred(one.actor)
    _, found, talk = gradients(one)
    wanted = torch.autograd.grad(explicit_loss(one, talk), one.descent.parameters, allow_unused=True)
    for mine, other in zip(found, wanted, strict=True):
        close(mine, torch.zeros_like(mine) if other is None else other, atol=1e-4)
    heads = {tuple(turn.question.tokens[: len(one.backbone.encode(one.roles[turn.agent]))]) for turn in talk.turns}
    told = {tuple(one.backbone.encode(role)) for role in one.roles.values()}
    assert (heads == told) == (sharing == "shared_id")  # who is asked stands in the prompt


def test_an_update_reads_every_question_once_and_not_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty copies of three agents ask two prompts: six rows in all, of three tokens each, one pass for the rollout and
    the update."""
    one = small_words.learner(folder, env={"steps": 1}, reward={"group": 30})
    one.envs = [one.make_env() for _ in range(60)]
    read: list[int] = []
    network = one.target.network.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["input_ids"].numel())
        return network(*args, **kwargs)

    monkeypatch.setattr(one.target.network, "forward", counted)
    one.iterate()
    assert one._last is not None
    prompts = len({turn.prompt for turn in one._last.turns})
    assert len(one._last.turns) == 180 and read == [3 * prompts * 3, *prompts * [3]]  # the others: the frozen model's
    one.judge.most = 0
    read.clear()
    one.config.reward.__dict__["epochs"] = 2  # what is said is read without gradient then, and once per epoch
    one.iterate()
    assert len(read) == 3


def test_grpo_clips_what_has_moved_enough_and_equals_the_policy_gradient_at_ratio_1() -> None:
    config = RewardConfig(clip=0.2)
    old = torch.tensor([[-1.0], [-2.0], [-0.5]])
    worth = torch.tensor([[1.0], [-2.0], [0.5]])
    now = old.clone().requires_grad_()
    for objective in OBJECTIVES.values():
        (slope,) = torch.autograd.grad(objective(now, old, worth, config).sum(), now)
        close(slope, -worth)
    moved = (old + torch.tensor([[0.3], [-0.3], [0.1]])).requires_grad_()
    (slope,) = torch.autograd.grad(OBJECTIVES["grpo"](moved, old, worth, config).sum(), moved)
    close(slope, torch.tensor([[0.0], [0.0], [-0.5 * math.exp(0.1)]]))
    back = (old - torch.tensor([[0.3], [-0.3], [0.0]])).requires_grad_()  # against the advantage: never held back
    (slope,) = torch.autograd.grad(OBJECTIVES["grpo"](back, old, worth, config).sum(), back)
    assert (slope != 0).all()


def test_epochs_of_grpo_move_on_and_compare_with_what_was_said(folder: Path) -> None:
    one = small_words.learner(folder, reward={"objective": "grpo", "epochs": 3, "group": 6})
    stirred(one.actor)
    parameters = [p.clone() for p in one.descent.parameters]
    steps = []
    step = one.descent.step
    one.descent.step = lambda update: steps.append(update) or step(update)  # type: ignore[method-assign,func-returns-value]
    values = one.iterate()
    assert steps == [0, 0, 0] and math.isfinite(values["loss/policy"])
    assert any(not torch.equal(a, b) for a, b in zip(parameters, one.descent.parameters, strict=True))


def test_advantages_are_in_deviations_of_the_group() -> None:
    returns = torch.tensor([1.0, 3.0, 10.0, 30.0, 5.0, 5.0])
    groups = torch.tensor([0, 0, 2, 2, 1, 1])
    close(advantages(returns, groups), torch.tensor([-1.0, 1.0, -1.0, 1.0, 0.0, 0.0]))
    assert returns_to_go([1.0, 0.0, 4.0], 0.5) == [2.0, 2.0, 4.0]


def test_normalised_per_agent_an_agents_pay_can_be_in_any_unit(folder: Path) -> None:
    def slopes(scale: float, normalise: str) -> list[Tensor]:
        one = small_words.learner(folder, "hyper_linear", {"scale": scale}, reward={"normalise": normalise})
        stirred(one.actor)
        return gradients(one)[1]

    for mine, other in zip(slopes(1.0, "agent"), slopes(50.0, "agent"), strict=True):
        close(mine, other, atol=1e-4)
    for how in ("team", "none"):
        pairs = zip(slopes(1.0, how), slopes(50.0, how), strict=True)
        assert any(not torch.allclose(mine, other, atol=1e-4) for mine, other in pairs), how


def test_the_divergence_is_zero_at_the_start_and_then_what_it_should_be(folder: Path) -> None:
    for env in ({}, {"free": True}):
        one = small_words.learner(folder, env=env)
        values, _, _ = gradients(one)
        assert all(abs(values[f"policy/kl/{agent}"]) < 1e-6 for agent in one.agents)
        stirred(one.actor)
        values, _, talk = gradients(one)
        for agent in one.agents:
            apart = []
            for turn in talk.turns:
                if turn.agent == agent:
                    with torch.no_grad():
                        (said, drawn), (plain, base) = token_scores(one, turn), token_scores(one, turn, adapted=False)
                    exact = (drawn.exp() * (drawn - base)).sum()
                    apart.append(
                        float(exact if turn.answer is None else ((plain - said).exp() - 1 - plain + said).sum())
                    )
            assert values[f"policy/kl/{agent}"] == pytest.approx(sum(apart) / len(apart), abs=1e-5)
            assert values[f"policy/kl/{agent}"] > 1e-3


def test_measures_of_distributions() -> None:
    logits, base = torch.randn(4, 5, generator=rng(1)), torch.randn(4, 5, generator=rng(2))
    p, q = logits.log_softmax(-1), base.log_softmax(-1)
    close(entropy(p), torch.distributions.Categorical(logits=logits).entropy())
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=base)
    )
    close(divergence(p, q), kl)
    padded = [torch.cat([x, torch.full((4, 2), -torch.inf)], -1) for x in (p, q)]
    close(entropy(padded[0]), entropy(p))
    close(divergence(*padded), kl)
    close((p.exp() * estimated_divergence(p, q)).sum(-1), kl)  # on average, over what p draws


def learned(folder: Path, sharing: str, **sections: Any) -> tuple[float, Rewarding]:
    one = small_words.learner(
        folder, sharing, {"n_agents": 3}, **{"reward": {"group": 4}, "train": {"lr": 0.03, "updates": 40}, **sections}
    )
    one.envs = [one.make_env() for _ in range(24)]
    for _ in range(40):
        one.iterate()
    return float(one.play(20, 7).team.mean()), one


def test_agents_learn_to_differ(folder: Path) -> None:
    for sharing in ("hyper_mlp", "independent"):
        reward, one = learned(folder, sharing)
        assert reward > 0.95, sharing
        assert one.warnings() == []


def test_agents_without_an_identity_cannot(folder: Path) -> None:
    """All draw from one distribution, at best the even one: three of three words give 19/27 at most."""
    greedy, one = learned(folder, "shared")
    assert greedy == pytest.approx(1 / 3)
    drawn = one.play(300, 3, greedy=False).team
    assert drawn.mean() < 19 / 27 + 4 * drawn.std() / math.sqrt(len(drawn))


def test_it_goes_on_from_saved_tensors_as_if_never_stopped(folder: Path) -> None:
    one = small_words.learner(folder, env={"steps": 2})
    for _ in range(3):
        one.iterate()
    saved = {name: tensor.clone() for name, tensor in one.actor.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in one.descent.state().items()}
    counters = one.counters()
    later = [one.iterate() for _ in range(2)]
    other = small_words.learner(folder, env={"steps": 2})
    other.actor.load_state_dict(saved)
    other.descent.load(state)
    other.recount(counters)
    other.update = 3
    assert [other.iterate() for _ in range(2)] == later
    assert small_words.learner(folder, env={"steps": 2}, seed=1).iterate() != small_words.learner(folder).iterate()


def test_values_tell_of_every_agent(folder: Path) -> None:
    one = small_words.learner(folder, env={"steps": 2})
    values = one.iterate()
    talk = one._last
    assert talk is not None and len(talk.rewards) == 6
    for agent in one.agents:
        totals = [sum(step.get(agent, 0.0) for step in steps) for steps in talk.rewards]
        assert values[f"return/{agent}"] == pytest.approx(sum(totals) / 6)
        assert 0 < values[f"policy/entropy/{agent}"] <= math.log(3)
    assert values["return/team"] == pytest.approx(sum(values[f"return/{agent}"] for agent in one.agents) / 3)
    said: dict[tuple[int, int], list[str]] = {}
    for turn in talk.turns:
        said.setdefault((turn.copy, turn.step), []).append(turn.said)
    shares: Sequence[float] = [len(set(words)) / len(words) for words in said.values()]
    assert values["distinct"] == pytest.approx(sum(shares) / len(shares))
    lines = one.dialogue().splitlines()
    first = talk.turns[0]
    assert lines[0].startswith(f"{first.agent} <- {first.prompt!r} -> {first.said!r} (reward ")
    assert len(lines) == sum(turn.copy == 0 for turn in talk.turns) == 5  # the scout has one word in the second step
    assert values["illegal"] == 0.0


def test_free_text_is_counted(folder: Path) -> None:
    one = small_words.learner(folder, env={"free": True}, reward={"tokens": 5, "temperature": 2.0})
    one.envs = [one.make_env() for _ in range(40)]
    values = one.iterate()
    assert one._last is not None
    turns = one._last.turns
    for agent in one.agents:
        lengths = [turn.answer.length for turn in turns if turn.answer and turn.agent == agent]
        assert values[f"policy/length/{agent}"] == pytest.approx(sum(lengths) / len(lengths))
    assert values["illegal"] == pytest.approx(sum(not turn.said for turn in turns) / len(turns))
    assert values["illegal"] > 0  # some stop at once


def test_evaluation_is_of_likeliest_and_of_drawn_answers(folder: Path) -> None:
    one = small_words.learner(folder, reward={"test_episodes": 9})
    stirred(one.actor)
    found = one.evaluate()
    assert set(found) == {"return/greedy", "return/sampled", *(f"return/{agent}" for agent in one.agents)}
    assert found["return/greedy"] == one.play(9, 1_000_003).team.mean()
    again = [one.play(9, 5, greedy=False).returns for _ in range(2)]
    assert (again[0] == again[1]).all()
    assert (one.play(9, 5, greedy=False, steps=3).lengths == 3).all()


def test_where_nobody_chooses_there_is_nothing_to_learn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_words, "LEGAL", {0: ("red",), 1: ("red",)})
    with pytest.raises(UserError, match="nothing to learn"):
        small_words.learner(folder).iterate()
