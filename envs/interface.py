"""What every environment gives us: E copies stepped at once, plain tensors in and out.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class EnvironmentFault(ValueError):
    """An environment cannot be made, or does not keep its word; the message is one sentence for its user."""


@dataclass(frozen=True)
class Discrete:
    """`n` actions, numbered from 0; an action tensor is int64 `[E, N]`."""

    n: int

    @property
    def size(self) -> int:
        return self.n


@dataclass(frozen=True)
class Continuous:
    """A box; an action tensor is float32 `[E, N, A]`. The environment clips to the box, callers need not."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.low)


@dataclass(frozen=True)
class Group:
    """Agents that observe and act alike: they share one generator and are stacked on the axis `N`."""

    name: str
    agents: tuple[str, ...]
    observation: int  # O, after flattening
    action: Discrete | Continuous
    masked: bool = False  # the environment says which actions are legal


@dataclass(frozen=True, slots=True)
class View:
    """What the agents see now, by group name."""

    observation: dict[str, Tensor]  # [E, N, O] float32
    mask: dict[str, Tensor] = field(default_factory=dict)  # [E, N, A] bool, legal actions; masked groups only
    alive: dict[str, Tensor] = field(default_factory=dict)  # [E, N] bool; a group that is absent never loses an agent


@dataclass(frozen=True, slots=True)
class Step:
    """One transition of all environments.

    An agent that is `terminated` has no future (its value is zero); one that is `truncated` was cut off by a clock,
    and `final` holds what it would have seen next, to bootstrap from. Where `done`, the environment has been reset
    and `view` is the first of the new episode. Rewards of agents that were not alive are zero.
    """

    view: View
    reward: dict[str, Tensor]  # [E, N] float32
    terminated: dict[str, Tensor]  # [E, N] bool
    truncated: dict[str, Tensor]  # [E, N] bool, never together with terminated
    final: dict[str, Tensor]  # [E, N, O] float32, meaningful where truncated (and where done, the last observation)
    done: Tensor  # [E] bool


@runtime_checkable
class VectorEnv(Protocol):
    """E environments stepped together, with auto-reset."""

    num_envs: int
    device: torch.device
    groups: dict[str, Group]
    max_steps: int | None  # the clock that truncates; None if episodes only terminate
    auto_reset: bool  # True; the TorchRL border switches it off and calls `reset_rows` itself

    def reset(self, seed: int | None = None) -> View:
        """Start every environment anew. With a seed, all that follows is a function of the seed and the actions."""

    def reset_rows(self, rows: Tensor) -> View:
        """Start the environments where `rows [E]` (bool) is true anew; returns the view of all."""

    def step(self, actions: dict[str, Tensor]) -> Step:
        """Advance all environments; `actions` by group: int64 `[E, N]` or float32 `[E, N, A]`."""

    def state_dict(self) -> dict[str, Tensor] | None:
        """All that decides the future, random state included.

        None if it cannot be told; then training resets at checkpoints.
        """

    def load_state_dict(self, state: dict[str, Tensor]) -> View:
        """Continue from `state_dict()`, bit for bit."""

    def render(self) -> np.ndarray:
        """Environment 0 as an RGB picture, uint8 `[H, W, 3]`."""

    def close(self) -> None:
        """Free processes and windows; calling it twice is fine."""
