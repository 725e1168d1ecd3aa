"""One optimiser for whatever is trained of a swarm: a rate that rises and falls, clipped gradients, a saved state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.language.settings import RunConfig
from hypermarl.updates import load_optimizer, optimizer_state


class Descent:
    """AdamW over the parameters of `module`."""

    def __init__(self, module: nn.Module, config: RunConfig) -> None:
        self.config = config
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
        )

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
        return norm

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, by parameter number."""
        return optimizer_state(self.optimizer)

    def load(self, state: Mapping[str, Tensor]) -> None:
        load_optimizer(self.optimizer, state)
