"""All that a VMAS simulation remembers, found by walking its objects: tensors, numbers, and who refers to whom.

VMAS can start all environments anew or one, in a Python loop, and cannot save. Both needs have one answer here: the
tensors behind a simulation, named by where they are found. Whether they are all there is to it, `vmas_trial` finds out.
"""

from __future__ import annotations

import enum
import json
import types
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors as _flatten
from torch._utils import _unflatten_dense_tensors as _unflatten

from .vmas_simulation import Simulation

_OPAQUE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, torch.Generator)
_PLAIN = (bool, int, float, str, np.number, enum.Enum)
_BOXES = (dict, list, tuple, deque)


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


@dataclass(frozen=True)
class Starts:
    """What a simulation held at one moment, kept apart from it."""

    parts: list[Tensor]  # a copy of each tensor
    twins: list[int]  # the first place where the same tensor is found
    kinds: dict[torch.dtype, tuple[list[int], Tensor]]  # places of that type, and their tensors laid end to end


class RowCopy:
    """Copies rows of one simulation into another of the same scenario and size.

    There are some fifty to a hundred tensors, most of them small: they are laid end to end by type, so that a copy is
    a handful of operations and not one for each.
    """

    def __init__(self, source: Simulation, target: Simulation, paths: Iterable[str]) -> None:
        theirs, ours = Memory(source.scenario).tensors, Memory(target.scenario).tensors
        self._sources = [theirs[path] for path in paths]
        self._targets = [ours[path] for path in paths]
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def take(self) -> Starts:
        """What the source holds now."""
        found = [slot.read() for slot in self._sources]
        first: dict[int, int] = {}
        twins = [first.setdefault(id(tensor), place) for place, tensor in enumerate(found)]
        kinds, parts = {}, list(found)
        for dtype in {tensor.dtype for tensor in found}:
            places = [place for place, tensor in enumerate(found) if tensor.dtype == dtype]
            flat = _flatten([found[place] for place in places]).clone()
            kinds[dtype] = (places, flat)
            for place, part in zip(places, _unflatten(flat, [found[place] for place in places]), strict=True):
                parts[place] = part
        return Starts(parts, twins, kinds)

    def give(self, rows: Tensor, starts: Starts) -> None:
        """Overwrite the rows of the target where `rows [E]` (bool) is true.

        Tensors are replaced, not written into: some are views without memory of their own, some are shared with what
        was never meant to change. Two names of one tensor stay two names of one.
        """
        worn = [slot.read() for slot in self._targets]
        written: dict[tuple[int, int], Tensor] = {}
        for dtype, (places, fresh) in starts.kinds.items():
            old = [worn[place] for place in places]
            if all(tensor.dtype == dtype for tensor in old):
                mixed = _unflatten(torch.where(self._spread(rows, old), fresh, _flatten(old)), old)
            else:  # a scenario has changed a type along the way, and goes on with what it has
                new = [starts.parts[place] for place in places]
                mixed = tuple(_mixed(rows, *pair) for pair in zip(new, old, strict=True))
            for place, part in zip(places, mixed, strict=True):
                self._targets[place].write(written.setdefault((starts.twins[place], id(worn[place])), part))

    def _spread(self, rows: Tensor, tensors: list[Tensor]) -> Tensor:
        """`rows [E]` for every number of `tensors` laid end to end."""
        sizes = tuple(tensor.numel() for tensor in tensors)
        if sizes not in self._rows:
            count = len(rows)
            each = [torch.arange(count, device=rows.device).repeat_interleave(size // count) for size in sizes]
            self._rows[sizes] = torch.cat(each)
        return rows[self._rows[sizes]]


def _mixed(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new.to(old.dtype), old)


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
