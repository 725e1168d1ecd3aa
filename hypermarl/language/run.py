"""A run of language agents from the first update to its results: the loop, what is logged, checkpoints, resuming.

What is learned, from examples or from reward, is a `Learner`; nothing here knows which.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from torch import Tensor

from hypermarl import config as settings
from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable
from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import write_json
from hypermarl.language.backbone import Backbone, cheap_to_learn
from hypermarl.language.descent import Descent
from hypermarl.language.settings import LanguageConfig
from hypermarl.machine import torch_device
from hypermarl.memory import keep_freed_memory
from hypermarl.monitoring.monitor import Monitor
from hypermarl.monitoring.progress import Progress
from hypermarl.runs import RunFolder, unused
from hypermarl.signals import interruptible

RESULTS = "results.json"


class Learner(Protocol):
    """What is trained: one update at a time, what it draws being a function of the seed and the update."""

    config: LanguageConfig
    backbone: Backbone
    actor: GeneratedActor
    descent: Descent
    update: int

    @property
    def names(self) -> Mapping[str, str]:
        """Every agent and the words that describe it."""

    def iterate(self) -> dict[str, float]:
        """One update; what is to be remembered of it, by tag."""

    def warnings(self) -> list[str]:
        """Sentences on what looks wrong since the last call."""

    def evaluate(self) -> dict[str, float]:
        """How good it is, on what it was not trained on."""

    def dialogue(self) -> str:
        """A few things that were said, to read."""

    def codes(self) -> Tensor | None:
        """Where the agents of `names` are for the generator, `[N, d]`."""

    def counters(self) -> dict[str, int]:
        """What has been used up so far."""

    def recount(self, counters: Mapping[str, int]) -> None:
        """The inverse, when a run goes on."""


@dataclass(frozen=True)
class Result:
    """Where a run lies, how far it came, and what its last evaluation found (empty if it was stopped before)."""

    folder: Path
    update: int
    finished: bool
    results: Mapping[str, float]


def make_learner(config: LanguageConfig, *, fresh: bool = True) -> Learner:
    """From examples if a task is given, else from reward; not `fresh` if what it has learned will be put into it."""
    torch_device(config.device)
    torch.set_num_threads(config.train.threads)
    keep_freed_memory()
    learner: Learner
    if config.task is not None:
        from hypermarl.language.teaching import Teaching

        learner = Teaching(config, fresh=fresh)
    else:
        from hypermarl.language.rewarding import Rewarding

        learner = Rewarding(config)
    cheap_to_learn(learner.backbone)
    return learner


def train(config: LanguageConfig) -> list[Result]:
    """A new run; of several seeds, one after another, each in a run folder of its own."""
    name = config.train.run or f"{config.name}-{config.sharing.name}-s{config.seed}"
    path = unused(Path(config.train.folder) / name)
    if config.seeds == 1:
        return [Run.create(config, path).run()]
    RunFolder.create(path, settings.to_dict(config), {})
    return _each_seed(config, path)


def resume(path: Path, updates: int | None = None) -> list[Result]:
    """Go on from the newest checkpoint, to `updates` if given, else as far as it was to go."""
    config = config_of(RunFolder.open(path))
    if updates is not None:
        config = replace(config, train=replace(config.train, updates=updates))
    return [Run.open(config, path).run()] if config.seeds == 1 else _each_seed(config, path)


def _each_seed(config: LanguageConfig, path: Path) -> list[Result]:
    results = []
    for seed in range(config.seed, config.seed + config.seeds):
        own, place = replace(config, seed=seed, seeds=1), path / f"seed_{seed}"
        one = Run.open(own, place) if (place / "config.json").exists() else Run.create(own, place)
        results.append(one.run())
        if not results[-1].finished:
            break
    return results


def config_of(folder: RunFolder) -> LanguageConfig:
    """The settings of a run of language agents; a UserError for another run."""
    if "backbone" not in folder.config:
        raise UserError(f"{folder.path} is a run of control agents, not of language agents.")
    return settings.build(LanguageConfig, folder.config)


class Run:
    """One seed's run; make it with `create` or `open`."""

    def __init__(self, learner: Learner, folder: RunFolder) -> None:
        self.learner = learner
        self.config = learner.config
        self.folder = folder
        self._stop = False
        self._saved = -1
        self._cpu = 0.0  # seconds of the processor to begin and in updates, evaluation left out
        self._resumed = False

    @classmethod
    def create(cls, config: LanguageConfig, path: Path) -> Run:
        start = time.process_time()
        learner = make_learner(config)
        backbone = learner.backbone
        known = {"agents": dict(learner.names), "base": {"name": backbone.name, "sha256": backbone.sha256}}
        one = cls(learner, RunFolder.create(path, settings.to_dict(config), known))
        one._cpu = time.process_time() - start
        return one

    @classmethod
    def open(cls, config: LanguageConfig, path: Path) -> Run:
        folder = RunFolder.open(path)
        one = cls(make_learner(config, fresh=folder.latest() is None), folder)
        check_base(folder, one.learner.backbone)
        one._resumed = one._restore()
        return one

    def run(self) -> Result:
        """To the last update (or the first Ctrl-C), save, evaluate."""
        learner, config = self.learner, self.config.train
        with ExitStack() as stack:
            purge = learner.update if self._resumed else None
            self._monitor = stack.enter_context(
                Monitor(self.folder.path, tensorboard=config.tensorboard, labels=tuple(learner.names), purge_step=purge)
            )
            if not self._resumed:
                self._monitor.text(yaml.safe_dump(settings.to_dict(self.config), sort_keys=False))
                self._monitor.hparams(settings.to_dict(self.config))
                self._project()
            progress = Progress(
                config.updates,
                start=learner.update,
                title=self.folder.path.name,
                unit="updates",
                shown=config.progress,
            )
            with interruptible(self._wish):
                with progress:
                    while learner.update < config.updates and not self._stop:
                        self._one(progress)
                self._checkpoint()
            finished = learner.update >= config.updates
            results = self._evaluate() if finished else {}
            if finished:
                self._monitor.hparams(settings.to_dict(self.config), results, frame=learner.update)
        return Result(self.folder.path, learner.update, finished, results)

    def _one(self, progress: Progress) -> None:
        learner, config = self.learner, self.config.train
        start = time.process_time()
        values = learner.iterate()
        self._cpu += time.process_time() - start
        for sentence in learner.warnings():
            progress.message(sentence)
            self._monitor.text(sentence, tag="warnings", frame=learner.update)
        if learner.update % config.log_every == 0:
            self._monitor.scalars(learner.update, {**values, "time/cpu_seconds": self._cpu})
            progress.update(learner.update, detail=told(values))
        if config.evaluate_every and learner.update % config.evaluate_every == 0 and learner.update < config.updates:
            self._evaluate()
        if learner.update % config.checkpoint_every == 0:
            self._checkpoint()

    def _evaluate(self) -> dict[str, float]:
        learner = self.learner
        with learner.descent.averaged():
            found = learner.evaluate()
        self._monitor.scalars(learner.update, {f"evaluation/{name}": value for name, value in found.items()})
        if learner.update >= self.config.train.updates:
            used = {"update": learner.update, **learner.counters(), "cpu_seconds": self._cpu}
            write_json(self.folder.path / RESULTS, {**used, "results": found})
        return found

    def _checkpoint(self) -> None:
        learner = self.learner
        if self._saved == learner.update:
            return
        walked = learner.descent.state()
        with learner.descent.averaged():
            self.folder.save(
                learner.update,
                learner.update,
                policy=learner.actor.state_dict(),
                optimizer=walked,
                meta={"counters": learner.counters(), "cpu_seconds": self._cpu},
            )
            self.folder.prune(self.config.train.keep_checkpoints)
            self._saved = learner.update
            self._project()
            if self.config.train.tensorboard:
                self._monitor.text(learner.dialogue(), tag="dialogue", frame=learner.update)

    def _project(self) -> None:
        codes = self.learner.codes() if self.config.train.tensorboard else None  # many documents take minutes to read
        if codes is not None:
            self._monitor.embeddings(self.learner.update, codes, tuple(self.learner.names))

    def _restore(self) -> bool:
        latest = self.folder.latest()
        if latest is None:
            return False
        parts = self.folder.load(latest, ("policy", "optimizer"))
        restore(self.learner.actor, parts["policy"], latest.path)
        self.learner.descent.load(parts.get("optimizer", {}))
        meta = self.folder.meta(latest)
        self.learner.recount(meta.get("counters", {}))
        self._cpu = float(meta.get("cpu_seconds", 0.0))
        self.learner.update = self._saved = latest.iteration
        return True

    def _wish(self) -> None:
        """The first Ctrl-C (or termination) ends training after the running update: what is saved is whole."""
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True


def restore(actor: GeneratedActor, state: Mapping[str, Tensor], source: Path) -> None:
    """Put saved tensors into an actor; a UserError where they belong to another one."""
    try:
        actor.load_state_dict(dict(state))
    except RuntimeError:
        raise UserError(f"{source} does not fit the settings in its run's config.json.") from None


def check_base(folder: RunFolder, backbone: Backbone) -> None:
    """Refuse another base than the one a generator was trained on; both are named by hash."""
    base = folder.groups.get("base", {})
    if base.get("sha256") not in (None, backbone.sha256):
        raise UserError(
            f"The generator in {folder.path} was trained on {base.get('name')} (hash {str(base['sha256'])[:12]}) and "
            f"cannot be used with {backbone.name} (hash {backbone.sha256[:12]})."
        )


def codes_of(actor: GeneratedActor, who: Any) -> Tensor | None:
    """What the generator reads of each agent, `[N, d]`; None where agents are only numbers."""
    conditioner = actor.conditioner
    if isinstance(conditioner, AgentTable):
        return conditioner.weight.detach()
    with torch.no_grad():
        code = conditioner(who)
    return code if isinstance(code, Tensor) and code.is_floating_point() and code.shape[-1] > 0 else None


def told(values: Mapping[str, float]) -> str:
    """The few numbers a person watching wants."""
    wanted = ("return/team", "right", "loss/answer", "loss/policy", "distinct")
    return "  ".join(f"{name.removeprefix('loss/')} {values[name]:.3g}" for name in wanted if name in values)
