"""Advantages and losses: equal to TorchRL's, exact in pieces, blind to the dead, and no seed touches another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_env import CHASERS, RUNNERS, ScriptedEnv
from small import close, config, group, policies, policy, rng
from tensordict import TensorDict
from torch import Tensor
from torchrl.objectives.value import GAE
from torchrl.objectives.value.advantages import MultiAgentGAE

from hypermarl.envs.interface import Group
from hypermarl.marl import distributions, objectives
from hypermarl.marl.objectives import TERMS, Samples
from hypermarl.marl.policy import Policy
from hypermarl.marl.rollout import Batch, Collector
from hypermarl.marl.settings import AlgorithmConfig
from hypermarl.monitoring.progress import Clock

GAMMA, LAM = 0.97, 0.9


# ------------------------------------------------------------------------------------------------ advantages


def episode_numbers(t: int, e: int, n: int, seed: int, rate: float) -> dict[str, Tensor]:
    source = rng(seed)
    ends = torch.rand(t, e, n, generator=source) < rate
    cuts = (torch.rand(t, e, n, generator=source) < rate) & ~ends
    return {
        "reward": torch.randn(t, e, n, generator=source),
        "value": torch.randn(t + 1, e, n, generator=source),
        "final": torch.randn(t, e, n, generator=source),
        "terminated": ends,
        "truncated": cuts,
    }


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.5, 1.0])
)
def test_advantages_are_those_of_torchrl(t: int, e: int, n: int, seed: int, rate: float) -> None:
    """With agents that end and are cut off at times of their own, several in one environment."""
    x = episode_numbers(t, e, n, seed, rate)
    final = {i: x["final"][i] for i in range(t) if x["truncated"][i].any()}
    found = objectives.generalised_advantages(
        x["reward"], x["value"], x["terminated"], x["truncated"], final, GAMMA, LAM
    )
    following = torch.where(x["truncated"], x["final"], x["value"][1:])
    told = {
        "state_value": x["value"][:-1],
        "next": {
            "state_value": following,
            "reward": x["reward"],
            "done": x["terminated"] | x["truncated"],
            "terminated": x["terminated"],
        },
    }
    leaves = TensorDict(told).apply(lambda leaf: leaf.transpose(0, 1).unsqueeze(-1), batch_size=(e, t))
    for estimator in (GAE, MultiAgentGAE):
        theirs = estimator(gamma=GAMMA, lmbda=LAM, value_network=None, time_dim=1)(leaves.clone())
        close(found, theirs["advantage"].squeeze(-1).transpose(0, 1))
        close(found + x["value"][:-1], theirs["value_target"].squeeze(-1).transpose(0, 1))


def test_advantages_by_hand() -> None:
    """Three steps, the second of which is cut off: nothing is summed across it, and its future is the final value."""
    reward, value = torch.tensor([1.0, 2.0, 4.0]).view(3, 1), torch.tensor([0.5, 1.5, 2.5, 3.5]).view(4, 1)
    no, cut = torch.zeros(3, 1, dtype=torch.bool), torch.tensor([[False], [True], [False]])
    final = {1: torch.tensor([10.0])}
    third = 4 + 0.5 * 3.5 - 2.5
    for end, second in ((no, 2 + 0.5 * 10 - 1.5), (cut, 2 - 1.5)):
        found = objectives.generalised_advantages(reward, value, end, cut & ~end, final, 0.5, 0.8)
        close(found, torch.tensor([[1 + 0.5 * 1.5 - 0.5 + 0.4 * second], [second], [third]]))


# ------------------------------------------------------------------------------------------------ preparation


def rolled(
    *words: str, seeds: int = 2, steps: int = 13, **plot: Any
) -> tuple[dict[str, Policy], dict[str, Batch], Any]:
    env = ScriptedEnv(3 * seeds, **plot)
    made = policies(env.groups, *words, seeds=range(seeds), stir=0.1)
    collector = Collector(env, made, steps, seeds)
    collector.reset(0)
    collector.collect([rng(s) for s in range(seeds)], Clock())  # so that it starts in the middle of an episode
    batches, _ = collector.collect([rng(s) for s in range(seeds)], Clock())
    return made, batches, replace(config(*words).algorithm, gamma=GAMMA, lam=LAM)


def judged(made: dict[str, Policy], name: str, seen: dict[str, Tensor], memory: Tensor | None) -> tuple[Tensor, Any]:
    """Values and memories of one step `[E, S, N]`."""
    one = made[name]
    inputs = one.critic_inputs(seen).unsqueeze(0)
    if memory is None:
        return one.values(inputs)[0][0], None
    value, memories = one.values(inputs, memory=memory, fresh=torch.zeros(inputs.shape[:-1], dtype=torch.bool))
    assert memories is not None
    return value[0], memories[0]


@pytest.mark.parametrize("plot", [{}, {"early_cut": True}, {"kill_all_at": 4}], ids=["clock", "early cut", "all die"])
@pytest.mark.parametrize("words", [(), ("algorithm=mappo",), ("model=gru",), ("model=gru", "algorithm=mappo")])
@torch.no_grad()
def test_targets_agent_by_agent(words: tuple[str, ...], plot: dict[str, Any]) -> None:
    """Each agent's episode by itself, in plain Python: terminated agents have no future, cut off ones keep theirs."""
    made, batches, algorithm = rolled(*words, **plot)
    prepared = objectives.prepare(made, batches, algorithm, chunk=5)
    for name, batch in batches.items():
        steps, envs, seeds, agents = batch.reward.shape
        values, finals = [], {}
        memory = batch.memory.critic if batch.memory is not None else None
        for t in range(steps + 1):
            if memory is not None:
                memory = torch.where(batch.fresh[t][..., None, None], 0.0, memory)
            value, memory = judged(made, name, {n: b.observation[t] for n, b in batches.items()}, memory)
            values.append(value)
            if t in batch.final:
                finals[t] = judged(made, name, {n: b.final[t] for n, b in batches.items()}, memory)[0]
        expected = torch.zeros(steps, envs, seeds, agents)
        for e, s, n in np.ndindex(envs, seeds, agents):
            at = (e, s, n)
            running = 0.0
            for t in reversed(range(steps)):
                ended, cut = bool(batch.terminated[t][at]), bool(batch.truncated[t][at])
                future = 0.0 if ended else float(finals[t][at] if cut else values[t + 1][at])
                delta = float(batch.reward[t][at]) + GAMMA * future - float(values[t][at])
                running = delta + (0.0 if ended or cut else GAMMA * LAM * running)
                expected[t][at] = running
        alive = torch.ones_like(expected, dtype=torch.bool) if batch.alive is None else batch.alive
        samples = prepared[name]
        rows = {
            "advantage": expected,
            "value": torch.stack(values[:-1]),
            "target": expected + torch.stack(values[:-1]),
        }
        for field, numbers in rows.items():
            stored = getattr(samples, field)
            laid = stored.movedim(2, 0) if samples.fresh is not None else stored.unflatten(0, (steps, envs))
            close(laid[alive], numbers[alive], atol=1e-4)
        assert (samples.weight is None) == (batch.alive is None)


def test_rows_of_all_fields_belong_together() -> None:
    made, batches, algorithm = rolled("algorithm=mappo")
    prepared = objectives.prepare(made, batches, algorithm, chunk=100)
    for name, samples in prepared.items():
        batch = batches[name]
        assert samples.rows() == 13 * 3
        for t, e in ((0, 0), (7, 1), (12, 2)):
            row = t * 3 + e
            for field in ("observation", "action", "log_prob", "mask"):
                whole = getattr(batch, field)
                assert whole is None or torch.equal(getattr(samples, field)[row], whole[t, e])
            everybody = torch.cat([b.observation[t, e].flatten(-2) for b in batches.values()], -1)
            assert torch.equal(samples.critic_input[row], everybody.unsqueeze(1).expand_as(samples.critic_input[row]))
            if batch.alive is not None:
                assert torch.equal(samples.weight[row].bool(), batch.alive[t, e])
    index = torch.tensor([[3, 5], [0, 5], [20, 1], [38, 0]])
    taken = prepared[RUNNERS].take(index)
    assert torch.equal(taken.action[:, 1], prepared[RUNNERS].action[[5, 5, 1, 0], 1])
    assert torch.equal(taken.piece(1, 3).target, taken.target[1:3])


@pytest.mark.parametrize("words", [(), ("model=gru",)], ids=["mlp", "gru"])
def test_a_policy_has_not_moved_before_its_first_update(words: tuple[str, ...]) -> None:
    """Probability ratios are one and values the old ones, for memories through resets and from one rollout on."""
    made, batches, algorithm = rolled(*words)
    for name, samples in objectives.prepare(made, batches, algorithm, chunk=100).items():
        one = made[name]
        with torch.no_grad():
            told, value = objectives.evaluate(one, samples, one.actor.weights(), one.critic.weights())
        close(distributions.raw_log_prob(one.distribution, told, samples.action), samples.log_prob)
        close(value, samples.value, atol=1e-4)


@pytest.mark.parametrize("seeds", [1, 2])
def test_normalised_values(seeds: int) -> None:
    """The critic speaks in units of the norm before the update, its targets are in those after it."""
    words = ("algorithm.value_norm=true",)
    made, batches, algorithm = rolled(*words, seeds=seeds)
    one = made[CHASERS]
    one.value_norm.update(50 + 9 * torch.randn(4, 5, seeds, 3, generator=rng()))
    mean, deviation = (each.squeeze(-1) for each in one.value_norm._moments())
    with torch.no_grad():
        raw = one.values(batches[CHASERS].observation)[0]
        finals = {
            t: one.values(final)[0] * deviation[:, None] + mean[:, None] for t, final in batches[CHASERS].final.items()
        }
    batch = batches[CHASERS]
    value = raw * deviation[:, None] + mean[:, None]
    advantage = objectives.generalised_advantages(
        batch.reward, value, batch.terminated, batch.truncated, finals, GAMMA, LAM
    )
    samples = objectives.prepare(made, batches, algorithm, chunk=100)[CHASERS]
    shape = batch.reward.shape
    close(samples.advantage.reshape(shape), advantage, atol=1e-4)
    close(samples.value.reshape(shape), raw[:-1])
    after, spread = (each.squeeze(-1) for each in one.value_norm._moments())
    assert (after - mean).abs().min() > 1e-3
    target = (advantage + value[:-1] - after[:, None]) / spread[:, None]
    close(samples.target.reshape(shape), target, atol=1e-4)


# ------------------------------------------------------------------------------------------------ losses


def drawn(
    one: Policy, rows: int = 12, *, dead: bool = False, seed: int = 5, length: int = 0, memory: int = 4
) -> Samples:
    """Random samples `[R, S, N, ...]` (recurrent: `[R, S, T, N, ...]`) with legal actions and plausible old numbers."""
    group, source = one.group, rng(seed)
    seeds, agents = next(iter(one.parameters())).shape[0], len(group.agents)
    shape = (rows, seeds, length, agents) if length else (rows, seeds, agents)

    def normal(*more: int) -> Tensor:
        return torch.randn(*shape, *more, generator=source)

    mask = None
    if group.masked:
        mask = torch.rand(*shape, group.action.size, generator=source) < 0.6
        mask[..., 0] |= ~mask.any(-1)
    categorical = one.distribution == "categorical"
    action = (normal(group.action.size) + (0.0 if mask is None else 99.0 * mask)).argmax(-1) if categorical else None
    return Samples(
        observation=normal(group.observation),
        critic_input=None,
        action=normal(group.action.size) if action is None else action,
        log_prob=-1.5 + 0.5 * normal(),
        advantage=normal(),
        target=normal(),
        value=0.5 * normal(),
        weight=(torch.rand(shape, generator=source) < 0.7).float() if dead else None,
        mask=mask,
        fresh=torch.rand(shape, generator=source) < 0.2 if length else None,
        actor_memory=torch.randn(rows, seeds, agents, memory, generator=source) if length else None,
        critic_memory=torch.randn(rows, seeds, agents, memory, generator=source) if length else None,
    )


def gradients(
    one: Policy, part: Samples, algorithm: AlgorithmConfig, micro: int = 1000, noise: int = 3
) -> tuple[Tensor, list[Tensor]]:
    """Terms and every parameter's gradient of one minibatch."""
    seeds = part.action.shape[1]
    for parameter in one.parameters():
        parameter.grad = None
    terms = objectives.accumulate(one, replace(part), algorithm, micro, [rng(noise + s) for s in range(seeds)])
    return terms, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in one.parameters()]


CASES: dict[str, tuple[Group, tuple[str, ...]]] = {
    "discrete": (group(3, 5, 4), ()),
    "masked": (group(3, 5, 4, masked=True), ()),
    "normal": (group(3, 5, (1.0, 2.5)), ()),
    "tanh": (group(3, 5, (1.0, 2.5)), ("model.distribution=tanh_normal", "algorithm.entropy=0")),
    "id in the observation": (group(3, 5, 4), ("sharing=shared_id",)),
    "own networks": (group(3, 5, 4), ("sharing=independent",)),
    "no clipped values": (group(3, 5, 4), ("algorithm.clip_value=false", "algorithm.value_coef=0.7")),
    "no value loss": (group(3, 5, 4), ("algorithm.value_coef=0",)),
    "much entropy, little clip": (group(3, 5, 4), ("algorithm.entropy=0.3", "algorithm.clip=0.05")),
}


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "some dead"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_torchrl(case: str, dead: bool) -> None:
    """Of its IPPOLoss with squared errors; advantages are normalised before."""
    agents, words = CASES[case]
    one = policy(agents, *words)
    part, algorithm = drawn(one, dead=dead), config(*words).algorithm
    ours, found = gradients(one, part, algorithm)
    theirs, expected = gradients(one, part, replace(algorithm, objective="torchrl"), micro=5)
    # TorchRL draws its own sample for an entropy without closed form, and leaves out a loss that counts nothing
    left_out = {"tanh": "entropy", "no value loss": "value"}.get(case)
    compared = [TERMS.index(name) for name in ("policy", "value", "entropy") if name != left_out]
    close(ours[compared], theirs[compared])
    for x, y in zip(found, expected, strict=True):
        close(x, y)
    assert sum(float(x.abs().sum()) for x in found) > 0.1


def test_a_central_critic_against_torchrl() -> None:
    one = policy(group(3, 5, 4), "algorithm=mappo")
    part, algorithm = drawn(one), config("algorithm=mappo").algorithm
    part.critic_input = torch.randn(12, 1, 1, 15, generator=rng(8)).expand(12, 1, 3, 15)
    ours, found = gradients(one, part, algorithm)
    theirs, expected = gradients(one, part, replace(algorithm, objective="torchrl"))
    close(ours[:3], theirs[:3])
    for x, y in zip(found, expected, strict=True):
        close(x, y)


def test_terms_by_their_definitions() -> None:
    """In plain operations over each seed's samples, dead ones left out."""
    one = policy(group(3, 5, 4), seeds=(0, 1))
    part, algorithm = drawn(one, dead=True), config().algorithm
    found, _ = gradients(one, part, algorithm)
    with torch.no_grad():
        logits = one.parameters_of(part.observation)[0]["logits"]
        value = one.values(part.observation)[0]
    for s in range(2):
        alive = part.weight[:, s].bool()
        advantage = part.advantage[:, s][alive]
        advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
        chance = torch.distributions.Categorical(logits=logits[:, s][alive])
        log_ratio = chance.log_prob(part.action[:, s][alive]) - part.log_prob[:, s][alive]
        ratio = log_ratio.exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        new, old, aim = (each[:, s][alive] for each in (value, part.value, part.target))
        clipped = old + (new - old).clamp(-0.2, 0.2)
        error = torch.maximum((new - aim) ** 2, (clipped - aim) ** 2)
        expected = {
            "policy": -gain.mean(),
            "value": 0.5 * error.mean(),
            "entropy": chance.entropy().mean(),
            "kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > 0.2).float().mean(),
        }
        for name, number in expected.items():
            close(found[TERMS.index(name), s], number)


VARIANTS = {
    "mlp": (group(3, 5, 4), (), 0),
    "masks and deaths": (group(3, 5, 4, masked=True), (), 0),
    "tanh": (group(3, 5, (1.0, 2.5)), ("model.distribution=tanh_normal",), 0),
    "gru": (group(3, 5, 4), ("model=gru",), 6),
    "gru, own bodies": (group(3, 5, (1.0, 2.5)), ("model=gru", "model.body=generated"), 6),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_pieces_add_up_to_the_whole(variant: str, seeds: int) -> None:
    agents, words, length = VARIANTS[variant]
    one = policy(agents, *words, seeds=range(seeds))
    part = drawn(one, dead=variant == "masks and deaths", length=length)
    algorithm = config(*words).algorithm
    calls: list[int] = []
    for each in (one.actor, one.critic):
        each.generator.register_forward_hook(lambda *_: calls.append(1))
    whole, expected = gradients(one, part, algorithm)
    assert len(calls) == 2
    for micro in (1, 5 * seeds * max(1, length)):
        terms, found = gradients(one, part, algorithm, micro)
        close(terms, whole)
        for x, y in zip(found, expected, strict=True):
            close(x, y, atol=1e-6)
    assert len(calls) == 6, "weights are generated once for all pieces of a minibatch"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", ["samples", "parameters", "nan samples", "nan parameters"])
def test_no_seed_touches_another(variant: str, what: str) -> None:
    """Not in one bit: seed 1 gets other samples or parameters, or NaN, and seeds 0 and 2 do not notice."""
    agents, words, length = VARIANTS[variant]
    one = policy(agents, *words, seeds=(0, 1, 2))
    algorithm = config(*words).algorithm
    part = drawn(one, dead=variant == "masks and deaths", length=length)
    terms, before = gradients(one, part, algorithm, micro=10)
    wrong = float("nan") if what.startswith("nan") else 7.0
    if what.endswith("samples"):
        for field in ("observation", "log_prob", "advantage", "target", "value"):
            x = getattr(part, field).clone()
            x[:, 1] = wrong if what.startswith("nan") else 2 * x[:, 1] + 1
            setattr(part, field, x)
    else:
        with torch.no_grad():
            for parameter in one.parameters():
                parameter[1] = wrong if what.startswith("nan") else parameter[1] * 1.5
    terms_after, after = gradients(one, part, algorithm, micro=10)
    assert torch.equal(terms[:, [0, 2]], terms_after[:, [0, 2]])
    assert not torch.equal(terms[:, 1], terms_after[:, 1])
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x[[0, 2]], y[[0, 2]])
    if what.startswith("nan"):
        assert any(not y[1].isfinite().all() for y in after)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_seed_learns_the_same_alone_and_among_others(variant: str) -> None:
    agents, words, length = VARIANTS[variant]
    together = policy(agents, *words, seeds=(0, 1, 2))
    part, algorithm = drawn(together, dead=variant == "masks and deaths", length=length), config(*words).algorithm
    _, whole = gradients(together, part, algorithm)
    for s in range(3):
        fields = {f: getattr(part, f) for f in part.__slots__}
        mine = Samples(**{f: None if x is None else x[:, s : s + 1] for f, x in fields.items()})
        _, own = gradients(policy(agents, *words, seeds=(s,)), mine, algorithm, noise=3 + s)
        for x, y in zip(whole, own, strict=True):
            close(x[s], y[0], atol=1e-6)


@pytest.mark.parametrize("how", ["all", "agent", "none"])
@pytest.mark.parametrize("length", [0, 4])
def test_the_dead_teach_nothing(how: str, length: int) -> None:
    """Whatever stands in the samples of agents that are not there, neither loss nor gradient know of it."""
    words = ("model=gru",) if length else ()
    one = policy(group(3, 5, 4), *words, seeds=(0, 1))
    algorithm = replace(config(*words).algorithm, normalise_advantage=how)
    part = drawn(one, dead=True, length=length)
    terms, before = gradients(one, part, algorithm)
    gone = part.weight == 0
    for field in ("log_prob", "advantage", "target", "value"):
        setattr(part, field, torch.where(gone, 3.0, getattr(part, field)))
    part.action = torch.where(gone, 1, part.action)
    if not length:  # a memory sees what it sees; what was not there is zero in any case
        part.observation = torch.where(gone.unsqueeze(-1), 5.0, part.observation)
    terms_after, after = gradients(one, part, algorithm)
    close(terms, terms_after, atol=1e-6)
    for x, y in zip(before, after, strict=True):
        close(x, y, atol=1e-6)


def test_illegal_actions_take_no_part_in_the_loss() -> None:
    """The last layer's bias of an action that is illegal in every sample gets no gradient, the others do."""
    one = policy(group(3, 5, 4, masked=True), "sharing=independent")
    part = drawn(one)
    part.mask[..., 2] = False
    part.mask[..., 0] |= ~part.mask.any(-1)
    part.action = torch.where(
        part.mask.gather(-1, part.action.unsqueeze(-1)).squeeze(-1), part.action, part.mask.float().argmax(-1)
    )
    gradients(one, part, config("sharing=independent").algorithm)
    bias = one.actor.generator.heads["layers_2_bias"].weight.grad.reshape(3, 4)
    assert bias[:, 2].abs().max() == 0
    assert bias[:, [0, 1, 3]].abs().min() > 0


# ------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("shape", [(9, 2, 3), (9, 2, 5, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_normalised_advantages(shape: tuple[int, ...], weighted: bool) -> None:
    x = torch.randn(shape, generator=rng()) * torch.tensor([1.0, 5.0, 9.0]) + torch.tensor([0.0, 3.0, -4.0])
    weight = (torch.rand(shape, generator=rng(1)) < 0.6).float() if weighted else None
    everywhere = torch.ones(shape, dtype=torch.bool) if weight is None else weight.bool()
    for s in range(2):
        whole = objectives.normalise(x, weight, "all")[:, s][everywhere[:, s]]
        close(whole.mean(), torch.zeros(()))
        close(whole.std(correction=0), torch.ones(()))
        for n in range(3):
            own = objectives.normalise(x, weight, "agent")[:, s, ..., n][everywhere[:, s, ..., n]]
            close(own.mean(), torch.zeros(()))
            close(own.std(correction=0), torch.ones(()))
    assert torch.equal(objectives.normalise(x, weight, "none"), x)
    constant = objectives.normalise(torch.full(shape, 3.0), weight, "all")
    assert constant.abs().max() < 1e-3
