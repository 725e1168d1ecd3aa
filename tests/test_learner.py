"""The loop without its surroundings: it can be stopped and continued bit for bit, and seeds share nothing but time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import close, config
from torch import Tensor

from hypermarl.envs.interface import Step, VectorEnv
from hypermarl.errors import UserError
from hypermarl.marl import learner as module
from hypermarl.marl.learner import Iteration, Learner
from hypermarl.marl.objectives import TERMS

GAME, SPREAD = ("env=games/specialisation",), ("env=spread/bps_1", "env.options.n_agents=6")
VMAS = ("env=vmas/dispersion", "env.max_steps=6")
MPE = ("env=pettingzoo/mpe2.simple_spread_v3", "env.max_steps=6")


def started(*words: str) -> Learner:
    made = Learner(config(*words))
    made.start()
    return made


def everything(made: Learner) -> dict[str, Tensor]:
    """All that decides what comes next."""
    found = {f"{n}/{k}": v for n, p in made.policies.items() for k, v in p.state_dict().items()}
    found |= {f"optimizer/{k}": v for k, v in made.optimizer_state().items()}
    return found | {f"run/{k}": v for k, v in made.run_state()[0].items()}


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def saved(made: Learner) -> dict[str, Any]:
    """A checkpoint, as the archive asks for it: copies of plain tensors by name."""
    state, exact = made.run_state()
    copies = {
        part: {k: v.clone() for k, v in tensors.items()}
        for part, tensors in {"optimizer": made.optimizer_state(), "state": state}.items()
    }
    policies = [{k: v.clone() for k, v in made.policy_state(s).items()} for s in range(len(made.seeds))]
    return {**copies, "policies": policies, "iteration": made.iteration, "exact": exact}


def restored(kept: dict[str, Any], *words: str) -> Learner:
    made = Learner(config(*words))
    made.load_policies(kept["policies"], Path("somewhere"))
    made.load_optimizer(kept["optimizer"])
    made.load_run_state(kept["state"], kept["iteration"], kept["exact"])
    return made


RESUMED = {
    "game": GAME,
    "game, two seeds": (*GAME, "seeds=2"),
    "gru": (*GAME, "model=gru", "algorithm.minibatches=2"),
    "gru, two seeds, own bodies": (*GAME, "model=gru", "model.body=generated", "seeds=2"),
    "own networks": (*GAME, "sharing=independent"),
    "values normalised, rate annealed": (
        *GAME,
        "algorithm.value_norm=true",
        "algorithm.anneal_lr=true",
        "train.frames=120",
    ),
    "many small groups of samples": (*GAME, "train.micro_batch=5", "algorithm.minibatches=5"),
    "spread": SPREAD,
    "dispersion": VMAS,
    "bfloat16, one critic": (*GAME, "speed=fast", "algorithm=mappo", "algorithm.share_critic=true", "seeds=2"),
    "dispersion, mappo, two seeds": (*VMAS, "algorithm=mappo", "seeds=2"),
    "navigation, squashed": (
        "env=vmas/navigation_2_unique",
        "env.num_envs=3",
        "env.max_steps=6",
        "algorithm.epochs=2",
        "algorithm.minibatches=2",
        "algorithm.entropy=0.01",
        "model.distribution=tanh_normal",
    ),
}


@pytest.mark.parametrize("case", RESUMED)
def test_twice_as_long_is_stopped_and_continued(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: parameters, moments, memories, environments, random streams, and what is reported."""
    monkeypatch.setattr(module, "check_precision", lambda *_: None)  # without the hardware it is slow, but the same
    words = RESUMED[case]
    whole = started(*words)
    for _ in range(2):
        whole.iterate()
    middle = everything(whole)
    middle = {name: tensor.clone() for name, tensor in middle.items()}
    kept = saved(whole)
    assert kept["exact"]
    first = [whole.iterate() for _ in range(2)]
    again = restored(kept, *words)
    assert differences(everything(again), middle) == []
    second = [again.iterate() for _ in range(2)]
    assert differences(everything(again), everything(whole)) == []
    assert differences(everything(whole), middle) != []
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x.gradient_norm, y.gradient_norm)
        assert torch.equal(x.episodes.length, y.episodes.length)
        for name in x.terms:
            assert all(torch.equal(x.terms[name][term], y.terms[name][term]) for term in TERMS)
    whole.close()
    again.close()


@pytest.mark.parametrize("words", [GAME, VMAS], ids=["game", "vmas"])
def test_a_run_repeats_itself(words: tuple[str, ...]) -> None:
    runs = []
    for noise in (1, 2):  # and depends on nobody else's random numbers
        torch.manual_seed(noise)
        made = started(*words)
        for _ in range(2):
            made.iterate()
        runs.append(everything(made))
    assert differences(*runs) == []
    other = started(*words, "seed=5")
    other.iterate()
    assert differences(runs[0], everything(other)) != []


class Forgetful:
    """An environment that cannot tell its state, and whose episodes differ by the seed of their reset."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.resets: list[int | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, seed: int | None = None) -> Any:
        self.resets.append(seed)
        return self.env.reset(seed)

    def state_dict(self) -> None:
        return None


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[VectorEnv], Any]], None]:
    """Makes every learner's environment one that is wrapped."""
    make = module.envs.make

    def wrap(wrapper: Callable[[VectorEnv], Any]) -> None:
        monkeypatch.setattr(module.envs, "make", lambda *args, **options: wrapper(make(*args, **options)))

    return wrap


def test_an_environment_without_a_state_begins_anew_at_checkpoints(wrapped: Any) -> None:
    wrapped(Forgetful)
    whole = started(*VMAS)
    for _ in range(2):
        whole.iterate()
    kept = saved(whole)
    assert not kept["exact"]
    whole.restart()
    whole.iterate()
    again = restored(kept, *VMAS)
    again.iterate()
    assert differences(everything(again), everything(whole)) == []
    assert again.env.resets == whole.env.resets[1:]
    whole.restart()
    assert whole.env.resets[-1] != whole.env.resets[-2], "not the same episodes after every checkpoint"


# ------------------------------------------------------------------------------------------------ seeds


class Tampered:
    """Rewards of the second of three seeds are changed, or made NaN, from the given step on."""

    amount = 5.0
    since = 0

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, actions: dict[str, Tensor]) -> Step:
        step = self.env.step(actions)
        self.steps += 1
        if self.steps > self.since:
            for reward in step.reward.values():
                reward[1::3] += self.amount * torch.rand(reward[1::3].shape)
        return step


def run_of_three(*words: str, tamper: Callable[[Learner], None] = lambda _: None) -> tuple[Learner, list[Iteration]]:
    made = started(*words, "seeds=3")
    tamper(made)
    return made, [made.iterate() for _ in range(3)]


def others(made: Learner) -> dict[str, Tensor]:
    """Everything of seeds 0 and 2."""
    found = {f"{s}/{k}": v for s in (0, 2) for k, v in made.policy_state(s).items()}
    moments = {k: v for k, v in made.optimizer_state().items() if not k.endswith("step")}
    return found | {k: v[[0, 2]] for k, v in moments.items()}


LEAKS = {
    "game": GAME,
    "gru": (*GAME, "model=gru"),
    "spread": SPREAD,
    "one network": (*GAME, "sharing=shared_id"),
    "own networks, mappo, values normalised": (
        *GAME,
        "sharing=independent",
        "algorithm=mappo",
        "algorithm.value_norm=true",
    ),
    "continuous": (
        "env=vmas/navigation_2_unique",
        "env.num_envs=3",
        "env.max_steps=6",
        "algorithm.epochs=2",
        "algorithm.minibatches=2",
    ),
}


@pytest.mark.parametrize("case", LEAKS)
def test_rewards_of_one_seed_are_nothing_to_the_others(case: str, wrapped: Any) -> None:
    plain, before = run_of_three(*LEAKS[case])
    wrapped(Tampered)
    changed, after = run_of_three(*LEAKS[case])
    assert differences(others(plain), others(changed)) == []
    assert differences(plain.policy_state(1), changed.policy_state(1)) != []
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x.gradient_norm[[0, 2]], y.gradient_norm[[0, 2]])
        for name in x.terms:
            assert all(torch.equal(x.terms[name][k][[0, 2]], y.terms[name][k][[0, 2]]) for k in TERMS)


@pytest.mark.parametrize("case", LEAKS)
def test_parameters_of_one_seed_are_nothing_to_the_others(case: str) -> None:
    def tamper(made: Learner) -> None:
        with torch.no_grad():
            for policy in made.policies.values():
                for parameter in policy.parameters():
                    parameter[1] += 0.1 * torch.randn_like(parameter[1])

    plain, _ = run_of_three(*LEAKS[case])
    changed, _ = run_of_three(*LEAKS[case], tamper=tamper)
    assert differences(others(plain), others(changed)) == []
    assert differences(plain.policy_state(1), changed.policy_state(1)) != []
    assert changed.healthy.all()


@pytest.mark.parametrize("case", [name for name in LEAKS if name != "continuous"])
@pytest.mark.parametrize("what", ["rewards", "parameters"])
def test_a_seed_that_fails_stays_as_it_was(case: str, what: str, wrapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others train on, bit for bit as if nothing had happened; what is saved of it holds no NaN."""
    plain, _ = run_of_three(*LEAKS[case])

    def tamper(made: Learner) -> None:
        with torch.no_grad():
            for policy in made.policies.values():
                generator = policy.actor.generator
                first = next(p for name, p in generator.named_parameters() if name.startswith(("base", "heads")))
                first[1] = float("nan")

    if what == "rewards":
        monkeypatch.setattr(Tampered, "amount", float("nan"))
        monkeypatch.setattr(Tampered, "since", 8)  # the second rollout
        wrapped(Tampered)
    changed, found = run_of_three(*LEAKS[case], tamper=(lambda _: None) if what == "rewards" else tamper)
    assert changed.healthy.tolist() == [True, False, True]
    assert differences(others(plain), others(changed)) == []
    assert all(
        each.terms["agents" if "agents" in each.terms else next(iter(each.terms))]["value"][[0, 2]].isfinite().all()
        for each in found
    )
    assert not all(
        found[-1].terms[name][term][1].isfinite() for name in found[-1].terms for term in ("policy", "value")
    )
    if what == "rewards":
        first = started(*LEAKS[case], "seeds=3")
        first.iterate()
        kept = {k: v for k, v in changed.policy_state(1).items() if "value_norm" not in k}
        assert all(tensor.isfinite().all() for tensor in changed.policy_state(1).values())
        assert differences(kept, {k: v for k, v in first.policy_state(1).items() if k in kept}) == []


@pytest.mark.parametrize(
    "words", [GAME, (*GAME, "model=gru"), (*GAME, "algorithm.value_norm=true")], ids=["mlp", "gru", "norm"]
)
def test_a_seed_trains_the_same_alone_and_among_others(words: tuple[str, ...]) -> None:
    """Games hold no chance, so nothing but rounding may differ: not the start, the actions, the order of samples."""
    together, _ = run_of_three(*words)
    for s in range(3):
        alone = started(*words, f"seed={s}")
        for _ in range(3):
            alone.iterate()
        for name, tensor in alone.policy_state(0).items():
            close(together.policy_state(s)[name], tensor, atol=1e-4)


def test_a_failed_seed_stays_failed_when_resumed() -> None:
    words = (*GAME, "seeds=3")
    made, _ = run_of_three(*GAME, tamper=lambda each: each.healthy.logical_and_(torch.tensor([True, False, True])))
    again = restored(saved(made), *words)
    assert again.healthy.tolist() == [True, False, True]
    before = {k: v.clone() for k, v in again.policy_state(1).items()}
    again.iterate()
    assert differences(before, again.policy_state(1)) == []


# ------------------------------------------------------------------------------------------------ the loop


@pytest.mark.parametrize(
    "words", [GAME, (*GAME, "model=gru", "algorithm.minibatches=3"), (*VMAS, "train.micro_batch=3")]
)
def test_weights_are_generated_once_per_rollout_and_minibatch(words: tuple[str, ...]) -> None:
    made = started(*words)
    calls: dict[str, int] = {"actor": 0, "critic": 0}
    for policy in made.policies.values():
        for name in calls:

            def count(*_: Any, name: str = name) -> None:
                calls[name] += 1

            getattr(policy, name).generator.register_forward_hook(count)
    made.iterate()
    settings = made.config.algorithm
    assert calls == dict.fromkeys(calls, 1 + settings.epochs * settings.minibatches)


def test_every_sample_is_used_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Tensor] = []
    take = module.Samples.take
    monkeypatch.setattr(module.Samples, "take", lambda self, index: (used.append(index), take(self, index))[1])
    made = started(*GAME, "seeds=2", "algorithm.epochs=3", "algorithm.minibatches=5")
    made.iterate()
    assert len(used) == 15
    epochs = [torch.cat(used[i : i + 5]) for i in range(0, 15, 5)]
    for s in range(2):
        assert all(sorted(epoch[:, s].tolist()) == list(range(24)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0][:, 0], epochs[0][:, 1])


def test_unlike_groups_learn_side_by_side() -> None:
    made = started(
        "env=pettingzoo/mpe2.simple_tag_v3", "env.max_steps=6", "env.options.num_obstacles=1", "algorithm=mappo"
    )
    before = {name: made.policy_state(0)[name].clone() for name in made.policy_state(0)}
    found = made.iterate()
    assert set(found.terms) == set(made.policies) == {"adversary", "agent"}
    for name in made.policies:
        moved = [
            k for k, v in made.policy_state(0).items() if k.startswith(f"{name}/") and not torch.equal(v, before[k])
        ]
        assert any("actor" in key for key in moved)
        assert any("critic" in key for key in moved)
    made.close()


@pytest.mark.parametrize(
    "words", [GAME, (*VMAS, "algorithm=mappo"), (*GAME, "sharing=shared_id", "algorithm.value_norm=true")]
)
def test_training_with_torchrls_loss_is_the_same_training(words: tuple[str, ...]) -> None:
    ours, theirs = (started(*words, f"algorithm.objective={each}") for each in ("ppo", "torchrl"))
    for _ in range(3):
        x, y = ours.iterate(), theirs.iterate()
    for name in x.terms:
        for term in ("policy", "value", "entropy"):
            close(x.terms[name][term], y.terms[name][term])
        for p, q in zip(ours.policies[name].parameters(), theirs.policies[name].parameters(), strict=True):
            close(p, q)


def test_the_rate_falls_to_nothing() -> None:
    made = started(*GAME, "algorithm.anneal_lr=true", "train.frames=120")  # five iterations of 24 frames
    rates = []
    for _ in range(5):
        made.iterate()
        rates.append(made.optimizer.param_groups[0]["lr"] / made.config.algorithm.lr)
    close(torch.tensor(rates), torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]))
    assert made.frame == 120
    assert made.iteration == made.iterations == 5


def test_seeds_are_numbered_from_the_first() -> None:
    assert Learner(config(*GAME, "seed=4", "seeds=3")).seeds == [4, 5, 6]


def test_the_environment_is_closed_when_nothing_comes_of_it(wrapped: Any) -> None:
    closed = []

    class Watched(Forgetful):
        def close(self) -> None:
            closed.append(self)

    wrapped(Watched)
    with pytest.raises(UserError, match="rows for 4 agents"):
        Learner(config(*GAME, "sharing.conditioning=features", "sharing.features=[[1,2]]"))
    assert len(closed) == 1


def test_a_checkpoint_of_other_networks_is_refused() -> None:
    kept = saved(started(*GAME))
    with pytest.raises(UserError, match="somewhere does not fit"):
        restored(kept, *GAME, "model.actor=[9]")
