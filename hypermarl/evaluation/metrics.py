"""What was measured, and how it is written down: episodes, and the JSON that marl-eval reads.

The words, once and for all:

- The **return of an agent** is the plain sum of its rewards over one episode: no discount, no division by the number
  of steps. An agent that died earlier or never appeared earns nothing in the steps it missed.
- The **team return**, or just `return`, is the mean over agents of their returns in one episode, *not* their sum. On
  tasks with one shared reward it is that reward summed over steps, however many agents there are.
- The **mean reward per step** of an episode is its team return divided by its length; a score is the mean of that over
  episodes (the metric of the HyperMARL paper's Navigation figure).
- The **length** of an episode is the number of environment steps until all agents were done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermarl.errors import UserError


@dataclass(frozen=True)
class Episodes:
    """Finished episodes. Letters: `P` episodes, `N` agents of all groups together."""

    agents: tuple[str, ...]
    returns: NDArray[np.float64]  # [P, N]
    lengths: NDArray[np.int64]  # [P], environment steps
    alive: NDArray[np.int64]  # [P, N], steps in which the agent acted
    environment: NDArray[np.int64]  # [P], the copy that played it
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # who plays on one side

    def __post_init__(self) -> None:
        shape = (len(self.lengths), len(self.agents))
        for name in ("returns", "alive"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} should be [episodes, agents] = {shape}, not {getattr(self, name).shape}")
        if self.environment.shape != self.lengths.shape:
            raise ValueError(f"environment should be [episodes] = {self.lengths.shape}, not {self.environment.shape}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def team(self) -> NDArray[np.float64]:
        """Team return of each episode, `[P]`: the mean over agents."""
        return np.asarray(self.returns.mean(axis=1))

    @property
    def reward_per_step(self) -> NDArray[np.float64]:
        """Mean reward per step of each episode, `[P]`."""
        return self.team / np.maximum(self.lengths, 1)

    def agent(self, name: str) -> NDArray[np.float64]:
        """Return of one agent in each episode, `[P]`."""
        return self.returns[:, self.agents.index(name)]

    def group(self, name: str) -> NDArray[np.float64]:
        """Mean return over the agents of one group in each episode, `[P]`."""
        members = [self.agents.index(agent) for agent in self.groups[name]]
        return np.asarray(self.returns[:, members].mean(axis=1))

    def select(self, rows: NDArray[Any]) -> Episodes:
        """The episodes at `rows` (indices or a `[P]` bool array), in their order."""
        per_episode = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in ("agents", "groups")}
        return replace(self, **per_episode)

    def metrics(self) -> dict[str, list[float]]:
        """All metrics by name, one number per episode; an agent's is `return_<agent>`, a group's `return_<group>_mean`.

        Groups are told apart only where there are several.
        """
        found = {"return": self.team, "mean_reward_per_step": self.reward_per_step, "episode_length": self.lengths}
        found |= {f"return_{agent}": self.agent(agent) for agent in self.agents}
        if len(self.groups) > 1:
            found |= {f"return_{group}_mean": self.group(group) for group in self.groups}
        return {name: [float(value) for value in values] for name, values in found.items()}


@dataclass(frozen=True)
class Measurement:
    """One evaluation during (or after) training: after `step_count` environment steps and `elapsed_time` seconds."""

    step_count: int
    episodes: Episodes
    elapsed_time: float = 0.0

    def entry(self) -> dict[str, Any]:
        return {"step_count": self.step_count, "elapsed_time": self.elapsed_time, **self.episodes.metrics()}


Document = dict[str, Any]
"""environment -> task -> algorithm -> seed_<k> -> step_<i> | absolute_metrics -> metric -> [one number per episode]."""

_LEVELS = ("environment", "task", "algorithm", "seed")


def document(
    environment: str,
    task: str,
    algorithm: str,
    seed: int,
    measurements: Sequence[Measurement],
    absolute: Episodes | None = None,
) -> Document:
    """One run in marl-eval's format.

    `measurements` become `step_0`, `step_1`, ... in the order of their step counts. `absolute` is the final judgement
    (of the best policy, on ten times the episodes, if one follows Gorsane et al. 2022); default: the last measurement.
    """
    if not measurements:
        raise ValueError(f"nothing was measured of {algorithm} on {environment}/{task}, seed {seed}")
    ordered = sorted(measurements, key=lambda m: m.step_count)
    run: dict[str, Any] = {f"step_{i}": measurement.entry() for i, measurement in enumerate(ordered)}
    run["absolute_metrics"] = (absolute or ordered[-1].episodes).metrics()
    return {environment: {task: {algorithm: {f"seed_{seed}": run}}}}


def merge(*documents: Mapping[str, Any]) -> Document:
    """One document of many runs. A run that two of them tell differently is refused; telling it twice is fine."""
    merged: Document = {}
    for part in documents:
        _merge_into(merged, part, ())
    return merged


def _merge_into(target: dict[str, Any], part: Mapping[str, Any], where: tuple[str, ...]) -> None:
    for key, value in part.items():
        path = (*where, key)
        if len(path) < len(_LEVELS):
            _merge_into(target.setdefault(key, {}), value, path)
        elif key in target and target[key] != value:
            raise UserError(f"Two different runs are both called {'/'.join(path)}.")
        else:
            target[key] = value


def absolute_scores(
    runs: Mapping[str, Any], environment: str, metric: str = "return"
) -> dict[str, NDArray[np.float64]]:
    """Final scores of each algorithm as `[R, M]`: the mean over episodes, a row per run, a column per task.

    Tasks are in alphabetical order. All algorithms must have met all tasks, each with equally many runs on every task.
    """
    tasks = runs.get(environment)
    if not tasks:
        raise UserError(
            f"There are no results for environment {environment!r}; there are: {', '.join(sorted(runs)) or 'none'}."
        )
    algorithms = sorted({name for task in tasks.values() for name in task})
    found = {}
    for algorithm in algorithms:
        columns = []
        for task in sorted(tasks):
            seeds = tasks[task].get(algorithm)
            if not seeds:
                raise UserError(f"{algorithm} has no run on {environment}/{task}.")
            columns.append(
                [_absolute(run, metric, f"{environment}/{task}/{algorithm}/{seed}") for seed, run in seeds.items()]
            )
        if len({len(column) for column in columns}) > 1:
            raise UserError(f"{algorithm} has unequal numbers of runs on the tasks of {environment}.")
        found[algorithm] = np.array(columns, dtype=np.float64).T
    return found


def _absolute(run: Mapping[str, Any], metric: str, name: str) -> float:
    try:
        return float(np.mean(run["absolute_metrics"][metric]))
    except KeyError:
        raise UserError(f"{name} has no absolute metric {metric!r}.") from None


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write, or leave what was there: the file appears whole or not at all. NaN and infinity are refused."""
    target = Path(path)
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError:
        raise UserError(f"{target.name} would hold a number that is not finite; it was not written.") from None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as fault:
        raise UserError(f"Cannot write {target}: {fault.strerror or fault}.") from None
    return target


def read_json(path: str | os.PathLike[str]) -> Document:
    """A document from a file; a UserError names a file that is missing or no JSON."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as fault:
        raise UserError(f"Cannot read {path}: {fault.strerror or fault}.") from None
    except ValueError:
        raise UserError(f"{path} is not a JSON file.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no results.")
    return content


def read_all(paths: Iterable[str | os.PathLike[str]]) -> Document:
    """The merged document of many files."""
    return merge(*(read_json(path) for path in paths))
