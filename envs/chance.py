"""Chance without a shared stream: what row i draws depends on its own seed and episode, never on other rows.

Numbers come from a hash (the finaliser of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) of (key of the row, episode, place). So nothing is drawn for rows that do not begin, runs that
share one simulation cannot leak into each other, and row 0 begins alike however many rows there are, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (word - (1 << 64) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def row_keys(seed: int, rows: int, device: torch.device) -> Tensor:
    """A key for every row, int64 `[E]`, from any whole number as the seed."""
    start = torch.tensor((seed + (1 << 63)) % (1 << 64) - (1 << 63), device=device)
    return _mix(_mix(start) + torch.arange(rows, device=device))


def uniform(key: Tensor, episode: Tensor, count: int) -> Tensor:
    """Numbers from [0, 1) for `key [E]` and `episode [E]`: float32 `[E, count]`."""
    row = _mix(key + _mix(episode))[:, None]
    bits = _mix(row + torch.arange(count, device=key.device))
    return _shift(bits, 40).float() / float(1 << 24)  # 24 bits: all that a float32 holds exactly


def _mix(word: Tensor) -> Tensor:
    word = word + _GOLDEN
    word = (word ^ _shift(word, 30)) * _FIRST
    word = (word ^ _shift(word, 27)) * _SECOND
    return word ^ _shift(word, 31)


def _shift(word: Tensor, by: int) -> Tensor:
    return (word >> by) & ((1 << (64 - by)) - 1)  # int64 shifts copy the sign; the mask takes it off
