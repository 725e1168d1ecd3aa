"""Seeds as an axis: S modules of one structure become one whose parameters carry a leading `S`, and back.

Each seed's module is built on its own, from its own random stream, so a seed starts the same whoever trains beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def stacked(modules: Sequence[M]) -> M:
    """One module with every parameter and saved buffer `[S, *shape]`; other buffers are constants, and stay.

    Plain modules and the stacked one then hold the same names, so that `slice_of` and `join` go back and forth.
    """
    whole = copy.deepcopy(modules[0])
    saved = whole.state_dict().keys()
    owners = [dict(module.named_modules(remove_duplicate=False)) for module in modules]
    for path, owner in list(whole.named_modules()):
        for name, parameter in list(owner.named_parameters(recurse=False)):
            pieces = [getattr(each[path], name).detach() for each in owners]
            setattr(owner, name, nn.Parameter(torch.stack(pieces), requires_grad=parameter.requires_grad))
        for name, _ in list(owner.named_buffers(recurse=False)):
            if f"{path}.{name}".removeprefix(".") in saved:
                setattr(owner, name, torch.stack([getattr(each[path], name) for each in owners]))
    return whole


def slice_of(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Seed number `seed` of a stacked state dict, as the state dict of a plain module."""
    return {name: tensor[seed].clone() for name, tensor in tensors.items()}


def join(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse of `slice_of` for all seeds."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
