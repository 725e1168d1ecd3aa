"""The training loop without its surroundings: collect, learn, repeat; its whole state can be saved and continued.

Letters: `S` seeds, `E` environments per seed, `T` steps of a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hypermarl import envs
from hypermarl.errors import UserError
from hypermarl.marl.objectives import TERMS, Samples, accumulate, prepare
from hypermarl.marl.policy import Policy, build_policies
from hypermarl.marl.progress import Clock
from hypermarl.marl.rollout import Batch, Collector, Episodes
from hypermarl.marl.saved import restore
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.stacking import join, slice_of
from hypermarl.updates import descend, minibatches


@dataclass(slots=True)
class Iteration:
    """What one iteration did; tensors are `[S]`."""

    episodes: Episodes
    terms: dict[str, dict[str, Tensor]]  # group -> term -> [S]
    gradient_norm: Tensor
    batches: dict[str, Batch] = field(repr=False, default_factory=dict)
    samples: dict[str, Samples] = field(repr=False, default_factory=dict)


class Learner:
    """S independent runs trained as one batch on one simulation."""

    def __init__(self, config: ExperimentConfig) -> None:
        torch.set_num_threads(config.train.threads)
        self.config = config
        self.seeds = config.all_seeds
        self.device = torch_device(config.device)
        env = config.env
        self.env = envs.make(
            env.kind,
            env.name,
            num_envs=env.num_envs * config.seeds,
            device=self.device,
            max_steps=env.max_steps,
            workers=env.workers,
            options=dict(env.options),
        )
        try:
            self.policies: dict[str, Policy] = build_policies(config, self.env.groups, self.seeds)
        except BaseException:
            self.env.close()
            raise
        for policy in self.policies.values():
            policy.to(self.device)
        self.optimizer = torch.optim.Adam(
            [{"params": list(p.parameters())} for p in self.policies.values()],
            lr=config.algorithm.lr,
            eps=config.algorithm.adam_eps,
            fused=True,
        )
        self.rngs = [torch.Generator(self.device).manual_seed(seed) for seed in self.seeds]
        self.collector = Collector(self.env, self.policies, config.train.steps, config.seeds)
        self.healthy = torch.ones(config.seeds, dtype=torch.bool, device=self.device)
        self.clock = Clock(torch.cuda.synchronize if self.device.type == "cuda" else None)
        self.iteration = 0

    @property
    def frames_per_iteration(self) -> int:
        """Environment steps of one seed in one iteration."""
        return self.config.train.steps * self.config.env.num_envs

    @property
    def frame(self) -> int:
        return self.iteration * self.frames_per_iteration

    @property
    def iterations(self) -> int:
        """How many the configured budget asks for."""
        return -(-self.config.train.frames // self.frames_per_iteration)

    def start(self) -> None:
        """Begin: every environment anew."""
        self.collector.reset(self.config.seed)

    def iterate(self) -> Iteration:
        """One rollout and one update."""
        if self.config.algorithm.anneal_lr:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.algorithm.lr * max(0.0, 1.0 - self.iteration / self.iterations)
        with ExitStack() as stack:
            with self.clock("generation"):  # once for acting and judging what was done
                for policy in self.policies.values():
                    stack.enter_context(policy.frozen())
            batches, episodes = self.collector.collect(self.rngs, self.clock)
            with self.clock("update"):
                samples = prepare(self.policies, batches, self.config.algorithm, self.config.train.micro_batch)
        with self.clock("update"):
            terms, norm = self._update(samples)
        self.iteration += 1
        return Iteration(episodes, terms, norm, batches, samples)

    def _update(self, samples: Mapping[str, Samples]) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
        settings = self.config.algorithm
        rows = next(iter(samples.values())).rows()
        parameters = [list(policy.parameters()) for policy in self.policies.values()]
        sums = {name: torch.zeros(len(TERMS), len(self.seeds), device=self.device) for name in samples}
        norm = torch.zeros(len(self.seeds), device=self.device)
        for epoch in range(settings.epochs):
            last = epoch == settings.epochs - 1
            for index in minibatches(rows, settings.minibatches, self.rngs, self.device):
                for name, policy in self.policies.items():
                    part = samples[name].take(index)
                    found = accumulate(policy, part, settings, self.config.train.micro_batch, self.rngs)
                    if last:
                        sums[name] += found / settings.minibatches
                norm = descend(self.optimizer, parameters, settings.max_grad_norm, self.healthy)
        return {name: dict(zip(TERMS, found, strict=True)) for name, found in sums.items()}, norm

    def policy_state(self, place: int) -> dict[str, Tensor]:
        """Policies of seed number `place`, as plain tensors without the seeds axis: `group/parameter`."""
        return {
            f"{name}/{key}": tensor
            for name, policy in self.policies.items()
            for key, tensor in slice_of(policy.state_dict(), place).items()
        }

    def load_policies(self, states: list[dict[str, Tensor]], source: Path) -> None:
        """The inverse of `policy_state` for all seeds; `source` is where they come from, for the error message."""
        restore(self.policies, join(states), source)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts, by parameter number."""
        states = self.optimizer.state_dict()["state"]
        return {f"{i}.{key}": value for i, entry in states.items() for key, value in entry.items()}

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            number, name = key.split(".", 1)
            entries.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": entries, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def run_state(self) -> tuple[dict[str, Tensor], bool]:
        """Environment and random state, and whether the environment could tell its own."""
        state = {f"collector.{key}": value for key, value in self.collector.state_dict().items()}
        state |= {f"rng.{i}": rng.get_state() for i, rng in enumerate(self.rngs)}
        state["healthy"] = self.healthy
        environment = self.env.state_dict()
        if environment is not None:
            state |= {f"env.{key}": value for key, value in environment.items()}
        return state, environment is not None

    def load_run_state(self, state: Mapping[str, Tensor], iteration: int, exact: bool) -> None:
        self.iteration = iteration
        self.collector.load_state_dict(_under(state, "collector."))
        for i, rng in enumerate(self.rngs):
            rng.set_state(state[f"rng.{i}"].cpu())
        self.healthy.copy_(state["healthy"])
        if exact:
            self.collector.view = self.env.load_state_dict(_under(state, "env."))
        else:
            self.restart()

    def restart(self) -> None:
        """Reset all environments with a seed that is a function of the iteration.

        Done at every checkpoint when an environment cannot tell its state, so that resuming equals going on.
        """
        self.collector.reset((self.config.seed * 1_000_003 + self.iteration) % 2**31)

    def close(self) -> None:
        self.env.close()


def torch_device(name: str) -> torch.device:
    """The device of that name, or one clear sentence."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
