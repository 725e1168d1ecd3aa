"""An experiment from the first frame to the results table: the loop, what is logged, and when to stop.

Letters: `S` seeds, `N` agents.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from hypermarl import config as settings
from hypermarl import envs
from hypermarl.envs.interface import EnvironmentFault
from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import Episodes
from hypermarl.evaluation.statistics import iqm
from hypermarl.marl import diagnostics
from hypermarl.marl.archive import Archive, Saved
from hypermarl.marl.exam import Exam
from hypermarl.marl.learner import Iteration, Learner
from hypermarl.marl.policy import embeddings_of
from hypermarl.marl.ranks import RankLost, Ranks
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.monitoring.monitor import Monitor
from hypermarl.monitoring.progress import Progress
from hypermarl.runs import RunFolder
from hypermarl.signals import interruptible


@dataclass(frozen=True)
class Result:
    """Where a run lies, how far it came, its last evaluation of each seed, and the seeds that failed on the way."""

    folder: Path
    frame: int
    finished: bool
    episodes: list[Episodes]
    failed: tuple[int, ...] = ()


class Experiment:
    """One command's worth of training: `Experiment(config).run()` or `Experiment.resume(folder).run()`.

    Of several ranks the first writes the run folder, shows progress and evaluates; the others only train.
    """

    def __init__(self, config: ExperimentConfig, folder: RunFolder | None = None, ranks: Ranks | None = None) -> None:
        """`folder` is that of a run to go on with; of several ranks only the first needs it."""
        self.config = config
        self.ranks = Ranks.of_environment() if ranks is None else ranks
        self.learner = Learner(config, self.ranks)
        self.exam = Exam(config)
        self._stop = False
        self._notice = ""
        self._archive: Archive | None = None
        try:
            if self.ranks.first:
                made = (config, self.learner.env.groups)
                self._archive = Archive.create(*made) if folder is None else Archive.open(folder, *made)
            self._resumed = self._restore()
        except BaseException:
            self.learner.close()
            raise
        self._saved = self.learner.iteration if self._resumed else -1
        # rows after the checkpoint will be written again; so will all rows of a run that never came to one
        self._purge = None if folder is None else self.learner.frame
        self._failed = [s for s, well in enumerate(self.learner.healthy.tolist()) if not well]
        self._ended = _Ended()

    @classmethod
    def resume(cls, path: str | Path, frames: int | None = None) -> Experiment:
        """Continue the run at `path` from its newest checkpoint, to `frames` if given, else as far as it was to go."""
        ranks = Ranks.of_environment()
        folder = RunFolder.open(path) if ranks.first else None  # it may lie on the first rank's machine only
        told = ranks.told("config", json.dumps(folder.config if folder else {}))
        config = settings.build(ExperimentConfig, json.loads(told))
        if frames is not None:
            config = replace(config, train=replace(config.train, frames=frames))
        return cls(config, folder, ranks)

    @property
    def folder(self) -> RunFolder:
        """Of the first rank."""
        return self._first_archive.whole

    @property
    def _first_archive(self) -> Archive:
        assert self._archive is not None, "only the first rank has files"
        return self._archive

    def _restore(self) -> bool:
        """Bring all ranks to the newest checkpoint; False if there is none yet."""
        saved = self._archive.newest() if self._archive else None
        where = {"run": str(self._archive.whole.path) if self._archive else ""}
        words, tensors = self.ranks.spread(where | (saved.words if saved else {}), saved.tensors if saved else {})
        self.path = Path(words["run"])
        if "iteration" not in words:
            return False
        if not Saved(words, tensors).give(self.learner):
            count = self.ranks.count
            self._notice = f"Saved on {words['ranks']} ranks, resumed on {count}: environments begin new episodes."
        return True

    def run(self) -> Result:
        """Train to the end of the budget (or the first Ctrl-C), save, evaluate."""
        try:
            return self._run()
        except RankLost as lost:
            raise RankLost(
                f"{lost} Training stopped after {self.learner.frame} frames; {self._kept()}. Continue with: "
                f"torchrun --nproc-per-node=N -m hypermarl resume {self.path} (any N that divides "
                f"env.num_envs={self.config.env.num_envs}), or on one process: hypermarl resume {self.path}"
            ) from lost

    def _run(self) -> Result:
        learner = self.learner
        with ExitStack() as stack:
            stack.callback(learner.close)
            stack.callback(self.exam.close)
            watched = range(self.config.seeds) if self.ranks.first else ()
            self._monitors = [stack.enter_context(self._monitor(s)) for s in watched]
            if not self._resumed:
                self._begin()
            progress = Progress(
                self.config.train.frames,
                seeds=self.config.seeds,
                start=learner.frame,
                title=self.path.name if self.ranks.alone else f"{self.path.name} on {self.ranks.count} ranks",
                shown=self.config.train.progress and self.ranks.first,
            )
            learner.clock.restart()
            with interruptible(self._wish):
                with progress:
                    if self._notice:
                        progress.message(self._notice)
                    while learner.iteration < learner.iterations and not self.ranks.any(self._stop):
                        self._one(progress)
                self._checkpoint()
            finished = learner.iteration >= learner.iterations
            episodes = self._evaluate() if finished else []
            if finished:
                self._finish(episodes)
        failed = tuple(learner.seeds[s] for s in self._failed)
        return Result(self.path, learner.frame, finished, episodes, failed)

    # ------------------------------------------------------------------------------------------------ one iteration

    def _one(self, progress: Progress) -> None:
        learner, train = self.learner, self.config.train
        iteration = learner.iterate()
        self._check(iteration, progress)
        self._ended.add(iteration)
        done = learner.iteration
        if done % train.log_every == 0:
            self._log(iteration, progress)
        every = self.config.evaluation.every
        before = learner.frame - learner.frames_per_iteration
        if every and done < learner.iterations and learner.frame // every > before // every:
            self._evaluate()
        if done % train.checkpoint_every == 0:
            self._checkpoint()

    def _check(self, iteration: Iteration, progress: Progress) -> None:
        """A seed that fails is left as it last was and the others go on; where none is left, training stops."""
        learner = self.learner
        for terms in iteration.terms.values():
            for values in terms.values():
                learner.healthy &= values.isfinite()
        new = [s for s, well in enumerate(learner.healthy.tolist()) if not well and s not in self._failed]
        if not new:
            return
        self._failed += new
        found = " ".join(f"Seed {learner.seeds[s]}: {_broken(iteration, s)} not finite." for s in new)
        if bool(learner.healthy.any()):
            progress.message(f"{found} It stays as it last was; the other seeds go on.")
            return
        raise UserError(f"{found} Training stopped after {learner.frame} frames; {self._kept()}.")

    def _kept(self) -> str:
        try:
            kept = RunFolder.open(self.path).latest()
        except UserError:  # this rank's machine may not have it
            return f"what was saved is in {self.path}"
        return f"the last good checkpoint is {kept.path}" if kept else "there was no checkpoint yet"

    def _log(self, iteration: Iteration, progress: Progress) -> None:
        learner = self.learner
        if not self.ranks.first:
            return
        with learner.clock("diagnostics"):
            vectors = self._vectors(iteration)
        count, length, returns = self._ended.take()
        shares = learner.clock.shares()
        progress.update(learner.frame, returns=returns.mean(-1).tolist(), shares=shares)
        rates = {"time/fps": progress.speed, **{f"time/{name}": share for name, share in shares.items()}}
        table = {tag: value.tolist() for tag, value in vectors.items()}
        for s, monitor in enumerate(self._monitors):
            values: dict[str, Any] = {tag: column[s] for tag, column in table.items()} | rates
            if count[s]:
                values |= {"return": returns[s], "return/team": float(returns[s].mean())}
                values["episode/length"] = float(length[s])
            monitor.scalars(learner.frame, values)

    def _vectors(self, iteration: Iteration) -> dict[str, Tensor]:
        """What an iteration is to be remembered by, `[S]` by tag."""
        learner, every = self.learner, self.config.train.diagnose_every
        vectors: dict[str, Tensor] = {}
        for name, policy in learner.policies.items():
            suffix = f"/{name}" if len(learner.policies) > 1 else ""
            terms = iteration.terms[name]
            vectors |= {f"loss/{term}{suffix}": terms[term] for term in ("policy", "value", "entropy")}
            vectors |= {f"policy/{term}{suffix}": terms[term] for term in ("entropy", "kl", "clip_fraction")}
            if every and learner.iteration % every == 1 % every:
                batch, samples = iteration.batches[name], iteration.samples[name]
                found = diagnostics.examine(policy, batch, samples, self.config.algorithm)
                vectors |= {f"{tag}{suffix}": value for tag, value in found.items()}
        return vectors | {"policy/gradient_norm": iteration.gradient_norm}

    # ---------------------------------------------------------------------------------- evaluation and checkpoints

    def _evaluate(self) -> list[Episodes]:
        """Greedy (or sampled) play of all seeds at once, on environments of their own."""
        if not self.ranks.first:
            return []
        with self.learner.clock("evaluation"):
            per_seed = self.exam.take(self.learner.policies)
        for monitor, episodes in zip(self._monitors, per_seed, strict=True):
            means = dict(zip(episodes.agents, episodes.returns.mean(0).tolist(), strict=True))
            monitor.scalars(
                self.learner.frame,
                {"evaluation/team": float(episodes.team.mean()), **{f"evaluation/{a}": v for a, v in means.items()}},
            )
        return per_seed

    def _finish(self, episodes: list[Episodes]) -> None:
        for s, monitor in enumerate(self._monitors):
            for policy in self.learner.policies.values():
                monitor.histograms(self.learner.frame, diagnostics.generated(policy.actor, s))
            final = {
                "return": float(episodes[s].team.mean()),
                "return_iqm": float(iqm(episodes[s].team[:, None])),
                "mean_reward_per_step": float(episodes[s].reward_per_step.mean()),
            }
            monitor.hparams(self._plain(s), final, frame=self.learner.frame)
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
            made = film(load(self._first_archive.seeds[s].path), make, seed=self.config.evaluation.seed)
        except (UserError, ImportError, EnvironmentFault):
            return  # pictures are a courtesy: not every environment draws, not every machine can
        monitor.video(self.learner.frame, np.stack(made.frames))

    def _checkpoint(self) -> None:
        learner = self.learner
        if self._saved == learner.iteration:
            return
        with learner.clock("checkpoint"):
            self.ranks.insist_alike(learner.learned())
            state, exact = learner.run_state()
            if self._archive:
                self._archive.save(learner, state, exact)
            self._saved = learner.iteration
            self._project()
            if not exact:
                learner.restart()

    # ------------------------------------------------------------------------------------------------------- others

    def _begin(self) -> None:
        self.learner.start()
        self._project()
        for s, monitor in enumerate(self._monitors):
            monitor.text(yaml.safe_dump(self._plain(s), sort_keys=False))
            monitor.hparams(self._plain(s))

    def _monitor(self, s: int) -> Monitor:
        labels = [agent for policy in self.learner.policies.values() for agent in policy.group.agents]
        folder, shown = self._first_archive.seeds[s].path, self.config.train.tensorboard
        return Monitor(folder, tensorboard=shown, labels=labels, purge_step=self._purge)

    def _project(self) -> None:
        """Show where the agents' embeddings are."""
        for policy in self.learner.policies.values():
            table = embeddings_of(policy)
            for s, monitor in enumerate(self._monitors if table is not None else ()):
                assert table is not None
                monitor.embeddings(self.learner.frame, table[s], policy.group.agents, name=policy.group.name)

    def _plain(self, s: int) -> dict[str, Any]:
        """The settings of one seed's run, as plain values."""
        plain: dict[str, Any] = settings.to_dict(replace(self.config, seed=self.learner.seeds[s], seeds=1))
        return plain

    def _wish(self) -> None:
        """The first Ctrl-C (or termination) ends training after the running iteration: what is saved is whole."""
        if self._stop:
            raise KeyboardInterrupt
        self._stop = self.ranks.ended = True


class _Ended:
    """Episodes that ended since the last row of the log."""

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, iteration: Iteration) -> None:
        new = iteration.episodes
        found = (new.count, new.length, torch.cat(list(new.returns.values()), -1))
        old = self._sums
        self._sums = found if old is None else (old[0] + found[0], old[1] + found[1], old[2] + found[2])

    def take(self) -> tuple[list[float], Tensor, Tensor]:
        """How many per seed, mean length `[S]` and mean return `[S, N of all groups]`; NaN where none ended."""
        assert self._sums is not None
        count, length, returns = (each.cpu() for each in self._sums)
        self._sums = None
        return count.tolist(), length / count, returns / count.unsqueeze(-1)


def _broken(iteration: Iteration, s: int) -> str:
    """The terms of seed number `s` that are not finite."""
    several = len(iteration.terms) > 1
    found = [
        f"loss/{name}/{group}" if several else f"loss/{name}"
        for group, terms in iteration.terms.items()
        for name in ("policy", "value", "entropy")
        if not bool(terms[name][s].isfinite())
    ]
    return f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'}" if found else "the gradient norm is"
