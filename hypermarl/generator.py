"""The generator core: conditioning in, every agent's named tensors out.

    trunk -> features [*lead, N, W];  scaled by the slot's places [K, W];  the slot's head -> [*lead, N, K, *shape];
    plus the slot's base [K, *shape];  unbind K into names.

It knows neither policies nor language models. Parameters may carry leading axes (`lead`, in training the seeds `S`,
see `hypermarl.stacking`): nothing here counts dimensions from the front.

The base is drawn with each tensor's own start (orthogonal times its gain, normal, or zero) and the head starts at
zero, so what is generated starts exactly as a directly built network would, whatever the sizes. The published code
draws head rows orthogonal instead, which starts 3.9 times too large at its own sizes (arXiv 2412.04233, section 4.2
against its code).

Letters: `N` agents, `d` conditioning, `W` features, `K` tensors in a slot, `T` trunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hypermarl.activations import ACTIVATIONS
from hypermarl.errors import UserError
from hypermarl.spec import LEFT, RIGHT, TargetSpec, Weights, WeightSpec

LARGE = 2**17
"""Numbers in a generated matrix of all agents from which factors may be cheaper (measured, see docs/design.md)."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Which generator; every sharing mode is a setting of these."""

    trunk: tuple[int, ...] = ()  # widths, each followed by the activation; () passes the conditioning through
    trunk_per: Literal["all", "slot"] = "all"  # one trunk for all slots, or one each (the published layout)
    trunk_bias: bool = True
    activation: Literal["relu", "tanh", "silu", "elu", "gelu"] = "tanh"
    normalise: bool = False  # features to root mean square 1
    scale: float = 1.0  # of the features: how far one optimiser step moves what is generated
    mixer: tuple[int, ...] = ()  # hidden widths of residual blocks after the places: each tensor of a slot its own way
    head: Literal["none", "full", "low_rank", "chunked", "modulated"] = "full"
    rank: int = 4  # of low_rank and modulated heads
    apply: Literal["auto", "whole", "factored"] = "auto"  # low rank: multiplied out, in factors, or what is cheaper
    chunk: int = 512
    vectors: Literal["headed", "shared"] = "headed"  # shared: only matrices are each agent's own, as with a LoRA
    base: bool = True
    start: Literal["equal", "distinct"] = "equal"  # distinct: a head solved so that each agent has its own exact draw

    def __post_init__(self) -> None:
        if self.head == "none" and not self.base:
            raise UserError("A generator with neither head nor base generates nothing: set head or base.")
        if self.start == "distinct" and self.head != "full":
            raise UserError(f"start=distinct is solved for head=full only, not for head={self.head}.")
        if self.vectors == "shared" and not self.base:
            raise UserError("Vectors that all agents share are of the base: set base=true, or vectors=headed.")
        if not self.base and self.start != "distinct":
            raise UserError("A generator without a base must start distinct: a zero head would generate zeros.")
        if self.apply == "factored" and self.head != "low_rank":
            raise UserError(f"apply=factored is for head=low_rank; head={self.head} has no factors.")
        if self.mixer and (not self.trunk or self.head != "full"):
            raise UserError("A mixer stands between a trunk and full heads: give a trunk, and head=full.")
        if min((self.rank, self.chunk, *self.trunk, *self.mixer)) < 1:
            raise UserError("Generator widths, rank and chunk must be at least 1.")


class Generator(nn.Module):
    """Conditioning `[*lead, N, d]` (or integer ids `[N]` of a table of `d` agents) -> `{name: [*lead, N, *shape]}`.

    Tensors that all agents share come as `[*lead, 1, *shape]`. Owns every trained parameter of what it generates.
    `rng` draws the start; `spec` says what is generated.
    """

    def __init__(self, spec: TargetSpec, cond_dim: int, *, config: GeneratorConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        self.cond_dim = cond_dim
        self.config = config
        slots = spec.slots()
        self._slots = slots
        self._keys = {slot: _key(slot) for slot in slots}
        self._order = [weight.name + suffix for weight in spec.weights for suffix in ("", LEFT, RIGHT)]
        axes = 2 if config.vectors == "shared" else 1  # of what agents may differ in, at least
        self._headed = tuple(
            slot
            for slot, (first, *_) in slots.items()
            if config.head != "none" and not first.shared and len(first.shape) >= axes
        )
        trunks = (len(self._headed) if config.trunk_per == "slot" else 1) if config.trunk else 0
        self.trunk = nn.ParameterList()
        self.trunk_bias = nn.ParameterList()
        width = cond_dim
        for out in config.trunk if self._headed else ():
            self.trunk.append(nn.Parameter(_drawn_each(trunks, (width, out), math.sqrt(2.0), rng)))
            if config.trunk_bias:
                self.trunk_bias.append(nn.Parameter(torch.zeros(trunks, out)))
            width = out
        self.width = width
        self.mixer = Mixer(width, config.mixer, rng) if config.mixer and self._headed else None
        self.heads = nn.ModuleDict()
        for slot in self._headed:
            first = slots[slot][0]
            self.heads[_key(slot)] = _head(first, len(slots[slot]), width, config, rng)
        self.base = nn.ParameterDict()
        for slot, members in slots.items():
            if config.base or members[0].shared:
                self.base[_key(slot)] = nn.Parameter(torch.stack([draw(m, rng) for m in members]))

    def forward(self, cond: Tensor | None, rows: int | None = None) -> Weights:
        """Weights of the agents described by `cond`; ids pick rows as of a table, None is all rows in order.

        `rows` says to how many rows each agent's weights will be applied, if that is known: few rows are cheaper with
        a low rank left in its factors.
        """
        features = self._features(cond)
        heads, bases = dict(self.heads.items()), dict(self.base.items())
        generated: Weights = {}
        for slot, members in self._slots.items():
            key, shape = self._keys[slot], members[0].shape
            base = bases.get(key)
            flat = None if base is None else base.reshape(*base.shape[: -len(shape) - 1], 1, -1)  # [*lead, 1, K*numel]
            head = heads.get(key)
            made: dict[str, tuple[Tensor, ...]] = {}
            if head is None:
                assert flat is not None
                made[""] = _each(flat, shape, len(members))
            else:
                mine = features[self._headed.index(slot) if len(features) > 1 else 0]
                if isinstance(head, LowRankHead) and self._in_factors(members[0], head, cond, rows):
                    assert flat is not None
                    made[""] = _each(flat, shape, len(members))
                    made[LEFT], made[RIGHT] = head.factors(mine)
                else:
                    made[""] = head(mine, flat) if self.mixer is None else head(mine, flat, self.mixer)
            for suffix, tensors in made.items():
                for weight, tensor in zip(members, tensors, strict=True):
                    generated[weight.name + suffix] = tensor
        return {name: generated[name] for name in self._order if name in generated}

    def _in_factors(self, weight: WeightSpec, head: LowRankHead, cond: Tensor | None, rows: int | None) -> bool:
        if not weight.factors or self.config.apply != "auto":
            return weight.factors and self.config.apply == "factored"
        agents = self.cond_dim if cond is None else cond.shape[-2 if cond.is_floating_point() else -1]
        networks = agents * head.left.weight.shape[:-2].numel()
        inputs, outputs = weight.shape
        few = rows is not None and 4 * rows * (inputs + outputs) < 3 * inputs * outputs
        return few and networks * weight.numel >= LARGE

    def _features(self, cond: Tensor | None) -> tuple[Tensor | None, ...]:
        """One `[*lead, N, W]` per trunk; without a trunk what was given."""
        if not self._headed or not len(self.trunk):
            return (cond,)
        picks = cond is None or not cond.is_floating_point()
        one = self.config.trunk_per == "all"
        x = cond if picks or one or cond is None else cond.unsqueeze(-3)  # [*lead, 1, N, d]
        for i, weight in enumerate(self.trunk):
            bias = self.trunk_bias[i] if len(self.trunk_bias) else None  # [*lead, T, W]
            if one:
                weight = weight.squeeze(-3)
            elif bias is not None:
                bias = bias.unsqueeze(-2)
            if i == 0 and picks:
                x = weight if cond is None else weight.index_select(-2, cond)
                x = x if bias is None else x + bias
            else:
                assert x is not None
                x = _affine(x, weight, bias)
            x = ACTIVATIONS[self.config.activation](x)
        assert x is not None
        if self.config.normalise:
            x = x * (torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-8) * self.config.scale)
        elif self.config.scale != 1.0:
            x = x * self.config.scale
        return (x,) if one else x.unbind(-3)

    @torch.no_grad()
    def start_distinct(self, cond: Tensor | None, rng: torch.Generator) -> None:
        """Solve every head so that each agent starts with its own exact draw of each tensor.

        Needs features of full row rank over agents and places, so at least N*K wide; below that the solution would
        blow up (measured in the dossier), so it raises `UserError`. Meant for a generator without leading axes.
        """
        features = self._features(cond)
        for i, slot in enumerate(self._headed):
            members = self._slots[slot]
            head = self.heads[_key(slot)]
            assert isinstance(head, FullHead)
            table = features[i if len(features) > 1 else 0]
            if table is None:
                table = torch.arange(self.cond_dim, device=head.weight.device)
            count = table.shape[-1] if not table.is_floating_point() else table.shape[-2]
            wanted = torch.stack([torch.stack([draw(m, rng) for m in members]) for _ in range(count)])
            if _key(slot) in self.base:
                wanted = wanted - self.base[_key(slot)]
            head.solve(table, wanted)


class FullHead(nn.Module):
    """`[*lead, N, W]` -> K tensors `[*lead, N, *shape]` by one linear map; ids `[N]` pick rows (one-hot as a table).

    With `placed`, the K tensors share the map and are told apart by a learned place that scales the features (were it
    added, agents would differ in the same way in all K tensors); without, each has a map of its own.
    """

    def __init__(self, weight: WeightSpec, count: int, width: int, placed: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.shape = weight.shape
        self.count = count
        self.places = nn.Parameter(_normal((count, width), 1.0, rng)) if placed and count > 1 else None
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
                flat = _affine(features, self.weight, base)
        else:
            flat = self.weight if features is None else self.weight.index_select(-2, features)
            flat = flat if base is None else flat + base
        return _each(flat, self.shape, self.count)

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
        self.up = nn.ParameterList(nn.Parameter(_normal((width, h), 1.0 / math.sqrt(width), rng)) for h in hidden)
        self.down = nn.ParameterList(nn.Parameter(_normal((h, width), 0.5 / math.sqrt(h), rng)) for h in hidden)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + nn.functional.silu(_level(x) @ up.unsqueeze(-3)) @ down.unsqueeze(-3)
        return _level(x)


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
        self.factor = nn.Parameter(_normal(factor, 1.0 / math.sqrt(rank), rng))

    def forward(self, features: Tensor | None, base: Tensor) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`."""
        factors = self.factor.unsqueeze(-4).unbind(-3)  # K of [*lead, 1, ...]
        parts = zip(self.mix(features), factors, _each(base, self.shape, self.count), strict=True)
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
            self.left.weight.copy_(_normal(tuple(self.left.weight.shape), 1.0 / math.sqrt(rank), rng))

    def factors(self, features: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """K left ones `[*lead, N, in, r]` and K right ones `[*lead, N, r, out]`."""
        return self.left(features), self.right(features)

    def forward(self, features: Tensor | None, base: Tensor) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`."""
        shape = (*self.left.shape[:1], *self.right.shape[1:])
        parts = zip(*self.factors(features), _each(base, shape, self.left.count), strict=True)
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
        self.places = nn.Parameter(_normal((count * chunks, width), 1.0, rng))
        self.weight = nn.Parameter(torch.zeros(width, min(chunk, weight.numel)))

    def forward(self, features: Tensor | None, base: Tensor | None = None) -> tuple[Tensor, ...]:
        """Plus `base [*lead, 1, K*numel]`."""
        if features is None or not features.is_floating_point():
            raise UserError("head=chunked needs an embedding or a trunk; one-hot ids have no features to place.")
        # The sum must be bent before the map, or all chunks would get the same agent-dependent part.
        placed = torch.tanh(features.unsqueeze(-2) * (1.0 + self.places.unsqueeze(-3)))  # [*lead, N, K*chunks, W]
        pieces = placed @ self.weight.unsqueeze(-3)
        flat = pieces.reshape(*pieces.shape[:-2], self.count, -1)[..., : self.numel].flatten(-2)
        return _each(flat if base is None else flat + base, self.shape, self.count)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x [*lead, N, d] @ weight [*lead, d, W] + bias [*lead, 1, W]`."""
    if bias is None:
        return x @ weight
    if x.shape[:-2] == weight.shape[:-2] and x.ndim < 4:  # one pass over what is generated instead of two
        return torch.addmm(bias, x, weight) if x.ndim == 2 else torch.baddbmm(bias, x, weight)
    return x @ weight + bias


def _level(x: Tensor) -> Tensor:
    """To root mean square 1 over the last axis."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-8)


def _each(flat: Tensor, shape: tuple[int, ...], count: int) -> tuple[Tensor, ...]:
    """`[*lead, N, K*numel]` as its K tensors `[*lead, N, *shape]`."""
    if count == 1:  # taken apart as one of many, its gradient would be copied
        return (flat.reshape(*flat.shape[:-1], *shape),)
    return flat.reshape(*flat.shape[:-1], count, *shape).unbind(-len(shape) - 1)


def _head(weight: WeightSpec, count: int, width: int, config: GeneratorConfig, rng: torch.Generator) -> nn.Module:
    if config.head == "low_rank" and len(weight.shape) == 2 and config.rank < min(weight.shape):
        return LowRankHead(weight, count, width, config.rank, bool(config.trunk), rng)
    if config.head == "modulated" and len(weight.shape) == 2 and config.base:
        return ModulatedHead(weight, count, width, config.rank, bool(config.trunk), rng)
    if config.head == "chunked" and weight.numel > config.chunk:
        return ChunkedHead(weight, count, width, config.chunk, rng)
    return FullHead(weight, count, width, bool(config.trunk), rng)


def draw(weight: WeightSpec, rng: torch.Generator) -> Tensor:
    """One start of one tensor: orthogonal times its gain, or normal with its standard deviation."""
    if weight.gain is not None:
        return nn.init.orthogonal_(torch.empty(weight.shape), weight.gain, generator=rng)
    return _normal(weight.shape, weight.std, rng) if weight.std else torch.zeros(weight.shape)


def _normal(shape: tuple[int, ...], std: float, rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng) * std


def _drawn_each(count: int, shape: tuple[int, int], gain: float, rng: torch.Generator) -> Tensor:
    return torch.stack([nn.init.orthogonal_(torch.empty(shape), gain, generator=rng) for _ in range(count)])


def _key(slot: str) -> str:
    return slot.replace(".", "_")  # module names may not hold dots
