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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hypermarl.activations import ACTIVATIONS
from hypermarl.errors import UserError
from hypermarl.heads import FullHead, LowRankHead, Mixer, affine, draw, each, make_head
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
            self.trunk.append(nn.Parameter(_drawneach(trunks, (width, out), math.sqrt(2.0), rng)))
            if config.trunk_bias:
                self.trunk_bias.append(nn.Parameter(torch.zeros(trunks, out)))
            width = out
        self.width = width
        self.mixer = Mixer(width, config.mixer, rng) if config.mixer and self._headed else None
        self.heads = nn.ModuleDict()
        for slot in self._headed:
            first = slots[slot][0]
            self.heads[_key(slot)] = make_head(
                first,
                len(slots[slot]),
                width,
                kind=config.head,
                rank=config.rank,
                chunk=config.chunk,
                placed=bool(config.trunk),
                rng=rng,
            )
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
                made[""] = each(flat, shape, len(members))
            else:
                mine = features[self._headed.index(slot) if len(features) > 1 else 0]
                if isinstance(head, LowRankHead) and self._in_factors(members[0], head, cond, rows):
                    assert flat is not None
                    made[""] = each(flat, shape, len(members))
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
            bare = cond is None or not cond.is_floating_point() or self.config.scale == 1.0
            return (cond if bare or cond is None else cond * self.config.scale,)
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
                x = affine(x, weight, bias)
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


def _drawneach(count: int, shape: tuple[int, int], gain: float, rng: torch.Generator) -> Tensor:
    return torch.stack([nn.init.orthogonal_(torch.empty(shape), gain, generator=rng) for _ in range(count)])


def _key(slot: str) -> str:
    return slot.replace(".", "_")  # module names may not hold dots
