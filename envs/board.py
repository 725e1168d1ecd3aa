"""The arrays that PettingZoo environments write and their reader reads, in one stretch of memory to be shared.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .interface import Discrete, Group


class Board:
    """Named arrays over `memory`, or over new memory of this process; the same names lie at the same place everywhere.

    By group, as `"observation/agent"`: observation and final float32 `[E, N, O]`, reward float32 `[E, N]`, terminated,
    truncated and alive bool `[E, N]`, mask bool `[E, N, A]` where masked, action int64 `[E, N]` or float32 `[E, N, A]`.
    By environment `[E]`: done, over (ended, and waits for a reset), active and restart (whom a command is for), episode
    and length (how many began before, how many steps it has). `seed [1]` is the seed of all.
    """

    def __init__(self, groups: Mapping[str, Group], num_envs: int, memory: Any = None) -> None:
        fields = _fields(groups, num_envs)
        memory = bytearray(self.size(groups, num_envs)) if memory is None else memory
        self.num_envs = num_envs
        self.arrays: dict[str, np.ndarray] = {}
        offset = 0
        for name, shape, dtype in fields:
            count = int(np.prod(shape))
            self.arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(shape)
            offset += _room(shape, dtype)
        self.arrays["active"][:] = True

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @staticmethod
    def size(groups: Mapping[str, Group], num_envs: int) -> int:
        """Bytes."""
        return sum(_room(shape, dtype) for _, shape, dtype in _fields(groups, num_envs))


def _fields(groups: Mapping[str, Group], num_envs: int) -> list[tuple[str, tuple[int, ...], str]]:
    e = num_envs
    fields: list[tuple[str, tuple[int, ...], str]] = [("seed", (1,), "int64")]
    fields += [(word, (e,), "int64") for word in ("episode", "length")]
    fields += [(word, (e,), "bool") for word in ("done", "over", "active", "restart")]
    fields += [("answers", (e,), "uint8")]
    for name, group in groups.items():
        n, size = len(group.agents), group.action.size
        fields += [(f"{word}/{name}", (e, n, group.observation), "float32") for word in ("observation", "final")]
        fields += [(f"reward/{name}", (e, n), "float32")]
        fields += [(f"{word}/{name}", (e, n), "bool") for word in ("terminated", "truncated", "alive")]
        if group.masked:
            fields += [(f"mask/{name}", (e, n, size), "bool")]
        discrete = isinstance(group.action, Discrete)
        fields += [(f"action/{name}", (e, n) if discrete else (e, n, size), "int64" if discrete else "float32")]
    return fields


def _room(shape: tuple[int, ...], dtype: str) -> int:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return -(-size // 64) * 64  # a line of cache each, so that processes do not share one


def episode_seed(seed: int, row: int, episode: int) -> int:
    """What environment `row` is reset with for its episode number `episode`; some refuse more than 31 bits."""
    return int(np.random.SeedSequence((seed, row, episode)).generate_state(1)[0]) & 0x7FFFFFFF
