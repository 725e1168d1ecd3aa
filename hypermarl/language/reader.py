"""A token-level reader: what a text says, from the frozen model's states of its every token, as one code per text.

A pooled sentence vector knows what a text is about and blurs who does what; queries that look at single tokens keep it.
In the manner of a Perceiver, as in Doc-to-LoRA: the queries attend to the tokens, then to each other, block by block.

Letters: `B` texts, `K` layers read, `L` tokens, `D` width of the model, `Q` queries, `W` width of the reader, `d` code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypermarl.language.encoders import States

HEADS = 4


class Attention(nn.Module):
    """`asking [B, Q, W]` gathers from `told [B, L, W]` where `mask [B, L]` is 1."""

    def __init__(self, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.ask, self.key, self.value, self.out = (_matrix(width, width, rng) for _ in range(4))

    def forward(self, asking: Tensor, told: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            (x @ w).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for x, w in ((asking, self.ask), (told, self.key), (told, self.value))
        )
        allowed = None if mask is None else mask[:, None, None, :].bool()
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return found.transpose(1, 2).flatten(-2) @ self.out


class Block(nn.Module):
    """Queries look at the tokens, at each other, and think."""

    def __init__(self, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.look, self.confer = Attention(width, rng), Attention(width, rng)
        self.up, self.down = _matrix(width, 4 * width, rng), _matrix(4 * width, width, rng)

    def forward(self, queries: Tensor, told: Tensor, mask: Tensor) -> Tensor:
        queries = queries + self.look(_level(queries), told, mask)
        even = _level(queries)
        queries = queries + self.confer(even, even)
        return queries + nn.functional.silu(_level(queries) @ self.up) @ self.down


class Reader(nn.Module):
    """`States [B, K, L, D]` -> codes `[B, d]`, of root mean square 1 at the start; a conditioner for a generator.

    States are standardised, number by number, as they are in `known` texts: by themselves a few numbers that are alike
    in all texts outweigh the others.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        layers: int,
        inputs: int,
        dim: int,
        *,
        width: int,
        queries: int,
        blocks: int,
        rng: torch.Generator,
        known: States | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(layers, 1, inputs))
        self.register_buffer("scale", torch.ones(layers, 1, inputs))
        if known is not None:
            self.standardise(known)
        self.enter = nn.Parameter(torch.randn(layers, inputs, width, generator=rng) / math.sqrt(layers * inputs))
        self.queries = nn.Parameter(torch.randn(queries, width, generator=rng))
        self.blocks = nn.ModuleList(Block(width, rng) for _ in range(blocks))
        self.leave = _matrix(queries * width, dim, rng)

    def forward(self, who: States | None = None) -> Tensor:
        """A reader knows nobody by number: it is always given what there is to read."""
        if who is None:
            raise ValueError("a reader needs states to read")
        even = _level((who.values - self.mean) / self.scale)
        told = _level(torch.einsum("bkld,kdw->blw", even, self.enter))
        queries = self.queries + told[:, -1:]  # the last token has read all others: a start that knows something
        for block in self.blocks:
            queries = block(queries, told, who.mask)
        return _level(queries).flatten(-2) @ self.leave

    @torch.no_grad()
    def standardise(self, known: States) -> None:
        """By mean and deviation of these tokens without each text's first one: attention's sink is like no other."""
        places = known.mask.cumsum(-1) > 1
        tokens = known.values.transpose(1, 2)[places].float()  # [tokens, K, D]
        if len(tokens) > 1:
            self.mean.copy_(tokens.mean(0).unsqueeze(1))
            self.scale.copy_(tokens.std(0, correction=0).clamp(min=1e-3).unsqueeze(1))


def _matrix(rows: int, columns: int, rng: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns, generator=rng) / math.sqrt(rows))


def _level(x: Tensor) -> Tensor:
    """To root mean square 1 over the last axis."""
    return nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
