"""All that a VMAS simulation remembers, found by walking its objects: tensors, numbers, and who refers to whom.

VMAS can start all environments anew or one, in a Python loop, and cannot save. Both needs have one answer here: the
tensors behind a simulation, named by where they are found. What cannot be told from them is found out by trial, on two
small simulations, when an environment is made (`can_copy_rows`) or first saved (`can_save`).
"""

from __future__ import annotations

import enum
import json
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors as _flatten
from torch._utils import _unflatten_dense_tensors as _unflatten

from .interface import Discrete
from .vmas_simulation import Simulation, Stream

_OPAQUE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, torch.Generator)
_PLAIN = (bool, int, float, str, np.number, enum.Enum)
_BOXES = (dict, list, tuple, deque)
_TRIAL = 7  # environments in a trial: a number that no other axis of a scenario is likely to have
_STEPS = 12


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that was met before, at `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in a simulation: `key` in `container`, an attribute where that is an object."""

    container: Any
    key: Any

    def read(self) -> Any:
        return self._store[self.key]

    def write(self, value: Any) -> None:
        self._store[self.key] = value

    @property
    def _store(self) -> Any:
        return self.container if isinstance(self.container, _BOXES) else self.container.__dict__


class Memory:
    """Every tensor, plain value and object that can be reached from a scenario, by path, nearest first."""

    def __init__(self, root: Any) -> None:
        self.tensors: dict[str, Slot] = {}
        self.plain: dict[str, Slot] = {}
        self.objects: dict[str, Any] = {}
        self._paths: dict[int, str] = {}
        near: deque[tuple[str, Any, Slot | None]] = deque([("", root, None)])
        keyed: deque[tuple[str, dict[Any, Any]]] = deque()  # dictionaries by object wait until their keys have a path
        while near or keyed:
            if near:
                path, thing, slot = near.popleft()
                children = self._visit(path, thing, slot)
                if isinstance(children, dict) and not all(isinstance(key, (str, int)) for key in children):
                    keyed.append((path, children))
                    continue
            else:
                path, children = keyed.popleft()
                thing = children
            for key, child in _items(children):
                near.append((f"{path}/{self._name(key)}", child, Slot(thing, key)))

    def _visit(self, path: str, thing: Any, slot: Slot | None) -> Any:
        """Note down what is found at `path`; returns what to look into next."""
        if slot is not None and isinstance(thing, Tensor):
            self.tensors[path] = slot
        elif slot is not None and (thing is None or isinstance(thing, _PLAIN) or id(thing) in self._paths):
            self.plain[path] = slot
        elif isinstance(thing, _BOXES) or (hasattr(thing, "__dict__") and not isinstance(thing, _OPAQUE)):
            self._paths[id(thing)] = path
            self.objects[path] = thing
            return thing if isinstance(thing, _BOXES) else thing.__dict__
        return ()

    def _name(self, key: Any) -> str:
        return f"@{self._paths[id(key)]}" if id(key) in self._paths else str(key)

    def value(self, path: str) -> Any:
        """The plain value at `path`; an object met before is a `Reference` to where."""
        thing = self.plain[path].read()
        return Reference(self._paths[id(thing)]) if id(thing) in self._paths else thing

    def slot(self, path: str) -> Slot | None:
        """The place at `path`, also where nothing is yet; None if its container is not there."""
        if path in self.tensors:
            return self.tensors[path]
        if path in self.plain:
            return self.plain[path]
        for cut in [i for i, letter in enumerate(path) if letter == "/"][::-1]:
            parent, name = path[:cut], path[cut + 1 :]
            if parent in self.objects and ("/" not in name or name.startswith("@")):
                key = self.objects.get(name[1:]) if name.startswith("@") else name
                container = self.objects[parent]
                if key is not None and not isinstance(container, (list, tuple, deque)):
                    return Slot(container, key)
        return None


def _items(children: Any) -> list[tuple[Any, Any]]:
    if isinstance(children, dict):
        return sorted(children.items(), key=lambda item: str(item[0]) if isinstance(item[0], (str, int)) else "")
    return list(enumerate(children))


class RowCopy:
    """Copies rows of one simulation into another of the same scenario and size.

    There are some fifty to a hundred tensors, most of them small: they are laid end to end by type, so that a copy is
    a handful of operations and not one for each.
    """

    def __init__(self, source: Simulation, target: Simulation, paths: Iterable[str]) -> None:
        theirs, ours = Memory(source.scenario).tensors, Memory(target.scenario).tensors
        self._pairs = [(theirs[path], ours[path]) for path in paths]
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, rows: Tensor) -> None:
        """Overwrite the rows of the target where `rows [E]` (bool) is true.

        Tensors are replaced, not written into: some are views without memory of their own, some are shared with what
        was never meant to change. Two names of one tensor stay two names of one.
        """
        places: dict[tuple[int, int], list[Slot]] = {}
        kinds: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for source, target in self._pairs:
            pair = source.read(), target.read()
            key = id(pair[0]), id(pair[1])
            if key in places:
                places[key].append(target)
            else:
                places[key] = [target]
                kinds.setdefault(pair[1].dtype, []).append(pair)
        for dtype, pairs in kinds.items():
            fresh = [new if new.dtype == dtype else new.to(dtype) for new, _ in pairs]
            worn = [old for _, old in pairs]
            mixed = torch.where(self._spread(rows, worn), _flatten(fresh), _flatten(worn))
            for pair, part in zip(pairs, _unflatten(mixed, worn), strict=True):
                for slot in places[id(pair[0]), id(pair[1])]:
                    slot.write(part)

    def _spread(self, rows: Tensor, tensors: list[Tensor]) -> Tensor:
        """`rows [E]` for every number of `tensors` laid end to end."""
        sizes = tuple(tensor.numel() for tensor in tensors)
        if sizes not in self._rows:
            count = len(rows)
            each = [torch.arange(count, device=rows.device).repeat_interleave(size // count) for size in sizes]
            self._rows[sizes] = torch.cat(each)
        return rows[self._rows[sizes]]


def save(simulation: Simulation, start: Mapping[str, Any]) -> dict[str, Tensor]:
    """The simulation's tensors by path, and under "plain" as JSON what else is not as it was at the `start`."""
    memory = Memory(simulation.scenario)
    values = {path: memory.value(path) for path in memory.plain}
    changed = {path: _entry(value) for path, value in values.items() if path not in start or start[path] != value}
    text = json.dumps({"title": simulation.title, "changed": changed})
    state = {f"at{path}": slot.read().clone().contiguous() for path, slot in memory.tensors.items()}
    return state | {"plain": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()}


def restore(simulation: Simulation, start: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Put back what `save` told. Raises LookupError where it was told of another simulation.

    What has no place is passed over: VMAS makes some containers in the first step, and anew in each.
    """
    told = json.loads(bytes(state["plain"].cpu().numpy()).decode())
    if told["title"] != simulation.title:
        raise LookupError(told["title"])
    memory = Memory(simulation.scenario)
    values = {path: memory.value(path) for path in memory.plain.keys() & start.keys()}
    entries = {path: _entry(start[path]) for path, value in values.items() if value != start[path]} | told["changed"]
    for path, entry in entries.items():
        slot = memory.slot(path)
        if slot is not None:
            slot.write(memory.objects[entry["at"]] if "at" in entry else _member(path, entry, memory))
    for name, tensor in state.items():
        slot = memory.slot(name.removeprefix("at")) if name.startswith("at/") else None
        if slot is not None:
            slot.write(tensor.to(simulation.device, copy=True))


def _entry(value: Any) -> dict[str, Any]:
    if isinstance(value, Reference):
        return {"at": value.path}
    if isinstance(value, enum.Enum):
        return {"member": value.name}
    return {"is": value.item() if isinstance(value, np.number) else value}


def _member(path: str, entry: Mapping[str, Any], memory: Memory) -> Any:
    return type(memory.value(path))[entry["member"]] if "member" in entry else entry["is"]


def plain(simulation: Simulation) -> dict[str, Any]:
    """Every value that is no tensor, by path."""
    memory = Memory(simulation.scenario)
    return {path: memory.value(path) for path in memory.plain}


def random_actions(simulation: Simulation, generator: torch.Generator) -> dict[str, Tensor]:
    actions = {}
    for name, group in simulation.groups.items():
        shape = (simulation.num_envs, len(group.agents))
        if isinstance(group.action, Discrete):
            actions[name] = torch.randint(group.action.n, shape, generator=generator)
        else:
            low, high = torch.tensor(group.action.low), torch.tensor(group.action.high)
            actions[name] = low + (high - low) * torch.rand((*shape, group.action.size), generator=generator)
    return actions


class Trial:
    """Two small simulations of a scenario, to try out on what cannot be known."""

    def __init__(self, build: Callable[[int], Simulation]) -> None:
        self._one, self._other = build(_TRIAL), build(_TRIAL)
        self._stream = Stream(torch.device("cpu"), self._one.draws_everywhere)
        self._choices = torch.Generator().manual_seed(0)

    def rows(self) -> tuple[str, ...] | None:
        """The tensors whose rows are all there is to an environment's start; None if there is more to it."""
        main, shadow = self._one, self._other
        self._reset(main, 1)
        self._reset(shadow, 2)
        paths = tuple(path for path, slot in Memory(shadow.scenario).tensors.items() if _has_rows(slot.read()))
        try:
            copy = RowCopy(shadow, main, paths)
            for seed in (3, 4):
                self._wander(main, 6)
                if not self._start_is_in_rows(main, shadow):
                    return None
                self._reset(shadow, seed)
                copy(torch.ones(_TRIAL, dtype=torch.bool))
                if not self._agree(main, shadow):
                    return None
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):
            return None
        return paths

    def can_save(self) -> bool:
        """Whether a simulation continues bit for bit from what `save` tells, in itself and in a fresh one."""
        main, fresh = self._one, self._other
        start, other_start = plain(main), plain(fresh)
        self._reset(main, 1)
        self._reset(fresh, 2)
        self._wander(main, 6)
        try:
            state = save(main, start)
            restore(fresh, other_start, state)
            if not self._agree(main, fresh):
                return False
            self._wander(main, 3)
            restore(main, start, state)
            restore(fresh, other_start, state)
            return self._agree(main, fresh) and plain(main) == plain(fresh)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):
            return False

    def _reset(self, simulation: Simulation, *seed: int) -> dict[str, Tensor]:
        _, observation = simulation.empty()
        self._stream.seed(*seed)
        with self._stream:
            simulation.reset()
            simulation.observe(observation)
        return observation

    def _wander(self, simulation: Simulation, steps: int) -> None:
        with self._stream:
            for _ in range(steps):
                simulation.step(random_actions(simulation, self._choices))

    def _start_is_in_rows(self, main: Simulation, shadow: Simulation) -> bool:
        """Whether nothing but rows tells one start from another, and a start depends on the random numbers alone."""
        seen = []
        for seed in (10, 11, 12, 13, 14, 15, 10):
            seen.append(self._reset(shadow, seed))
            here, there = Memory(main.scenario), Memory(shadow.scenario)
            for path in here.plain.keys() & there.plain.keys():
                if here.value(path) != there.value(path):
                    return False
            for path in here.tensors.keys() & there.tensors.keys():
                ours, theirs = here.tensors[path].read(), there.tensors[path].read()
                if _has_rows(ours) != _has_rows(theirs) or not (_has_rows(ours) or _equal(ours, theirs)):
                    return False
        return all(_equal(seen[0][name], seen[-1][name]) for name in seen[0])

    def _agree(self, one: Simulation, other: Simulation) -> bool:
        """Whether both give the same, bit for bit, under the same actions and random numbers."""
        for clock in range(_STEPS):
            actions = random_actions(one, self._choices)
            outcomes = []
            for simulation in (one, other):
                self._stream.seed(20, clock)
                with self._stream:
                    reward, observation, done = simulation.step(actions)
                outcomes.append([*reward.values(), *observation.values(), done])
            if not all(_equal(ours, theirs) for ours, theirs in zip(*outcomes, strict=True)):
                return False
        return True


def _has_rows(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == _TRIAL


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
