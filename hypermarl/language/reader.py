"""A token-level reader: what a text says, from the frozen model's states of its every token, as one code per text.

A pooled sentence vector knows what a text is about and blurs who does what; queries that look at single tokens keep it.
In the manner of a Perceiver, as in Doc-to-LoRA: the queries attend to the tokens, then to each other, block by block.

Letters: `B` texts, `K` layers read, `L` tokens, `D` width of the model, `Q` queries, `W` width of the reader, `d` code,
`N` agents, `M` wordings of one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypermarl.discriminants import clear_directions
from hypermarl.language.encoders import States

HEADS = 4
CLEAR, RIDGE = 2.0, 1e-3  # of what is told in spite of the wording, see `discriminants`
EACH = 8  # numbers a query takes from where it points
SHARP = 3.0  # how much less sharply than others queries point at first, so that they can learn where


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
    """`States [B, 1 + K, L, D]` -> codes `[B, d]`, of root mean square 1 at the start; a conditioner for a generator.

    It reads by pointing: what K layers of the frozen model know of every token decides where each of Q queries looks,
    and what it takes from there is the word alone, the state before any layer (the first of the states). So what a
    query says of a text depends on the words it points to and not on the text as a whole, and a text is a sum of its
    words: combinations of known words that were never read together get the codes they should (experiments/LOG.md).

    States are standardised, number by number, as they are in `known` texts: by themselves a few numbers that are alike
    in all texts outweigh the others.

    A reader is trained together with the generator or, where that is too much to learn at once, beforehand and then
    `fixed`: see `contrast`.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    map: Tensor

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
        fixed: bool = False,
    ) -> None:
        """`layers` is K; `inputs` is D."""
        super().__init__()
        self.dim = dim
        self.fixed = fixed
        self.register_buffer("mean", torch.zeros(1 + layers, 1, inputs))
        self.register_buffer("scale", torch.ones(1 + layers, 1, inputs))
        if known is not None:
            self.standardise(known)
        self.enter = nn.Parameter(torch.randn(layers, inputs, width, generator=rng) / math.sqrt(layers * inputs))
        self.queries = nn.Parameter(torch.randn(queries, width, generator=rng))
        self.blocks = nn.ModuleList(Block(width, rng) for _ in range(blocks))
        self.point = _matrix(width, width, rng)
        self.take = nn.Parameter(torch.randn(queries, inputs, EACH, generator=rng) / math.sqrt(inputs))
        self.register_buffer("centre", torch.zeros(queries * EACH))
        self.register_buffer("map", torch.randn(queries * EACH, dim, generator=rng) / math.sqrt(queries * EACH))
        if known is not None:
            self._even(known)
        self.requires_grad_(not fixed)

    def forward(self, who: States | None = None) -> Tensor:
        """A reader knows nobody by number: it is always given what there is to read."""
        if who is None:
            raise ValueError("a reader needs states to read")
        return (self.features(who) - self.centre) @ self.map

    def features(self, who: States) -> Tensor:
        """What its queries take, one after another, `[B, Q * EACH]`."""
        even = _level((who.values - self.mean) / self.scale)
        told = _level(torch.einsum("bkld,kdw->blw", even[:, 1:], self.enter))
        mask = _said(who.mask)
        queries = self.queries + told[:, -1:]  # the last token has read all others: a start that knows something
        for block in self.blocks:
            queries = block(queries, told, mask)
        near = _level(queries) @ self.point @ told.mT / (SHARP * math.sqrt(told.shape[-1]))
        where = near.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(-1)  # [B, Q, L]
        return torch.einsum("bqd,qde->bqe", where @ even[:, 0], self.take).flatten(1)

    @torch.no_grad()
    def standardise(self, known: States) -> None:
        """By mean and deviation of these tokens without each text's first one."""
        places = known.mask.cumsum(-1) > 1
        tokens = known.values.transpose(1, 2)[places].float()  # [tokens, 1 + K, D]
        if len(tokens) > 1:
            self.mean.copy_(tokens.mean(0).unsqueeze(1))
            self.scale.copy_(tokens.std(0, correction=0).clamp(min=1e-3).unsqueeze(1))

    @torch.no_grad()
    def settle(self, features: Tensor, rng: torch.Generator) -> int:
        """Codes from now on are along the directions of `features [N, M, Q * EACH]` in which N agents differ clearly
        more than the M wordings of one; how many these are. Numbers of a code left over are 0."""
        centre, directions = clear_directions(features, self.dim, rng, clear=CLEAR, ridge=RIDGE)
        self.centre.copy_(centre)
        self.map.zero_()
        self.map[:, : directions.shape[1]] = directions.to(self.map)
        return directions.shape[1]

    @torch.no_grad()
    def _even(self, known: States) -> None:
        """Codes of these texts are centred and of root mean square 1."""
        features = self.features(known)
        if len(features) > 1:
            self.centre.copy_(features.mean(0))
            self.map.div_(self(known).square().mean().sqrt().clamp(min=1e-6))


def _said(mask: Tensor) -> Tensor:
    """`[B, L]`, where to look: not at a text's first token, attention's sink, unless it is the only one."""
    return (mask.cumsum(-1) > (mask.sum(-1, keepdim=True) > 1).long()) & mask.bool()


def _matrix(rows: int, columns: int, rng: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns, generator=rng) / math.sqrt(rows))


def _level(x: Tensor) -> Tensor:
    """To root mean square 1 over the last axis."""
    return nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
