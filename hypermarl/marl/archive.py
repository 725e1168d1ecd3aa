"""Where a run lies on disk: one run folder, or a joint one with a run folder of its own for every seed in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hypermarl import config as settings
from hypermarl.envs.interface import Group
from hypermarl.errors import UserError
from hypermarl.marl.learner import Learner
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.runs import RunFolder, unused


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content: its plain values, and its tensors as `<part>/<name>`, policies as `policy.<seed>`."""

    words: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def give(self, learner: Learner) -> bool:
        """Bring `learner` there; False if its environments begin anew, as another number of ranks saved this."""
        words = self.words
        policies = [self.part(f"policy.{s}") for s in range(len(learner.seeds))]
        learner.load_policies(policies, Path(words["path"]))
        learner.load_optimizer(self.part("optimizer"))
        return learner.load_run_state(self.part("state"), words["iteration"], words["exact"])


class Archive:
    """Saves a learner and brings it back; `seeds` are the folders that can be evaluated, one per seed in order."""

    def __init__(self, whole: RunFolder, seeds: list[RunFolder], keep: int) -> None:
        self.whole = whole
        self.seeds = seeds
        self._keep = keep

    @classmethod
    def create(cls, config: ExperimentConfig, groups: Mapping[str, Group]) -> Archive:
        """New folders, under the configured name or the first free one like it."""
        env = config.env.name.replace(":", ".").replace("/", "-")
        name = config.train.run or f"{env}-{config.sharing.name}-{config.algorithm.name}-s{config.seed}"
        path = unused(Path(config.train.folder) / name)
        whole = RunFolder.create(path, settings.to_dict(config), _entries(groups))
        return cls(whole, _of_seeds(whole, config, groups), config.train.keep_checkpoints)

    @classmethod
    def open(cls, whole: RunFolder, config: ExperimentConfig, groups: Mapping[str, Group]) -> Archive:
        """The folders of a run that is to go on; raises `UserError` where the environment is not what it was."""
        if whole.groups != _entries(groups):
            raise UserError(
                f"{whole.path} was trained with other agents, observations or actions than {config.env.name} has now."
            )
        if config.seeds > 1 and whole.latest() is None:
            # killed before its first checkpoint, perhaps while these were made: nothing in them is worth keeping
            for path in whole.path.glob("seed_*"):
                if not (path / "config.json").exists():
                    shutil.rmtree(path)
        return cls(whole, _of_seeds(whole, config, groups), config.train.keep_checkpoints)

    def newest(self) -> Saved | None:
        """The newest checkpoint; None if there is none yet."""
        checkpoint = self.whole.latest()
        frame = checkpoint.frame if checkpoint else -1
        for own in self.seeds if len(self.seeds) > 1 else ():
            for later in own.checkpoints():
                if later.frame > frame:  # written before a kill that came before the joint one
                    shutil.rmtree(later.path)
        if checkpoint is None:
            return None
        tensors: dict[str, Tensor] = {}
        for s, own in enumerate(self.seeds):
            same = [c for c in own.checkpoints() if c.frame == checkpoint.frame]
            if not same:
                raise UserError(f"{own.path} lacks the checkpoint of frame {frame} that {self.whole.path} has.")
            tensors |= {f"policy.{s}/{k}": v for k, v in own.load(same[0], ("policy",))["policy"].items()}
        for part, found in self.whole.load(checkpoint, ("optimizer", "state")).items():
            tensors |= {f"{part}/{k}": v for k, v in found.items()}
        meta = self.whole.meta(checkpoint)
        told = {"path": str(checkpoint.path), "iteration": checkpoint.iteration, "exact": bool(meta["exact"])}
        return Saved({**told, "ranks": meta.get("ranks", 1)}, tensors)

    def save(self, learner: Learner, state: Mapping[str, Tensor], exact: bool) -> None:
        """Policies of all seeds first, the joint state last: what a reader finds in the joint folder is complete below.

        `state` and `exact` are what `learner.run_state()` gives; that is for all ranks to call, this for the first.
        """
        frame, iteration = learner.frame, learner.iteration
        joint = len(self.seeds) > 1
        for s, own in enumerate(self.seeds if joint else ()):
            own.save(frame, iteration, policy=learner.policy_state(s))
        self.whole.save(
            frame,
            iteration,
            policy={} if joint else learner.policy_state(0),
            optimizer=learner.optimizer_state(),
            state=state,
            meta={
                "exact": exact,
                "seeds": learner.seeds,
                "healthy": learner.healthy.tolist(),
                "ranks": learner.ranks.count,
            },
        )
        for folder in (self.whole, *self.seeds):
            folder.prune(self._keep)


def _of_seeds(whole: RunFolder, config: ExperimentConfig, groups: Mapping[str, Group]) -> list[RunFolder]:
    if config.seeds == 1:
        return [whole]
    known = {folder.path.name: folder for folder in whole.seeds()}
    missing = [seed for seed in config.all_seeds if f"seed_{seed}" not in known]
    if missing and whole.latest() is not None:
        raise UserError(f"{whole.path} lacks the folders of seeds {', '.join(map(str, missing))}.")
    for seed in missing:
        own = settings.to_dict(replace(config, seed=seed, seeds=1))
        known[f"seed_{seed}"] = RunFolder.create(whole.path / f"seed_{seed}", own, _entries(groups))
    return [known[f"seed_{seed}"] for seed in config.all_seeds]


def _entries(groups: Mapping[str, Group]) -> dict[str, Any]:
    """Groups as plain JSON values; the inverse is `hypermarl.marl.saved.group_from`."""
    told: dict[str, Any] = settings.to_dict({name: asdict(group) for name, group in groups.items()})
    return told
