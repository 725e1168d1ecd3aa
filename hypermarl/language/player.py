"""Trained agents of words as the `Player` that evaluation knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from hypermarl.language.converse import Asking, Question, Speech, answered, asked

KNOWN = 65_536  # choices that are remembered while the weights stay as they are


class WordPlayer:
    """Speaks under fixed adapters; `attach` it to the environment, which says what the legal words are.

    All who are asked answer in one pass, and what was asked before is not asked again. With `greedy` the likeliest is
    said, else answers are drawn from a stream that the episode's seed decides.
    """

    def __init__(self, asking: Asking, speech: Speech, tokens: int, *, greedy: bool = True) -> None:
        self.asking = asking
        self.speech = speech
        self.tokens = tokens
        self.greedy = greedy
        self.env: Any = None
        self._known: dict[Question, Tensor] = {}
        self._rng: torch.Generator | None = None

    def attach(self, env: Any) -> Any:
        """Play in `env` from now on; returns it, so that evaluation may be given `lambda: player.attach(make())`."""
        self.env = env
        return env

    def reset(self, agents: list[str], seed: int | None = None) -> None:
        if self.env is None:
            raise RuntimeError("attach(env) comes before the first episode")
        self._rng = None if self.greedy else torch.Generator().manual_seed(seed or 0)

    @torch.no_grad()
    def act(self, observations: Mapping[str, Any], masks: Mapping[str, NDArray[Any]] | None = None) -> dict[str, str]:
        """A text for each agent that has something to say."""
        waiting, plain = asked(self.env, 0, observations)
        if not waiting:
            return plain
        if len(self._known) > KNOWN:
            self._known.clear()
        turns = answered(self.asking, self.speech, waiting, 0, self._known, self._rng, self.tokens)
        return plain | {turn.agent: turn.said for turn in turns}
