"""TorchRL takes our actors and critics for its own: its collector, its losses, its optimisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripted_env import CHASERS, RUNNERS, ScriptedEnv
from small import SHARINGS, close, config, rng, stirred, with_id
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.multiagent import IPPOLoss, MAPPOLoss

from hypermarl.envs import make
from hypermarl.envs.torchrl import TorchRLEnv
from hypermarl.errors import UserError
from hypermarl.marl import distributions, objectives
from hypermarl.marl.policy import Policy, build_policies, build_policy
from hypermarl.marl.torchrl import actor_module, critic_module
from hypermarl.stacking import slice_of

E = 4
GROUP = "agents"


def game(**options: Any) -> TorchRLEnv:
    return TorchRLEnv(
        make("games", "specialisation", num_envs=E, options={"n_agents": 3, "episode_steps": 5, **options})
    )


def built(env: TorchRLEnv, *words: str, stir: float = 0.1) -> dict[str, Policy]:
    """Policies of one seed, without its axis."""
    groups = env.vector.groups
    return {name: stirred(build_policy(config(*words), groups, name, 0), stir) for name in groups}


def collector(env: TorchRLEnv, actor: Any, frames: int = 24) -> Collector:
    return Collector(
        env, actor, frames_per_batch=E * frames, total_frames=E * frames * 3, auto_register_policy_transforms=False
    )


def loss_of(policy: Policy, kind: Any, groups: tuple[str, ...] = (), **options: Any) -> Any:
    name = policy.group.name
    loss = kind(actor_module(policy), critic_module(policy, groups), **options)
    loss.set_keys(
        action=(name, "action"),
        sample_log_prob=(name, "action_log_prob"),
        value=(name, "state_value"),
        advantage=(name, "advantage"),
        value_target=(name, "value_target"),
        reward=(name, "reward"),
        done=(name, "done"),
        terminated=(name, "terminated"),
    )
    loss.make_value_estimator(gamma=0.9, lmbda=0.95)
    return loss


# ------------------------------------------------------------------------------------------------ training with TorchRL


@pytest.mark.parametrize("kind, algorithm", [(IPPOLoss, "ippo"), (MAPPOLoss, "mappo"), (ClipPPOLoss, "ippo")])
@pytest.mark.parametrize("sharing", ["hyper_mlp", "independent", "shared_id"])
def test_torchrl_collects_and_trains(sharing: str, kind: Any, algorithm: str) -> None:
    """Its collector, its advantage estimator, its loss and a plain optimiser; every parameter of ours moves."""
    env = game()
    policy = built(env, f"sharing={sharing}", f"algorithm={algorithm}")[GROUP]
    loss = loss_of(policy, kind)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in policy.parameters()]
    assert {id(p) for p in policy.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    rollouts = collector(env, actor_module(policy))
    for batch in rollouts:
        with torch.no_grad():
            loss.value_estimator(
                batch, params=loss.critic_network_params, target_params=loss.target_critic_network_params
            )
        for _ in range(2):
            found = loss(batch.reshape(-1))
            total = found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]
            optimizer.zero_grad()
            torch.autograd.backward(total.sum())
            optimizer.step()
    rollouts.shutdown()
    assert batch.shape == (E, 24)
    assert batch[GROUP, "action"].shape == (E, 24, 3)
    assert batch[GROUP, "advantage"].shape == (E, 24, 3, 1)
    for parameter, old in zip(policy.parameters(), before, strict=True):
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, old)


def test_torchrl_can_teach_a_game() -> None:
    """Different agents for different actions, learned by TorchRL through our generator."""
    env = game(temporal=False)
    torch.manual_seed(0)
    policy = build_policy(config(), env.vector.groups, GROUP, 0)
    loss = loss_of(policy, IPPOLoss, normalize_advantage_exclude_dims=())
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-2)
    actor = actor_module(policy)

    def reward() -> float:
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            return float(env.rollout(1, actor)["next", GROUP, "reward"].mean())

    assert reward() < 0.5
    for _ in range(60):
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            batch = torch.cat([env.rollout(1, actor) for _ in range(8)])
            loss.value_estimator(batch)
        found = loss(batch.reshape(-1))
        optimizer.zero_grad()
        torch.autograd.backward(found["loss_objective"] + found["loss_critic"] + found["loss_entropy"])
        optimizer.step()
    assert reward() == 1.0


def test_groups_masks_and_boxes() -> None:
    """Two unlike groups at once: illegal actions are never done, and actions come in the units of the environment."""
    scripted = ScriptedEnv(E)
    env = TorchRLEnv(scripted)
    check_env_specs(env, seed=0)
    policies = built(env, "algorithm=mappo", stir=0.3)
    actors = TensorDictSequential(*[actor_module(each) for each in policies.values()])
    rollouts = collector(env, actors, frames=20)
    batch = next(iter(rollouts))
    rollouts.shutdown()
    mask, action = batch[RUNNERS, "action_mask"], batch[RUNNERS, "action"]
    assert mask.gather(-1, action.unsqueeze(-1)).all()
    assert not mask.all()
    told, _ = policies[RUNNERS].parameters_of(batch[RUNNERS, "observation"], mask)
    close(batch[RUNNERS, "action_log_prob"], distributions.log_prob("categorical", told, action))
    for name, policy in policies.items():
        groups = tuple(policies)
        value = critic_module(policy, groups)(batch.clone())[name, "state_value"]
        seen = {each: batch[each, "observation"] for each in groups}
        close(value.squeeze(-1), policy.values(policy.critic_inputs(seen))[0])
        loss = loss_of(policy, MAPPOLoss, groups)
        with torch.no_grad():
            loss.value_estimator(
                batch, params=loss.critic_network_params, target_params=loss.target_critic_network_params
            )
        found = loss(batch.reshape(-1))
        torch.autograd.backward(found["loss_objective"] + found["loss_critic"] + found["loss_entropy"])
        assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


# ------------------------------------------------------------------------------------------------ equality


@pytest.mark.parametrize("kind", ["normal", "tanh_normal"])
def test_densities_in_the_units_of_the_environment(kind: str) -> None:
    """TorchRL's distribution of environment actions is ours of raw ones, stretched to the box."""
    env = TorchRLEnv(ScriptedEnv(E))
    policy = built(env, f"model.distribution={kind}", stir=0.3)[CHASERS]
    seen = torch.randn(7, 3, 6, generator=rng())
    chance = actor_module(policy).get_dist(TensorDict({CHASERS: {"observation": seen}}, [7]))
    told, _ = policy.parameters_of(seen)
    raw = distributions.sample(kind, told, torch.randn(7, 3, 2, generator=rng(1)))
    action = policy.to_environment(raw)
    box = ((policy.high - policy.low) / 2).log().sum()
    close(chance.log_prob(action), distributions.log_prob(kind, told, raw) - box, atol=1e-4)
    close(chance.deterministic_sample, policy.to_environment(distributions.mode(kind, told)), atol=1e-4)
    if kind == "normal":
        close(chance.entropy(), distributions.entropy(kind, told) + box)


def columns(policy: Policy, rows: int = 30) -> tuple[TensorDict, objectives.Samples]:
    """One batch as TorchRL reads it and as we do."""
    agents, source = len(policy.group.agents), rng(3)
    seen = torch.randn(rows, agents, policy.group.observation, generator=source)
    numbers = {
        name: torch.randn(rows, agents, generator=source) for name in ("log_prob", "advantage", "target", "value")
    }
    numbers["log_prob"] = 0.3 * numbers["log_prob"] - 1.2
    action = torch.randint(policy.group.action.size, (rows, agents), generator=source)
    advantage = (numbers["advantage"] - numbers["advantage"].mean()) / numbers["advantage"].std(correction=0)
    td = TensorDict(
        {
            GROUP: {
                "observation": seen,
                "action": action,
                "action_log_prob": numbers["log_prob"],
                "advantage": advantage.unsqueeze(-1),
                "value_target": numbers["target"].unsqueeze(-1),
                "state_value": numbers["value"].unsqueeze(-1),
            }
        },
        [rows],
    )
    ours = objectives.Samples(
        seen.unsqueeze(1), None, action.unsqueeze(1), **{k: v.unsqueeze(1) for k, v in numbers.items()}
    )
    return td, ours


@pytest.mark.parametrize("clip_value", [True, False])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_our_update_is_torchrls(sharing: str, clip_value: bool) -> None:
    """Terms and gradients of all trained parameters, with TorchRL used as anybody would use it."""
    words = (f"sharing={sharing}", f"algorithm.clip_value={str(clip_value).lower()}", "algorithm.value_coef=0.7")
    env = game()
    both = build_policies(config(*words), env.vector.groups, [0])[GROUP]
    stirred(both, 0.2)
    policy = build_policy(config(*words), env.vector.groups, GROUP, 0)
    policy.load_state_dict(slice_of(both.state_dict(), 0))
    td, samples = columns(policy)
    if sharing == "shared_id":
        assert with_id(policy, samples.observation).shape[-1] == policy.group.observation + 3
    algorithm = config(*words).algorithm
    loss = loss_of(
        policy,
        IPPOLoss,
        clip_epsilon=algorithm.clip,
        clip_value=clip_value,
        entropy_coeff=algorithm.entropy,
        critic_coeff=0.5 * algorithm.value_coef,
        loss_critic_type="l2",
        normalize_advantage=False,
    )
    found = loss(td)
    torch.autograd.backward(found["loss_objective"] + found["loss_critic"] + found["loss_entropy"])
    terms = objectives.accumulate(both, samples, algorithm, 7, [rng()])[:, 0]
    close(terms[0], found["loss_objective"].detach())
    close(terms[1], (found["loss_critic"] / algorithm.value_coef).detach())
    close(terms[2], found["entropy"])
    close(terms[4], found["clip_fraction"])
    theirs = dict(policy.named_parameters())
    for name, parameter in both.named_parameters():
        x, y = (torch.zeros(()) if p.grad is None else p.grad for p in (parameter, theirs[name]))
        close(x.squeeze(0) if parameter.grad is not None else x, y)


def test_values_are_in_the_units_of_the_returns() -> None:
    env = game()
    policy = built(env)[GROUP]
    seen = torch.randn(7, 3, 9, generator=rng())
    plain = critic_module(policy)(TensorDict({GROUP: {"observation": seen}}, [7]))[GROUP, "state_value"]
    policy.value_norm.mean.fill_(0.5 * 20.0)
    policy.value_norm.square.fill_(0.5 * (400.0 + 9.0))
    policy.value_norm.trust.fill_(0.5)
    found = critic_module(policy)(TensorDict({GROUP: {"observation": seen}}, [7]))[GROUP, "state_value"]
    close(found, 20 + 3 * plain, atol=1e-4)


def test_weights_are_generated_once_within_frozen() -> None:
    env = game()
    policy = built(env)[GROUP]
    calls: list[int] = []
    policy.actor.generator.register_forward_hook(lambda *_: calls.append(1))
    actor = actor_module(policy)
    with policy.frozen(), torch.no_grad():
        env.rollout(5, actor)
    assert len(calls) == 1


def test_memories_are_not_for_torchrl() -> None:
    policy = built(game(), "model=gru")[GROUP]
    for module in (actor_module, critic_module):
        with pytest.raises(UserError, match="Recurrent policies have no TorchRL modules"):
            module(policy)


def test_what_acts_is_what_was_trained() -> None:
    """The same actions from the same noise as our own rollout would take."""
    env = game()
    policy = built(env, stir=0.5)[GROUP]
    seen: Tensor = torch.randn(7, 3, 9, generator=rng())
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = actor_module(policy)(TensorDict({GROUP: {"observation": seen}}, [7]))[GROUP, "action"]
    assert torch.equal(action, distributions.mode("categorical", policy.parameters_of(seen)[0]))
