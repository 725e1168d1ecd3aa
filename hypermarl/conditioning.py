"""Who an agent is, as numbers: ids, learned embeddings or given features.

Letters: `S` seeds, `N` agents, `d` conditioning, `f` features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypermarl.discriminants import clear_directions
from hypermarl.errors import UserError

CLEAR, RIDGE = 1.0, 1e-4  # of many facts even the faintest is wanted (experiments/LOG.md): see `discriminants`


class OneHot(nn.Module):
    """Agents told apart by number only: ids `[N]`, read as rows of a table by the generator; None is all in order."""

    def __init__(self, agents: int) -> None:
        super().__init__()
        self.dim = agents

    def forward(self, ids: Tensor | None = None) -> Tensor | None:
        return ids


class Nobody(nn.Module):
    """No conditioning: all agents are one, `[1, 0]`."""

    empty: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dim = 0
        self.register_buffer("empty", torch.zeros(1, 0), persistent=False)

    def forward(self, ids: Tensor | None = None) -> Tensor:
        return self.empty


class AgentTable(nn.Module):
    """A learned embedding per agent, orthogonal at the start (arXiv 2412.04233, section 4.2): `[*lead, N, d]`."""

    def __init__(self, agents: int, dim: int, rng: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        start = nn.init.orthogonal_(torch.empty(agents, dim), math.sqrt(2.0), generator=rng)
        self.weight = nn.Parameter(start)

    def forward(self, ids: Tensor | None = None) -> Tensor:
        return self.weight if ids is None else self.weight.index_select(-2, ids)

    @torch.no_grad()
    def add(self, embedding: Tensor) -> int:
        """Append agents `[*lead, k, d]`, or one `[d]`, such as a mixture of known ones; returns the first new id."""
        rows = embedding.to(self.weight)
        rows = rows.unsqueeze(0) if rows.ndim == 1 else rows
        first = self.weight.shape[-2]
        rows = rows.expand(*self.weight.shape[:-2], *rows.shape[-2:])
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows], -2))
        return first


class Features(nn.Module):
    """Given descriptions of the agents, standardised over the training agents: `[N, f]`, no parameter of its own.

    Agents that were not there in training are described by their features alone: `conditioner(features)`.
    """

    rows: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        super().__init__()
        table = torch.tensor([list(row) for row in rows], dtype=torch.float32)
        if table.ndim != 2 or not table.numel():
            raise UserError("sharing.features needs one row of numbers per agent, all of one length.")
        self.dim = table.shape[1]
        self.register_buffer("rows", table)
        self.register_buffer("mean", table.mean(0))
        spread = table.std(0, correction=0)
        self.register_buffer("scale", torch.where(spread > 0, spread, torch.ones_like(spread)))

    def forward(self, features: Tensor | None = None) -> Tensor:
        rows = self.rows if features is None else features.to(self.rows)
        # A row that stacking put under a seeds axis stays as it is: the mean and scale carry the same axes.
        return (rows - self.mean.unsqueeze(-2)) / self.scale.unsqueeze(-2)


class Described(nn.Module):
    """Encoded descriptions `[N, f]`, centred over those known at the start, mapped to `[N, d]`.

    The map is found at the start and not trained: a generator's first layer is linear and learns all that a map could,
    and through a map of hundreds of features a step of the optimiser moves codes by far too much (training it cost
    unseen wordings more than seen ones, experiments/LOG.md).

    With `ids`, every known agent adds an embedding of its own, which starts at zero: by name and by description. An
    agent that was not there in training is known by its description alone: `conditioner(encoded)`.

    With `wordings [N, M, f]`, M ways to describe each known agent, features are standardised one by one, and the map
    is along what tells agents apart in spite of how they are worded; with `evenly`, all that does so clearly counts
    alike, as when a text says many things: see `discriminants`. Faint directions make much of what is new in a text;
    codes are then kept to the size of the largest known one, or adapters of texts in other words than those of training
    write noise.
    """

    rows: Tensor
    mean: Tensor
    scale: Tensor
    map: Tensor

    def __init__(
        self,
        rows: Tensor,
        dim: int,
        rng: torch.Generator,
        *,
        ids: bool = False,
        wordings: Tensor | None = None,
        evenly: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        rows = rows.float()
        self.register_buffer("rows", rows)
        known = rows if wordings is None else wordings.float().flatten(0, 1)
        self.register_buffer("mean", known.mean(0) if len(known) > 1 else torch.zeros_like(rows[0]))
        squares = (known - self.mean).square()
        spread = (squares.mean().expand(len(self.mean)) if wordings is None else squares.mean(0)).sqrt()
        self.register_buffer("scale", torch.where(spread > 0, spread, torch.ones_like(spread)))
        if wordings is None:
            start = _principal((rows - self.mean) / self.scale, dim, rng)
        elif evenly:
            standard = (wordings.float() - self.mean) / self.scale
            _, directions = clear_directions(standard, dim, rng, clear=CLEAR, ridge=RIDGE)  # centred already
            start = torch.nn.functional.pad(directions.float(), (0, dim - directions.shape[1]))
        else:
            start = _discriminant((wordings.float() - self.mean) / self.scale, dim, rng)
        self.register_buffer("map", start)
        self.own = nn.Parameter(torch.zeros(len(rows), dim)) if ids else None
        self.evenly = evenly
        self._reach: Tensor | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def forward(self, who: Tensor | None = None) -> Tensor:
        """Of known agents by number `[N]` (None: all of them), or of whoever is described so, `[N, f]`."""
        known = who is None or not who.is_floating_point()
        rows = self.rows if who is None else self.rows[who] if known else who.to(self.rows)
        code = (rows - self.mean) / self.scale @ self.map
        if self.evenly and not known:
            size = code.norm(dim=-1, keepdim=True)
            code = torch.where(size > self.reach, code * self.reach / size, code)
        if self.own is None or not known:
            return code
        return code + (self.own if who is None else self.own[who])

    @property
    def reach(self) -> Tensor:
        """How long the longest code of a known agent is."""
        if self._reach is None or self._reach.device != self.map.device:
            self._reach = ((self.rows - self.mean) / self.scale @ self.map).norm(dim=-1).max()
        return self._reach


def _forget(described: Described, _: object) -> None:
    """Other agents are known now."""
    described._reach = None


def _discriminant(wordings: Tensor, dim: int, rng: torch.Generator) -> Tensor:
    """`[f, d]`, onto the directions in which agents differ most for how much the wordings `[N, M, f]` of one differ
    (Fisher's discriminants, of standardised features and one unit of noise in each), such that wordings differ alike
    along all of them.

    Reworded roles were nearest to their own role in 96 of 100 cases along these, in 89 along principal directions
    (experiments/LOG.md).
    """
    whole = wordings.double()
    centres = whole.mean(1)
    within = (whole - centres.unsqueeze(1)).flatten(0, 1)
    noisy = within.mT @ within / len(within) + torch.eye(whole.shape[-1], dtype=torch.double)
    whitened = torch.linalg.inv(torch.linalg.cholesky(noisy)).mT  # in which one agent's wordings differ alike all ways
    return (whitened @ _principal(centres @ whitened, dim, rng, root=False).double()).float()


def _principal(rows: Tensor, dim: int, rng: torch.Generator, *, root: bool = True) -> Tensor:
    """`[f, d]`, onto the directions in which `rows [n, f]` differ most, then random ones across them, such that codes
    have root mean square 1. With `root`, strong directions are ahead of weak ones by the root of their ratio only.

    Random directions alone lose who is who: of 384 features in 32, 69 of 100 reworded roles were nearest to their own
    role, along the principal ones 89, and 91 with all features (experiments/LOG.md).
    """
    features = rows.shape[-1]
    start = torch.randn(features, dim, generator=rng) / math.sqrt(features)
    apart = (rows - rows.mean(0)).double()
    _, spread, directions = torch.linalg.svd(apart, full_matrices=False)
    count = min(dim, int((spread > 1e-3 * spread[0]).sum()))
    if len(rows) == 1 or not count:
        return start
    found, start = directions[:count].mT, start.double()
    start[:, count:] -= found @ (found.mT @ start[:, count:])
    start[:, :count] = found * (spread[0] / spread[:count]).sqrt() if root else found
    return (start / (apart @ start).square().mean().sqrt()).float()


Conditioner = OneHot | Nobody | AgentTable | Features


def make_conditioner(
    kind: str, agents: int, dim: int, features: Sequence[Sequence[float]], rng: torch.Generator
) -> Conditioner:
    """The conditioner of `kind` (none, one_hot, table, features) for a group of N agents."""
    if kind == "none":
        return Nobody()
    if kind == "one_hot":
        return OneHot(agents)
    if kind == "features":
        if len(features) != agents:
            raise UserError(f"sharing.features has {len(features)} rows for {agents} agents.")
        return Features(features)
    if kind != "table":
        raise UserError(f"sharing.conditioning={kind} reads words, which control agents have none of.")
    return AgentTable(agents, dim, rng)
