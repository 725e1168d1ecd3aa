"""One optimiser for whatever is trained of a swarm: a rate that rises and falls, clipped gradients, an average of what
was learned, a saved state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.language.settings import RunConfig
from hypermarl.updates import load_optimizer, optimizer_state

WALKED = "walked."  # before the number of a parameter: where the walk is, which an average follows


class Descent:
    """AdamW over the parameters of `module`; with `train.average`, a running average of them is what counts."""

    def __init__(self, module: nn.Module, config: RunConfig) -> None:
        self.config = config
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
        )
        self._average = [p.detach().clone() for p in self.parameters] if config.average else []

    def rate(self, update: int) -> float:
        """Of update number `update`, from 0: up in a line, down to a tenth along a cosine."""
        config = self.config
        rising = round(config.warmup * config.updates)
        if update < rising:
            return config.lr * (update + 1) / rising
        share = min(1.0, (update - rising) / max(1, config.updates - rising))
        return config.lr * (0.55 + 0.45 * math.cos(math.pi * share))

    def step(self, update: int) -> float:
        """Move along the gradients that are there, and clear them; returns their norm before it is clipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(update)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise UserError(f"The gradient of update {update} is not finite; a lower train.lr may help.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        kept = min(self.config.average, (1 + update) / (10 + update))  # the start is soon forgotten
        with torch.no_grad():
            for mean, p in zip(self._average, self.parameters, strict=False):
                mean.lerp_(p, 1.0 - kept)
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module with the average in its parameters, for what is judged or saved inside; then the walk goes on."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, by parameter number, and with an average, which the module is saved with, where the
        walk is."""
        walked = {f"{WALKED}{i}": p.detach() for i, p in enumerate(self.parameters)} if self._average else {}
        return {**optimizer_state(self.optimizer), **walked}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`, once the module is as it was saved."""
        load_optimizer(self.optimizer, {key: value for key, value in state.items() if not key.startswith(WALKED)})
        with torch.no_grad():
            for i, mean in enumerate(self._average):
                mean.copy_(self.parameters[i])
                self.parameters[i].copy_(state.get(f"{WALKED}{i}", mean))

    def _swap(self) -> None:
        for i, p in enumerate(self.parameters[: len(self._average)]):
            p.data, self._average[i] = self._average[i], p.data
