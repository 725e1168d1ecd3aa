"""Heads of the generator: features of an agent in, the K tensors of one slot out.

Parameters may carry leading axes (`lead`), so nothing here counts dimensions from the front.

Letters: `N` agents, `W` features, `K` tensors in a slot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.spec import WeightSpec


class FullHead(nn.Module):
    """`[*lead, N, W]` -> K tensors `[*lead, N, *shape]` by one linear map; ids `[N]` pick rows (one-hot as a table).

    With `placed`, the K tensors share the map and are told apart by a learned place that scales the features (were it
    added, agents would differ in the same way in all K tensors); without, each has a map of its own.
    """

    def __init__(self, weight: WeightSpec, count: int, width: int, placed: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.shape = weight.shape
        self.count = count
        self.places = nn.Parameter(normal((count, width), 1.0, rng)) if placed and count > 1 else None
        self.weight = nn.Parameter(torch.zeros(width, weight.numel * (1 if placed else count)))

    def forward(
        self, features: Tensor | None, base: Tensor | None = None, mixer: Mixer | None = None
    ) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`. Without features: every row of the table, in order, and no copy."""
        if features is not None and features.is_floating_point():
            if self.places is not None or mixer is not None:
                mixed = features.unsqueeze(-2) if self.places is None else self._placed(features)
                mixed = mixed if mixer is None else mixer(mixed)
                placed = (mixed @ self.weight.unsqueeze(-3)).flatten(-2)
                flat = placed if base is None else placed + base
            else:
                flat = affine(features, self.weight, base)
        else:
            flat = self.weight if features is None else self.weight.index_select(-2, features)
            flat = flat if base is None else flat + base
        return each(flat, self.shape, self.count)

    def _placed(self, features: Tensor) -> Tensor:
        """`[*lead, N, K, W]`."""
        assert self.places is not None
        return features.unsqueeze(-2) * (1.0 + self.places.unsqueeze(-3))

    @torch.no_grad()
    def solve(self, features: Tensor, wanted: Tensor) -> None:
        """Choose the map that sends `features` to `wanted [N, K, *shape]`."""
        if not features.is_floating_point():
            self.weight[features] = wanted.flatten(1)
            return
        rows = features if self.places is None else self._placed(features).flatten(0, -2)
        values = wanted.flatten(1) if self.places is None else wanted.flatten(2).flatten(0, 1)
        rows = rows.double()
        spectrum = torch.linalg.svdvals(rows)
        if rows.shape[0] > rows.shape[1] or float(spectrum[-1]) < 1e-3 * float(spectrum[0]):
            raise UserError(
                f"start=distinct needs independent features for {rows.shape[0]} agents, but the trunk gives "
                f"{rows.shape[1]} features of rank below that; widen the trunk or embedding, or use start=equal."
            )
        self.weight.copy_((torch.linalg.pinv(rows) @ values.double()).to(self.weight.dtype))


class Mixer(nn.Module):
    """Residual blocks over features and places together: `[*lead, N, K, W]` -> the same, root mean square 1.

    What agents differ by then differs from tensor to tensor of a slot, as in the trunk of Text-to-LoRA
    (arXiv 2506.06105, section 3).
    """

    def __init__(self, width: int, hidden: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        self.up = nn.ParameterList(nn.Parameter(normal((width, h), 1.0 / math.sqrt(width), rng)) for h in hidden)
        self.down = nn.ParameterList(nn.Parameter(normal((h, width), 0.5 / math.sqrt(h), rng)) for h in hidden)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + nn.functional.silu(level(x) @ up.unsqueeze(-3)) @ down.unsqueeze(-3)
        return level(x)


class ModulatedHead(nn.Module):
    """`[*lead, N, W]` -> K matrices `[*lead, N, in, out]`: learned factors that agents share, mixed by what is made.

    Of a matrix `[in, out]` with `in < out` it generates `[in, r]`, to be multiplied by a factor `[r, out]` of the
    tensor's own (the other way round where `out` is smaller): many times fewer parameters than a head for the whole.
    """

    def __init__(
        self, weight: WeightSpec, count: int, width: int, rank: int, placed: bool, rng: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.shape = weight.shape
        self.count = count
        self.wide = rows <= columns
        mix = (rows, rank) if self.wide else (rank, columns)
        self.mix = FullHead(WeightSpec("mix", mix, "mix"), count, width, placed, rng)
        factor = (count, rank, columns) if self.wide else (count, rows, rank)
        self.factor = nn.Parameter(normal(factor, 1.0 / math.sqrt(rank), rng))

    def forward(self, features: Tensor | None, base: Tensor) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`."""
        factors = self.factor.unsqueeze(-4).unbind(-3)  # K of [*lead, 1, ...]
        parts = zip(self.mix(features), factors, each(base, self.shape, self.count), strict=True)
        return tuple((mix @ factor if self.wide else factor @ mix) + own for mix, factor, own in parts)


class LowRankHead(nn.Module):
    """`[*lead, N, W]` -> K matrices `[*lead, N, in, out]`, each a product of two generated factors of rank r.

    The right factor starts at zero, the left one does not, so that the right one learns from the first step.
    """

    def __init__(
        self, weight: WeightSpec, count: int, width: int, rank: int, placed: bool, rng: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.shape
        rank = min(rank, rows, columns)
        self.left = FullHead(WeightSpec("left", (rows, rank), "left"), count, width, placed, rng)
        self.right = FullHead(WeightSpec("right", (rank, columns), "right"), count, width, placed, rng)
        with torch.no_grad():
            self.left.weight.copy_(normal(tuple(self.left.weight.shape), 1.0 / math.sqrt(rank), rng))

    def factors(self, features: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """K left ones `[*lead, N, in, r]` and K right ones `[*lead, N, r, out]`."""
        return self.left(features), self.right(features)

    def forward(self, features: Tensor | None, base: Tensor) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`."""
        shape = (*self.left.shape[:1], *self.right.shape[1:])
        parts = zip(*self.factors(features), each(base, shape, self.left.count), strict=True)
        return tuple((left @ right).add_(own) for left, right, own in parts)


class ChunkedHead(nn.Module):
    """`[*lead, N, W]` -> K tensors `[*lead, N, *shape]`, one small map for every chunk, told apart by chunk places."""

    def __init__(self, weight: WeightSpec, count: int, width: int, chunk: int, rng: torch.Generator) -> None:
        super().__init__()
        self.shape = weight.shape
        self.numel = weight.numel
        self.count = count
        chunks = math.ceil(weight.numel / chunk)
        self.chunks = chunks
        self.places = nn.Parameter(normal((count * chunks, width), 1.0, rng))
        self.weight = nn.Parameter(torch.zeros(width, min(chunk, weight.numel)))

    def forward(self, features: Tensor | None, base: Tensor | None = None) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`."""
        if features is None or not features.is_floating_point():
            raise UserError("head=chunked needs an embedding or a trunk; one-hot ids have no features to place.")
        # The sum must be bent before the map, or all chunks would get the same agent-dependent part.
        placed = torch.tanh(features.unsqueeze(-2) * (1.0 + self.places.unsqueeze(-3)))  # [*lead, N, K*chunks, W]
        pieces = placed @ self.weight.unsqueeze(-3)
        flat = pieces.reshape(*pieces.shape[:-2], self.count, -1)[..., : self.numel].flatten(-2)
        return each(flat if base is None else flat + base, self.shape, self.count)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x [*lead, N, d] @ weight [*lead, d, W] + bias [*lead, 1, W]`."""
    if bias is None:
        return x @ weight
    if x.shape[:-2] == weight.shape[:-2] and x.ndim < 4:  # one pass over what is generated instead of two
        return torch.addmm(bias, x, weight) if x.ndim == 2 else torch.baddbmm(bias, x, weight)
    return x @ weight + bias


def level(x: Tensor) -> Tensor:
    """To root mean square 1 over the last axis."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-8)


def each(flat: Tensor, shape: tuple[int, ...], count: int) -> tuple[Tensor, ...]:
    """`[*lead, N, K*numel]` as its K tensors `[*lead, N, *shape]`."""
    if count == 1:  # taken apart as one of many, its gradient would be copied
        return (flat.reshape(*flat.shape[:-1], *shape),)
    return flat.reshape(*flat.shape[:-1], count, *shape).unbind(-len(shape) - 1)


def make_head(
    weight: WeightSpec, count: int, width: int, *, kind: str, rank: int, chunk: int, placed: bool, rng: torch.Generator
) -> nn.Module:
    """The head of `kind` for a slot of `count` such tensors; what is too small for that kind gets a full one."""
    matrix = len(weight.shape) == 2
    if kind == "low_rank" and matrix and rank < min(weight.shape):
        return LowRankHead(weight, count, width, rank, placed, rng)
    if kind == "modulated" and matrix:
        return ModulatedHead(weight, count, width, rank, placed, rng)
    if kind == "chunked" and weight.numel > chunk:
        return ChunkedHead(weight, count, width, chunk, rng)
    return FullHead(weight, count, width, placed, rng)


def draw(weight: WeightSpec, rng: torch.Generator) -> Tensor:
    """One start of one tensor: orthogonal times its gain, or normal with its standard deviation."""
    if weight.gain is not None:
        return nn.init.orthogonal_(torch.empty(weight.shape), weight.gain, generator=rng)
    return normal(weight.shape, weight.std, rng) if weight.std else torch.zeros(weight.shape)


def normal(shape: tuple[int, ...], std: float, rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng) * std
