"""The training loop without its surroundings: collect, learn, repeat; its whole state can be saved and continued.

Letters: `S` seeds, `E` environments per seed, `T` steps of a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hypermarl import envs
from hypermarl.machine import check_compiler, check_precision, compiled, torch_device
from hypermarl.marl.objectives import OBJECTIVES, TERMS, Samples, accumulate, moments_over, prepare
from hypermarl.marl.policy import Policy, build_policies
from hypermarl.marl.ranks import ALONE, Ranks
from hypermarl.marl.rollout import Batch, Collector, Episodes
from hypermarl.marl.saved import restore
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.memory import keep_freed_memory
from hypermarl.monitoring.progress import Clock
from hypermarl.stacking import join, slice_of
from hypermarl.updates import descend, load_optimizer, minibatches, optimizer_state


@dataclass(slots=True)
class Iteration:
    """What one iteration did, on all ranks but for `batches` and `samples`; tensors are `[S]`."""

    episodes: Episodes
    terms: dict[str, dict[str, Tensor]]  # group -> term -> [S]
    gradient_norm: Tensor
    batches: dict[str, Batch] = field(repr=False, default_factory=dict)
    samples: dict[str, Samples] = field(repr=False, default_factory=dict)


class Learner:
    """S independent runs trained as one batch on one simulation; of several ranks, each steps its own share of it."""

    def __init__(self, config: ExperimentConfig, ranks: Ranks = ALONE) -> None:
        torch.set_num_threads(config.train.threads)
        keep_freed_memory()
        self.config = config
        self.seeds = config.all_seeds
        self.ranks = ranks
        self.device = torch_device(ranks.device(config.device))
        check_precision(config.train.precision, self.device)
        self.objective = OBJECTIVES[config.algorithm.objective]
        if config.train.compile:
            check_compiler(self.device)
            self.objective = compiled(self.objective, self.device.type)
        env = config.env
        own = ranks.share(env.num_envs)
        config.check_minibatches(own)
        self.env = envs.make(
            env.kind,
            env.name,
            num_envs=own * config.seeds,
            device=self.device,
            max_steps=env.max_steps,
            workers=env.workers,
            options=dict(env.options),
        )
        try:
            self.policies: dict[str, Policy] = build_policies(config, self.env.groups, self.seeds)
            ranks.connect(self.device, config.train.rank_timeout)
        except BaseException:
            self.env.close()
            raise
        for policy in self.policies.values():
            policy.to(self.device)
            ranks.copy_first([*policy.parameters(), *policy.buffers()])
        self.optimizer = torch.optim.Adam(
            [{"params": list(p.parameters())} for p in self.policies.values()],
            lr=config.algorithm.lr,
            eps=config.algorithm.adam_eps,
            fused=True,
        )
        self.rngs = [torch.Generator(self.device).manual_seed(ranks.seed(seed)) for seed in self.seeds]
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
        self.collector.reset(self.ranks.seed(self.config.seed))

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
                settings, chunk = self.config.algorithm, self.config.train.micro_batch
                samples = prepare(self.policies, batches, settings, chunk, self.ranks)
        with self.clock("update"):
            sums, norm = self._update(samples)
            episodes, sums = self._of_all_ranks(episodes, sums)
        self.iteration += 1
        terms = {name: dict(zip(TERMS, found, strict=True)) for name, found in sums.items()}
        return Iteration(episodes, terms, norm, batches, samples)

    def _update(self, samples: Mapping[str, Samples]) -> tuple[dict[str, Tensor], Tensor]:
        """The descent steps of one iteration; this rank's share of the terms by group, and the last gradient norm."""
        settings = self.config.algorithm
        rows = next(iter(samples.values())).rows()
        parameters = [list(policy.parameters()) for policy in self.policies.values()]
        sums = {name: torch.zeros(len(TERMS), len(self.seeds), device=self.device) for name in samples}
        norm = torch.zeros(len(self.seeds), device=self.device)
        for epoch in range(settings.epochs):
            last = epoch == settings.epochs - 1
            parts = list(minibatches(rows, settings.minibatches, self.rngs, self.device))
            over = {n: moments_over(s, parts, settings.normalise_advantage, self.ranks) for n, s in samples.items()}
            for k, index in enumerate(parts):
                for name, policy in self.policies.items():
                    part, chunk = samples[name].take(index), self.config.train.micro_batch
                    found = accumulate(policy, part, settings, chunk, self.rngs, last, over[name][k], self.objective)
                    if last:
                        sums[name] += found / settings.minibatches
                self._add_gradients(parameters)
                norm = descend(self.optimizer, parameters, settings.max_grad_norm, self.healthy)
        return sums, norm

    def _add_gradients(self, parameters: Sequence[Sequence[nn.Parameter]]) -> None:
        if self.ranks.alone:
            return
        with self.clock("ranks"):
            self.ranks.add_gradients(p for group in parameters for p in group)

    def _of_all_ranks(self, episodes: Episodes, sums: dict[str, Tensor]) -> tuple[Episodes, dict[str, Tensor]]:
        *found, count, length = self.ranks.totals(
            [*sums.values(), *episodes.returns.values(), episodes.count, episodes.length]
        )
        returns = dict(zip(episodes.returns, found[len(sums) :], strict=True))
        return Episodes(returns, count, length), dict(zip(sums, found, strict=False))

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
        return optimizer_state(self.optimizer)

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        load_optimizer(self.optimizer, state)

    def learned(self) -> dict[str, Tensor]:
        """What all ranks hold alike."""
        held = {f"{name}/{key}": x for name, policy in self.policies.items() for key, x in policy.state_dict().items()}
        return held | self.optimizer_state()

    def run_state(self) -> tuple[dict[str, Tensor], bool]:
        """Environment and random state, and whether the environment could tell its own; whole on the first rank."""
        state = {f"collector.{key}": value for key, value in self.collector.state_dict().items()}
        state |= {f"rng.{i}": rng.get_state() for i, rng in enumerate(self.rngs)}
        environment = self.env.state_dict()
        exact = not self.ranks.any(environment is None)
        if environment is not None and exact:
            state |= {f"env.{key}": value for key, value in environment.items()}
        return {**self.ranks.gather(state), "healthy": self.healthy}, exact

    def load_run_state(self, state: Mapping[str, Tensor], iteration: int, exact: bool) -> bool:
        """Go on from there; False if another number of ranks was there, so that all environments begin anew."""
        self.iteration = iteration
        self.healthy.copy_(state["healthy"])
        own = self.ranks.mine(state)
        if own is None:
            for seed, rng in zip(self.seeds, self.rngs, strict=True):
                rng.manual_seed(self.ranks.seed(seed, iteration))
            self.restart()
            return False
        self.collector.load_state_dict(_under(own, "collector."))
        for i, rng in enumerate(self.rngs):
            rng.set_state(own[f"rng.{i}"].cpu())
        if exact:
            self.collector.view = self.env.load_state_dict(_under(own, "env."))
        else:
            self.restart()
        return True

    def restart(self) -> None:
        """Reset all environments with a seed that is a function of the iteration.

        Done at every checkpoint when an environment cannot tell its state, so that resuming equals going on.
        """
        self.collector.reset(self.ranks.seed((self.config.seed * 1_000_003 + self.iteration) % 2**31))

    def close(self) -> None:
        self.env.close()
        self.ranks.close()


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
