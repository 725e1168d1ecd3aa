"""An experiment from the first frame to the results table: folders, checkpoints, monitors, evaluation.

Letters: `S` seeds, `E` environments, `N` agents.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from hypermarl import config as settings
from hypermarl import envs
from hypermarl.envs.interface import EnvironmentFault, Group, View
from hypermarl.errors import UserError
from hypermarl.evaluation import vectorised
from hypermarl.evaluation.metrics import Episodes
from hypermarl.evaluation.statistics import iqm
from hypermarl.marl import diagnostics, distributions
from hypermarl.marl.learner import Iteration, Learner
from hypermarl.marl.monitor import Monitor
from hypermarl.marl.policy import Policy, embeddings_of
from hypermarl.marl.progress import Progress
from hypermarl.marl.settings import EnvConfig, ExperimentConfig
from hypermarl.runs import Checkpoint, RunFolder, unused


@dataclass(frozen=True)
class Result:
    """Where a run lies, how far it came, and its last evaluation of each seed."""

    folder: Path
    frame: int
    finished: bool
    episodes: list[Episodes]


class Experiment:
    """One command's worth of training: `Experiment(config).run()` or `Experiment.resume(folder).run()`."""

    def __init__(self, config: ExperimentConfig, folder: RunFolder | None = None) -> None:
        self.config = config
        self.learner = Learner(config)
        self._resumed: Checkpoint | None = None
        self._saved = -1
        self._stop = False
        try:
            self._open(folder)
        except BaseException:
            self.learner.close()
            raise

    @classmethod
    def resume(cls, path: str | Path, frames: int | None = None) -> Experiment:
        """Continue the run at `path` from its newest checkpoint, to `frames` if given, else to what it was asked for."""
        folder = RunFolder.open(path)
        config = settings.build(ExperimentConfig, folder.config)
        if frames is not None:
            config = replace(config, train=replace(config.train, frames=frames))
        return cls(config, folder)

    def run(self) -> Result:
        """Train to the end of the budget (or the first Ctrl-C), save, evaluate."""
        with ExitStack() as stack:
            stack.callback(self.learner.close)
            self._monitors = [stack.enter_context(self._monitor(s)) for s in range(self.config.seeds)]
            self._begin()
            progress = Progress(
                self.config.train.frames,
                seeds=self.config.seeds,
                start=self.learner.frame,
                title=self.folder.path.name,
                shown=self.config.train.progress,
            )
            self.learner.clock.restart()
            with progress, self._interruptible():
                while self.learner.iteration < self.learner.iterations and not self._stop:
                    self._one(progress)
            self._checkpoint()
            finished = self.learner.iteration >= self.learner.iterations
            episodes = self._evaluate() if finished else []
            if finished:
                self._finish(episodes)
        return Result(self.folder.path, self.learner.frame, finished, episodes)

    # ------------------------------------------------------------------------------------------------ one iteration

    def _one(self, progress: Progress) -> None:
        learner, train = self.learner, self.config.train
        iteration = learner.iterate()
        self._check(iteration)
        done = learner.iteration
        if done % train.log_every == 0:
            self._log(iteration, progress)
        every = self.config.evaluation.every
        if (
            every
            and done < learner.iterations
            and learner.frame // every > (learner.frame - learner.frames_per_iteration) // every
        ):
            self._evaluate()
        if done % train.checkpoint_every == 0:
            self._checkpoint()

    def _check(self, iteration: Iteration) -> None:
        """Stop when every seed has failed; a seed that failed alone is left as it was and the others go on."""
        learner = self.learner
        for terms in iteration.terms.values():
            for values in terms.values():
                learner.healthy &= values.isfinite()
        if bool(learner.healthy.any()):
            return
        broken = [
            f"loss/{name}"
            for terms in iteration.terms.values()
            for name, values in terms.items()
            if not values.isfinite().all()
        ]
        term = broken[0] if broken else "the gradient norm"
        kept = self.folder.latest()
        where = f"the last good checkpoint is {kept.path}" if kept else "there was no checkpoint yet"
        raise UserError(f"{term} is not a finite number after {learner.frame} frames; training stopped, {where}.")

    def _log(self, iteration: Iteration, progress: Progress) -> None:
        learner = self.learner
        groups = learner.policies
        diagnose = learner.iteration % self.config.train.diagnose_every == 1 % self.config.train.diagnose_every
        vectors: dict[str, Tensor] = {}
        with learner.clock("diagnostics"):
            for name, policy in groups.items():
                suffix = f"/{name}" if len(groups) > 1 else ""
                terms = iteration.terms[name]
                vectors |= {f"loss/{term}{suffix}": terms[term] for term in ("policy", "value", "entropy")}
                vectors |= {f"policy/{term}{suffix}": terms[term] for term in ("entropy", "kl", "clip_fraction")}
                if diagnose:
                    found = diagnostics.examine(
                        policy, iteration.batches[name], iteration.samples[name], self.config.algorithm
                    )
                    vectors |= {f"{tag}{suffix}": value for tag, value in found.items()}
        vectors["policy/gradient_norm"] = iteration.gradient_norm
        episodes = iteration.episodes
        per_agent = torch.cat(list(episodes.returns.values()), -1) / episodes.count.unsqueeze(-1)  # NaN: none ended
        shares = learner.clock.shares()
        progress.update(learner.frame, returns=per_agent.mean(-1).tolist(), shares=shares)
        rates = {"time/fps": progress.speed, **{f"time/{name}": share for name, share in shares.items()}}
        ended = episodes.count.tolist()
        lengths = (episodes.length / episodes.count).tolist()
        table = {tag: value.tolist() for tag, value in vectors.items()}
        for s, monitor in enumerate(self._monitors):
            values: dict[str, Any] = {tag: column[s] for tag, column in table.items()}
            values |= rates
            if ended[s]:
                values |= {
                    "return": per_agent[s].cpu(),
                    "return/team": float(per_agent[s].mean()),
                    "episode/length": lengths[s],
                }
            monitor.scalars(learner.frame, values)

    # -------------------------------------------------------------------------------------------------- evaluation

    def _evaluate(self) -> list[Episodes]:
        """Greedy (or sampled) play of all seeds at once, on environments of their own."""
        with self.learner.clock("evaluation"):
            per_seed = evaluate_policies(self.learner.policies, self.config)
        for monitor, episodes in zip(self._monitors, per_seed, strict=True):
            means = dict(zip(episodes.agents, episodes.returns.mean(0).tolist(), strict=True))
            monitor.scalars(
                self.learner.frame,
                {"evaluation/team": float(episodes.team.mean()), **{f"evaluation/{a}": v for a, v in means.items()}},
            )
        return per_seed

    def _finish(self, episodes: list[Episodes]) -> None:
        flat = {k: v for k, v in settings.to_dict(self.config).items()}
        for s, monitor in enumerate(self._monitors):
            for policy in self.learner.policies.values():
                monitor.histograms(self.learner.frame, diagnostics.generated(policy.actor, s))
            final = {
                "return": float(episodes[s].team.mean()),
                "return_iqm": float(iqm(episodes[s].team[:, None])),
                "mean_reward_per_step": float(episodes[s].reward_per_step.mean()),
            }
            monitor.hparams({**flat, "seed": self.learner.seeds[s], "seeds": 1}, final, frame=self.learner.frame)
            if self.config.evaluation.video:
                self._film(s, monitor)

    def _film(self, s: int, monitor: Monitor) -> None:
        """A greedy episode on the IMAGES page; a run without the video extra goes without."""
        from hypermarl.marl.render import film
        from hypermarl.marl.team import load

        env = self.config.env

        def make() -> Any:
            return envs.make_parallel(
                env.kind, env.name, max_steps=env.max_steps, options=dict(env.options), render_mode="rgb_array"
            )

        try:
            made = film(load(self._folders[s].path), make, seed=self.config.evaluation.seed)
        except (UserError, ImportError, EnvironmentFault):
            return  # pictures are a courtesy: not every environment draws, not every machine can
        monitor.video(self.learner.frame, np.stack(made.frames))

    # --------------------------------------------------------------------------------------- folders and checkpoints

    def _open(self, folder: RunFolder | None) -> None:
        config, learner = self.config, self.learner
        groups = {name: group_entry(group) for name, group in learner.env.groups.items()}
        if folder is None:
            name = (
                config.train.run
                or f"{config.env.name.replace(':', '.')}-{config.sharing.name}-{config.algorithm.name}-s{config.seed}"
            )
            self.folder = RunFolder.create(unused(Path(config.train.folder) / name), settings.to_dict(config), groups)
            for seed in learner.seeds if config.seeds > 1 else ():
                own = settings.to_dict(replace(config, seed=seed, seeds=1))
                RunFolder.create(self.folder.path / f"seed_{seed}", own, groups)
        else:
            self.folder = folder
            if folder.groups != groups:
                raise UserError(
                    f"{folder.path} was trained with other agents, observations or actions than {config.env.name} has now."
                )
        self._folders = self.folder.seeds() or [self.folder]
        if len(self._folders) != config.seeds:
            raise UserError(f"{self.folder.path} should hold {config.seeds} seeds, but holds {len(self._folders)}.")
        if folder is not None:
            self._restore(folder)

    def _restore(self, folder: RunFolder) -> None:
        checkpoint = folder.latest()
        if checkpoint is None:
            return  # killed before its first checkpoint: begin again
        learner = self.learner
        states = []
        for own in self._folders:
            same = [c for c in own.checkpoints() if c.frame == checkpoint.frame]
            if not same:
                raise UserError(f"{own.path} lacks the checkpoint of frame {checkpoint.frame} that {folder.path} has.")
            states.append(own.load(same[0], ("policy",))["policy"])
        parts = folder.load(checkpoint, ("optimizer", "state"))
        learner.load_policies(states)
        learner.load_optimizer(parts["optimizer"])
        learner.load_run_state(parts["state"], checkpoint.iteration, bool(folder.meta(checkpoint)["exact"]))
        self._resumed = checkpoint
        self._saved = learner.iteration

    def _checkpoint(self) -> None:
        """All seeds' policies first, the joint state last: what a reader finds in the top folder is complete below."""
        learner = self.learner
        if self._saved == learner.iteration:
            return
        with learner.clock("checkpoint"):
            state, exact = learner.run_state()
            meta = {"exact": exact, "seeds": learner.seeds}
            whole = {"optimizer": learner.optimizer_state(), "state": state, "meta": meta}
            if len(self._folders) > 1:
                for s, own in enumerate(self._folders):
                    own.save(learner.frame, learner.iteration, policy=learner.policy_state(s))
                self.folder.save(learner.frame, learner.iteration, policy={}, **whole)
            else:
                self.folder.save(learner.frame, learner.iteration, policy=learner.policy_state(0), **whole)
            self._saved = learner.iteration
            for own in {self.folder.path: self.folder, **{f.path: f for f in self._folders}}.values():
                own.prune(self.config.train.keep_checkpoints)
            for s, monitor in enumerate(self._monitors):
                for policy in learner.policies.values():
                    table = embeddings_of(policy)
                    if table is not None:
                        monitor.embeddings(learner.frame, table[s], policy.group.agents, name=policy.group.name)
            if not exact:
                learner.restart()

    def _monitor(self, s: int) -> Monitor:
        labels = [agent for policy in self.learner.policies.values() for agent in policy.group.agents]
        purge = self._resumed.frame if self._resumed else None
        return Monitor(
            self._folders[s].path, tensorboard=self.config.train.tensorboard, labels=labels, purge_step=purge
        )

    def _begin(self) -> None:
        if self._resumed is not None:
            return
        self.learner.start()
        for s, monitor in enumerate(self._monitors):
            for policy in self.learner.policies.values():
                table = embeddings_of(policy)
                if table is not None:
                    monitor.embeddings(0, table[s], policy.group.agents, name=policy.group.name)
            plain = settings.to_dict(replace(self.config, seed=self.learner.seeds[s], seeds=1))
            monitor.text(yaml.safe_dump(plain, sort_keys=False))
            monitor.hparams(plain)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or termination) ends training after the running iteration, so that what is saved is whole."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def group_entry(group: Group) -> dict[str, Any]:
    """A group as JSON; the inverse is `hypermarl.marl.team.group_from`."""
    entry = asdict(group)
    return {
        **entry,
        "agents": list(entry["agents"]),
        "action": {k: list(v) if isinstance(v, tuple) else v for k, v in entry["action"].items()},
    }


def evaluate_policies(policies: dict[str, Policy], config: ExperimentConfig) -> list[Episodes]:
    """Whole episodes of every seed, played side by side with the frozen policies; the same start states each time."""
    seeds = config.seeds
    wanted = config.evaluation.episodes
    env_config: EnvConfig = config.env
    each = min(wanted, env_config.num_envs) if env_config.kind == "pettingzoo" else wanted
    env = envs.make(
        env_config.kind,
        env_config.name,
        num_envs=each * seeds,
        device=config.device,
        max_steps=env_config.max_steps,
        workers=env_config.workers,
        options=dict(env_config.options),
    )
    rng = torch.Generator(env.device).manual_seed(config.evaluation.seed)
    memories = {n: p.blank_memory(each, seeds).actor for n, p in policies.items() if p.recurrent}

    def act(view: View, fresh: Tensor) -> dict[str, Tensor]:
        actions = {}
        for name, policy in policies.items():
            observation = view.observation[name].unflatten(0, (each, seeds))
            mask = view.mask[name].unflatten(0, (each, seeds)) if name in view.mask else None
            if policy.recurrent:
                begin = fresh.unflatten(0, (1, each, seeds)).unsqueeze(-1).expand(1, *observation.shape[:-1])
                mask = None if mask is None else mask.unsqueeze(0)
                parameters, memory = policy.parameters_of(
                    observation.unsqueeze(0), mask, memory=memories[name], fresh=begin
                )
                assert memory is not None
                memories[name] = memory[0]
                parameters = {key: value.squeeze(0) for key, value in parameters.items()}
            else:
                parameters = policy.parameters_of(observation, mask)[0]
            if config.evaluation.greedy:
                action = distributions.mode(policy.distribution, parameters)
            else:
                shape = next(iter(parameters.values())).shape
                action = distributions.sample(
                    policy.distribution, parameters, distributions.noise_like(policy.distribution, shape, rng)
                )
            actions[name] = policy.to_environment(action).flatten(0, 1)
        return actions

    try:
        with ExitStack() as stack:
            for policy in policies.values():
                stack.enter_context(policy.frozen())
            played = vectorised.evaluate(env, act, -(-wanted // each) * each * seeds, config.evaluation.seed)
    finally:
        env.close()
    return [played.select(played.environment % seeds == s) for s in range(seeds)]
