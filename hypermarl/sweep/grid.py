"""From words to cells: `key=a,b` words span a grid, every point of it is one experiment, and all are checked at once.

Several values are written as in Hydra's multirun: `seed=0,1,2`, `seed=range(0,5)`, `model.actor=[64,64],[128,128]`.
Commas inside brackets, braces and quotes belong to the value.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypermarl import config as settings
from hypermarl.errors import UserError
from hypermarl.marl.settings import ExperimentConfig

LAUNCHERS = ("local", "ray")
MOST_CELLS = 10_000
_OWN = ("launcher", "jobs", "retries", "sweep.folder")


@dataclass(frozen=True)
class Grid:
    """What was typed: settings with one value, and axes with several, in their order; values as Hydra reads them."""

    fixed: Mapping[str, str]
    axes: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        count = 1
        for values in self.axes.values():
            count *= len(values)
        return count

    def points(self) -> Iterator[dict[str, str]]:
        """The value of every axis at every point, the first axis turning slowest."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))


@dataclass(frozen=True)
class Plan:
    """One point of the grid: where it lies on the axes, the presets it was made from, and the experiment it is."""

    point: Mapping[str, str]
    config: ExperimentConfig
    presets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """All that the words of a command say."""

    grid: Grid
    own: Mapping[str, str] = field(default_factory=dict)  # launcher, jobs, retries, sweep.folder


def read(words: Sequence[str]) -> Order:
    """Sort words into settings, axes and the sweep's own; a word that cannot be read is a `UserError`."""
    own: dict[str, str] = {}
    fixed: dict[str, str] = {}
    axes: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = key.strip().lstrip("+")
        if not sign:
            raise UserError(f"{word!r} is not of the form key=value.")
        _refuse(key)
        if key in own or key in fixed or key in axes:
            raise UserError(f"{key} is given twice; several values are written {key}=a,b.")
        if key in _OWN:
            own[key] = value.strip()
            continue
        values = _values(key, value)
        if len(values) == 1:
            fixed[key] = values[0]
        else:
            axes[key] = values
    return Order(Grid(fixed, axes), own)


def nearest_launcher(word: str) -> str:
    return settings.nearest(word, LAUNCHERS)


def _refuse(key: str) -> None:
    """Keys that a sweep sets by itself, and slips of the words it alone knows."""
    if key == "train.run":
        raise UserError("train.run cannot be set in a sweep: each cell has a name of its own.")
    known = {each.partition(".")[0] for each in settings.keys(ExperimentConfig)}
    if key not in _OWN and key.partition(".")[0] not in known:
        close = difflib.get_close_matches(key, _OWN, n=1, cutoff=0.7)
        if close:
            raise UserError(f"Unknown key {key!r}; did you mean {close[0]!r}?")


def _values(key: str, value: str) -> tuple[str, ...]:
    """The values of one word: as typed if there is one, else as Hydra's multirun would give them to its jobs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString, Transformer
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    word = f"{key}={value}"
    preset = key in settings.groups()
    try:
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override():
            return (value.strip(),)
        if preset:  # names, not values: nothing in them is to be escaped
            raw = override.sweep_iterator(transformer=Transformer.identity)
            found = [each.text if isinstance(each, QuotedString) else str(each) for each in raw]
        else:
            found = list(override.sweep_string_iterator())
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{word!r} cannot be read: {reason}. Several values are written {key}=a,b.") from error
    if key == "train.folder":
        raise UserError("train.folder takes one value in a sweep: all cells lie in one folder.")
    seen: set[str] = set()
    for each in found:
        if each in seen:
            raise UserError(f"{key} is given the value {each} twice.")
        seen.add(each)
    if not found:
        raise UserError(f"{word!r} gives no value at all.")
    return tuple(found)


def plans(grid: Grid) -> list[Plan]:
    """Every cell's experiment, checked; a `UserError` names the first cell that cannot be built, and why."""
    if len(grid) > MOST_CELLS:
        raise UserError(f"The grid has {len(grid):,} cells, more than {MOST_CELLS:,}; make several sweeps of it.")
    made = []
    composed: dict[str, dict[str, Any]] = {}
    for point in grid.points():
        try:
            config = _config(grid.fixed, point, composed)
        except UserError as error:
            raise UserError(f"{describe(point)}{error}") from error
        chosen = {key: value for key, value in {**grid.fixed, **point}.items() if key in settings.groups()}
        made.append(Plan(point, config, chosen))
    _refuse_doubles(made)
    return made


def describe(point: Mapping[str, str]) -> str:
    """The start of a sentence about one cell; empty where there is only one."""
    return f"Cell {' '.join(f'{key}={value}' for key, value in point.items())}: " if point else ""


def _config(
    fixed: Mapping[str, str], point: Mapping[str, str], composed: dict[str, dict[str, Any]]
) -> ExperimentConfig:
    """Composing takes a tenth of a second, so it is done once for all values of `seed`, which no preset looks at."""
    from hypermarl.envs import EnvironmentFault, parse

    words = [f"{key}={value}" for key, value in {**fixed, **point}.items() if not (key == "seed" and key in point)]
    known = json.dumps(words)
    try:
        if known not in composed:
            composed[known] = settings.compose(words, parse)
    except EnvironmentFault as error:
        raise UserError(str(error)) from error
    plain = dict(composed[known])
    if "seed" in point:
        plain["seed"] = int(point["seed"]) if point["seed"].lstrip("-").isdigit() else point["seed"]
    return settings.build(ExperimentConfig, plain)


def _refuse_doubles(made: Sequence[Plan]) -> None:
    """Two cells that train the same seed of the same experiment are a slip, and would count twice."""
    seen: dict[tuple[str, int], Plan] = {}
    for plan in made:
        for seed in plan.config.all_seeds:
            other = seen.setdefault((identity(replace(plan.config, seed=0, seeds=1)), seed), plan)
            if other is not plan:
                names = " and ".join(describe(each.point).removeprefix("Cell ").rstrip(": ") for each in (other, plan))
                raise UserError(f"Two cells, {names}, train the same: seed {seed} of one experiment.")


def identity(config: ExperimentConfig) -> str:
    """All that decides what an experiment does, as text: where its folder lies is no part of it."""
    plain = settings.to_dict(replace(config, train=replace(config.train, folder="", run=None)))
    return json.dumps(plain, sort_keys=True)


def check(made: Sequence[Plan]) -> None:
    """Try what only shows when something is made: environments and networks; a `UserError` names the cell."""
    from hypermarl import envs
    from hypermarl.envs import EnvironmentFault
    from hypermarl.marl.policy import parameter_counts

    groups: dict[str, Any] = {}
    tried = set()
    for plan in made:
        config, env = plan.config, plan.config.env
        own = identity(replace(config, seed=0, seeds=1))
        if own in tried:
            continue
        tried.add(own)
        place = json.dumps([env.kind, env.name, env.max_steps, settings.to_dict(env.options)])
        try:
            if place not in groups:
                one = envs.make(env.kind, env.name, num_envs=1, max_steps=env.max_steps, options=dict(env.options))
                groups[place] = one.groups
                one.close()
            parameter_counts(config, groups[place])
        except (UserError, EnvironmentFault) as error:
            raise UserError(f"{describe(plan.point)}{error}") from error


def check_devices(made: Sequence[Plan]) -> None:
    """Devices that this machine lacks."""
    from hypermarl.machine import torch_device

    for plan in {each.config.device: each for each in made}.values():
        try:
            torch_device(plan.config.device)
        except UserError as error:
            raise UserError(f"{describe(plan.point)}{error}") from error


def refuse_disagreement(path: Path, old: Grid, new: Grid) -> None:
    """Cells may join a sweep if they differ from its cells only in what is varied: presets, seeds, and the axes."""
    free = {*settings.groups(), "seed", "train.folder", *old.axes, *new.axes}
    for key in (*old.fixed, *new.fixed):
        before, now = old.fixed.get(key), new.fixed.get(key)
        if key not in free and _plain(key, before) != _plain(key, now):
            was = f"made with {key}={before}" if before is not None else f"made without {key}"
            given = f"given {key}={now}" if now is not None else f"not given {key}"
            raise UserError(f"{path} was {was} and is now {given}; choose another folder with --out.")


def union(old: Grid, new: Grid) -> Grid:
    """What a folder is about once both grids are in it; a value that was fixed and is now one of several is an axis."""
    axes: dict[str, tuple[str, ...]] = {}
    fixed: dict[str, str] = {}
    for key in {**old.fixed, **old.axes, **new.fixed, **new.axes}:
        several = [*_of(old, key), *(value for value in _of(new, key) if value not in _of(old, key))]
        if len(several) > 1 or key in old.axes or key in new.axes:
            axes[key] = tuple(several)
        else:
            fixed[key] = several[0]
    return Grid(fixed, axes)


def _of(grid: Grid, key: str) -> tuple[str, ...]:
    return (grid.fixed[key],) if key in grid.fixed else grid.axes.get(key, ())


def _plain(key: str, value: str | None) -> str | float | None:
    """A value by what it means: 100_000 is 1e5."""
    if value is None or key in settings.groups():
        return value
    try:
        return float(value)
    except ValueError:
        return value
