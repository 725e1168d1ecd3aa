"""What is to be generated, as data: named tensors, grouped into slots that share a head.

Letters: `S` seeds, `N` agents, `K` tensors in a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

Weights = dict[str, Tensor]
"""Generated tensors by name, each `[*lead, N, *shape]`; `N` is 1 where all agents share one.

A matrix of low rank may be there in factors: `name` holds what all agents share, `[*lead, 1, in, out]`, and `name#left`
`[*lead, N, in, r]` times `name#right` `[*lead, N, r, out]` is what each agent adds to it. `whole` multiplies them out.
"""

LEFT, RIGHT = "#left", "#right"


def whole(weights: Mapping[str, Tensor]) -> Weights:
    """The same weights with every matrix multiplied out, one tensor per name of the specification."""
    made: Weights = {}
    for name, tensor in weights.items():
        if name + LEFT in weights:
            tensor = tensor + weights[name + LEFT] @ weights[name + RIGHT]
        if not name.endswith((LEFT, RIGHT)):
            made[name] = tensor
    return made


@dataclass(frozen=True)
class WeightSpec:
    """One tensor to generate.

    `slot` names the head it shares with others of its shape (in an MLP every tensor has its own). It starts orthogonal
    times `gain` if that is set, otherwise normal with standard deviation `std`; `std=0` starts at exactly zero.
    `shared` tensors are the same for every agent: they get a base and no head. With `factors`, its target also takes
    it in factors (see `Weights`).
    """

    name: str
    shape: tuple[int, ...]
    slot: str
    std: float = 0.0
    gain: float | None = None
    shared: bool = False
    factors: bool = False

    def __post_init__(self) -> None:
        if LEFT in self.name or RIGHT in self.name:
            raise ValueError(f"weight {self.name!r} has the name of a factor")
        if not self.shape or any(size < 1 for size in self.shape):
            raise ValueError(f"weight {self.name!r} needs positive sizes, not {self.shape}")
        if self.gain is not None and len(self.shape) != 2:
            raise ValueError(f"weight {self.name!r} is not a matrix, so it cannot start orthogonal")

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class TargetSpec:
    """All tensors of one target, in order. Names are unique; tensors of a slot agree in all but their name."""

    weights: tuple[WeightSpec, ...]

    def __post_init__(self) -> None:
        names = [weight.name for weight in self.weights]
        if len(set(names)) != len(names):
            raise ValueError(f"weight names repeat: {sorted({n for n in names if names.count(n) > 1})}")
        for slot, members in self.slots().items():
            first = members[0]
            for other in members[1:]:
                if replace(other, name=first.name) != first:
                    raise ValueError(f"slot {slot!r}: {other.name!r} differs from {first.name!r} in shape or start")

    def slots(self) -> dict[str, tuple[WeightSpec, ...]]:
        """Slot name -> its K tensors, in order of first appearance."""
        found: dict[str, list[WeightSpec]] = {}
        for weight in self.weights:
            found.setdefault(weight.slot, []).append(weight)
        return {slot: tuple(members) for slot, members in found.items()}

    def numel(self) -> int:
        """Parameters of one agent's target, the `m` of the paper."""
        return sum(weight.numel for weight in self.weights)

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Raise `ValueError` unless `weights` holds exactly these tensors, each `[*lead, N, *shape]`."""
        weights = whole(weights)
        expected = {weight.name for weight in self.weights}
        if expected != set(weights):
            raise ValueError(f"missing {sorted(expected - set(weights))}, unexpected {sorted(set(weights) - expected)}")
        for weight in self.weights:
            shape = tuple(weights[weight.name].shape)
            if shape[-len(weight.shape) :] != weight.shape or len(shape) <= len(weight.shape):
                raise ValueError(f"{weight.name!r} should be [*lead, N, {weight.shape}], not {shape}")
