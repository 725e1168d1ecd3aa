"""Low-rank adapters on a frozen network, every agent's own, all agents in one forward pass.

An adapter adds `alpha / rank * x @ A @ B` to what a linear layer gives. `A` is `[N, in, r]` and `B` `[N, r, out]`; the
order of other formats is made where they are written. `B` starts at zero, so agents start as the frozen network, to
the bit.

Letters: `S` seeds, `N` agents, `R` rows of each, `L` tokens, `D` inputs, `A` outputs, `r` rank, `M = S*N` adapters.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.spec import TargetSpec, Weights, WeightSpec

FEW = 4  # rows of an adapter up to which a CPU multiplies small matrices faster in single than in half precision


@dataclass(frozen=True, slots=True)
class Site:
    """One linear layer that gets an adapter."""

    path: str  # in the network, as `named_modules` has it
    module: str  # which of the modules asked for it is
    inputs: int
    outputs: int

    @property
    def left(self) -> str:
        """Name of its `A [in, r]`."""
        return f"{self.path}.A"

    @property
    def right(self) -> str:
        """Name of its `B [r, out]`."""
        return f"{self.path}.B"


@dataclass(frozen=True, slots=True)
class Spread:
    """Which tokens are whose where those of several adapters stand in one row.

    `tokens [M, K]` says where each adapter's are among all, and `places [all]` where each of all is among `M*K`; what
    fills up, in both, is 0, and nothing is to be read where it stands.
    """

    tokens: Tensor
    places: Tensor

    @classmethod
    def of(cls, owners: Tensor, adapters: int) -> Spread:
        """Of so many adapters; `owners [all]` says whose each token is, -1 for what is nobody's."""
        order = owners.argsort(stable=True)[(owners < 0).sum() :]
        counts = torch.bincount(owners[order], minlength=adapters)
        starts = counts.cumsum(0) - counts
        mine = owners[order]
        number = torch.arange(len(order), device=owners.device) - starts[mine]
        most = int(counts.max())
        tokens = owners.new_zeros(adapters, most)
        tokens[mine, number] = order
        places = torch.zeros_like(owners)
        places[order] = mine * most + number
        return cls(tokens, places)


class Adapter:
    """A forward hook of a linear layer: adds the low-rank part of every agent to its own rows."""

    def __init__(self, left: Tensor, right: Tensor, scale: float) -> None:
        lead = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])  # agents may share one of the two
        self.count = math.prod(lead)
        self.left, self.right = (t.expand(*lead, -1, -1).reshape(-1, *t.shape[-2:]) for t in (left, right))
        self.scale = scale
        self.cast: tuple[torch.dtype, bool, Tensor, Tensor] | None = None

    def __call__(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = arguments
        if x.shape[0] % self.count:
            raise ValueError(f"{x.shape[0]} rows cannot be divided among {self.count} adapters")
        x = x.reshape(self.count, -1, x.shape[-1])  # [M, R*L, in]
        y = output.reshape(self.count, -1, output.shape[-1])
        if x.shape[1] <= FEW and x.dtype != self.left.dtype and x.device.type == "cpu":
            added = torch.bmm(torch.bmm(x.to(self.left.dtype), self.left), self.right)
            if torch.is_grad_enabled():
                return torch.add(y, added.to(y.dtype), alpha=self.scale).reshape(output.shape)
            return y.add_(added, alpha=self.scale).reshape(output.shape)
        left, right = self.cast_to(x.dtype)
        thin = torch.bmm(x, left)
        if torch.is_grad_enabled():
            return torch.baddbmm(y, thin, right, alpha=self.scale).reshape(output.shape)
        return y.baddbmm_(thin, right, alpha=self.scale).reshape(output.shape)  # nobody else holds the layer's output

    def spread(self, spread: Spread, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """As the hook itself, each adapter's tokens being where `spread` says."""
        if self.count == 1:
            return self(layer, arguments, output)
        if self.count != len(spread.tokens):
            raise ValueError(f"tokens of {len(spread.tokens)} agents for {self.count} adapters")
        (x,) = arguments
        left, right = self.cast_to(x.dtype)
        mine = x.flatten(0, -2).index_select(0, spread.tokens.flatten()).view(*spread.tokens.shape, -1)  # [M, K, in]
        added = torch.bmm(torch.bmm(mine, left), right).flatten(0, 1).index_select(0, spread.places)
        return torch.add(output, added.view(output.shape), alpha=self.scale)

    def cast_to(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both factors in the network's precision, converted once per block."""
        tracked = torch.is_grad_enabled()  # what was converted without gradient must not stand in for the generated
        if self.cast is None or self.cast[0] != dtype or self.cast[1] != tracked:
            self.cast = dtype, tracked, self.left.to(dtype), self.right.to(dtype)
        return self.cast[2:]


Adapters = Mapping[str, Adapter]
"""The adapter of every layer, by its path."""


class LoRATarget:
    """Adapters for the linear layers `sites` of `network`, which it never changes and whose parameters get no gradient.

    One slot per module and matrix; its members are the layers, which the generator tells apart by their places.
    """

    def __init__(self, network: nn.Module, sites: Sequence[Site], *, rank: int, alpha: float) -> None:
        if rank < 1 or alpha <= 0:
            raise UserError(f"A LoRA needs a rank of at least 1 and a positive alpha, not rank {rank}, alpha {alpha}.")
        self.network = network
        self.sites = tuple(sites)
        self.rank = rank
        self.alpha = alpha
        self.modules = tuple(dict.fromkeys(site.module for site in sites))
        self.spec = TargetSpec(tuple(weight for module in self.modules for weight in self._weights(module)))

    @classmethod
    def from_model(
        cls, model: nn.Module, modules: Sequence[str] = ("q_proj", "v_proj"), rank: int = 8, alpha: float = 16.0
    ) -> LoRATarget:
        """Adapters for every linear layer of `model` whose path ends in one of `modules`."""
        linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        sites = []
        for module in dict.fromkeys(modules):
            paths = [path for path in linear if f".{path}".endswith(f".{module}") and ".experts." not in path]
            if not paths:
                raise UserError(f"The model has no linear module {module!r}; {_nearest(module, linear)}")
            sites += [Site(path, module, linear[path].in_features, linear[path].out_features) for path in paths]
        if not sites or len({site.path for site in sites}) < len(sites):
            raise UserError(f"These modules name no layer, or one twice: {', '.join(modules) or '(none)'}.")
        return cls(model, sites, rank=rank, alpha=alpha)

    def _weights(self, module: str) -> Iterator[WeightSpec]:
        sites = [site for site in self.sites if site.module == module]
        alike = len({(site.inputs, site.outputs) for site in sites}) == 1
        for site in sites:  # A starts with the spread of the usual uniform draw, bounds 1 / sqrt(in)
            slot = module if alike else f"{module}.{site.inputs}x{site.outputs}"
            yield WeightSpec(site.left, (site.inputs, self.rank), f"{slot}.A", std=1.0 / math.sqrt(3.0 * site.inputs))
            yield WeightSpec(site.right, (self.rank, site.outputs), f"{slot}.B")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def apply(self, weights: Weights, inputs: Any) -> Any:
        """What the network gives under every agent's adapters.

        `inputs` are either one tensor `[*batch, *lead, N, D]`, answered by `[*batch, *lead, N, A]`, or a mapping of
        arguments by name, as language models take them, their rows `[M*R, L]` in the order of the agents.
        """
        with self.attached(self.adapters(weights)):
            if isinstance(inputs, Mapping):
                return self.network(**inputs)
            *lead, owners = weights[self.sites[0].left].shape[:-2]
            batch, agents = inputs.shape[: inputs.ndim - 2 - len(lead)], inputs.shape[-2]
            if owners not in (1, agents):
                raise ValueError(f"inputs of {agents} agents for the adapters of {owners}")
            seeds, rows = math.prod(lead), math.prod(batch)
            x = inputs.reshape(rows, seeds, agents, -1).permute(1, 2, 0, 3)  # [S, N, B, D]
            y = self.network(x.reshape(seeds * agents * rows, -1))
            return y.reshape(seeds, agents, rows, -1).permute(2, 0, 1, 3).reshape(*batch, *lead, agents, -1)

    def adapters(self, weights: Weights) -> Adapters:
        """These weights made ready, for many blocks of `attached`."""
        self.spec.check(weights)
        return {site.path: Adapter(weights[site.left], weights[site.right], self.scale) for site in self.sites}

    @contextmanager
    def attached(self, adapters: Adapters, spread: Spread | None = None) -> Iterator[nn.Module]:
        """The network with these adapters in every forward inside; leaving restores it, whatever happened inside.

        The first axis of what its layers see must be `M*R`, the rows of an agent beside each other, unless `spread`
        says where an agent's tokens are; with one adapter all are its. One set of adapters at a time: a second block
        inside the first is refused. If the network checkpoints its activations, the backward pass belongs inside as
        well.
        """
        layers = {site.path: self.network.get_submodule(site.path) for site in self.sites}
        carrying = (path for path, layer in layers.items() if any(map(_is_adapter, layer._forward_hooks.values())))
        if (path := next(carrying, None)) is not None:
            raise RuntimeError(f"{path} carries adapters already; leave that block before attaching others")
        with ExitStack() as stack:
            for path, layer in layers.items():
                hook = adapters[path] if spread is None else _Spreading(adapters[path], spread)
                stack.callback(layer.register_forward_hook(hook).remove)
            yield self.network

    def deltas(self, weights: Weights, agent: int = 0) -> dict[str, Tensor]:
        """What one agent's adapters add to the weights of the network's layers: `{path.weight: [out, in]}`."""
        self.spec.check(weights)
        return {
            f"{site.path}.weight": self.scale * (_one(weights[site.left], agent) @ _one(weights[site.right], agent)).mT
            for site in self.sites
        }


class _Spreading(partial[Tensor]):
    """The hook of an adapter whose tokens are spread."""

    def __new__(cls, adapter: Adapter, spread: Spread) -> _Spreading:
        return super().__new__(cls, adapter.spread, spread)


def _is_adapter(hook: object) -> bool:
    return isinstance(hook, (Adapter, _Spreading))


def _one(tensor: Tensor, agent: int) -> Tensor:
    """Agent number `agent` of `[N, *shape]`, N being 1 where all agents share it."""
    return tensor[agent if len(tensor) > 1 else 0]


def _nearest(module: str, linear: Mapping[str, nn.Linear]) -> str:
    names = sorted({path.rpartition(".")[2] for path in linear})
    close = difflib.get_close_matches(module, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names) or 'none'}."
