"""A swarm: one frozen language model, an adapter for every agent, all agents answering in one batch.

Letters: `N` agents, `R` rows of each, `V` vocabulary.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.backbone import Backbone
from hypermarl.language.room import check_room, row_bytes
from hypermarl.language.rows import Rows, Sampling, continuation
from hypermarl.spec import Weights
from hypermarl.targets.lora import Adapters, LoRATarget

Prompts = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an agent's answer, as soon as it is written."""

    agent: str
    row: int
    text: str


class Swarm:
    """Named agents on one frozen model; `weights` are their adapters, `{name: [N, *shape]}`."""

    def __init__(self, backbone: Backbone, target: LoRATarget, agents: Sequence[str], weights: Weights) -> None:
        if target.network is not backbone.model:
            raise ValueError("the adapters were made for another model object than the swarm's")
        if not agents or len(set(agents)) < len(agents):
            raise UserError("A swarm needs agents, each with a name of its own.")
        for name, tensor in weights.items():
            if tensor.ndim != 3 or len(tensor) not in (1, len(agents)):
                raise ValueError(f"{name!r} {tuple(tensor.shape)} does not fit {len(agents)} agents")
        target.spec.check(weights)
        self.backbone = backbone
        self.target = target
        self.agents = tuple(agents)
        self.weights = weights

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory of the frozen model and of all adapters together."""
        sizes = {"model": list(self.backbone.model.parameters()), "adapters": list(self.weights.values())}
        return {part: sum(t.numel() * t.element_size() for t in tensors) for part, tensors in sizes.items()}

    def generate(
        self,
        prompts: Prompts,
        sampling: Sampling | None = None,
        *,
        chat: bool | None = None,
        rng: torch.Generator | None = None,
        listen: Callable[[Piece], None] | None = None,
    ) -> dict[str, Any]:
        """Every agent's answer: a text for a prompt, a list of texts for a list of prompts.

        `chat` is as for `Backbone.encode`; `rng` draws where `sampling` has a temperature; `listen` hears each piece as
        soon as it is written.
        """
        texts, owners = self._asked(prompts)
        told = _Told(self.backbone, owners)
        for tokens in self._tokens(prompts, texts, sampling or Sampling(), chat, rng):
            told.take(tokens)
            if listen is not None:
                for piece in told.news():
                    listen(piece)
        if listen is not None:
            for piece in told.news(end=True):
                listen(piece)
        answers: dict[str, Any] = {agent: [] for agent in prompts}
        for (agent, _), written in zip(owners, told.written, strict=True):
            answers[agent].append(self.backbone.decode(written))
        return {
            agent: answers[agent][0] if isinstance(asked, str) else answers[agent] for agent, asked in prompts.items()
        }

    def stream(
        self,
        prompts: Prompts,
        sampling: Sampling | None = None,
        *,
        chat: bool | None = None,
        rng: torch.Generator | None = None,
    ) -> Iterator[Piece]:
        """As `generate`, piece by piece; between pieces the model is free for other uses."""
        texts, owners = self._asked(prompts)
        told = _Told(self.backbone, owners)
        for tokens in self._tokens(prompts, texts, sampling or Sampling(), chat, rng):
            told.take(tokens)
            yield from told.news()
        yield from told.news(end=True)

    def logits(self, prompts: Prompts, *, chat: bool | None = None) -> dict[str, Tensor]:
        """Scores of what would come next, `[R, V]` for each agent."""
        texts, owners = self._asked(prompts)
        rows = self._rows(texts, chat, 0)
        with torch.no_grad(), self.target.attached(self._adapters(prompts)) as model:
            scores = model(**rows.arguments(), use_cache=False, logits_to_keep=1).logits[:, -1][rows.real]
        return {agent: scores[[i for i, owner in enumerate(owners) if owner[0] == agent]] for agent in prompts}

    def _asked(self, prompts: Prompts) -> tuple[list[list[str]], list[tuple[str, int]]]:
        """The texts of each agent asked, and whose each row is."""
        for agent in prompts:
            if agent not in self.agents:
                close = difflib.get_close_matches(agent, self.agents, n=1)
                known = f"did you mean {close[0]!r}" if close else f"it has {', '.join(self.agents)}"
                raise UserError(f"There is no agent {agent!r} in this swarm; {known}.")
        texts = [[asked] if isinstance(asked, str) else list(asked) for asked in prompts.values()]
        if not texts or not all(texts):
            raise UserError("Nothing was asked: give every agent named at least one prompt.")
        return texts, [(agent, row) for agent, rows in zip(prompts, texts, strict=True) for row in range(len(rows))]

    def _rows(self, texts: list[list[str]], chat: bool | None, more: int) -> Rows:
        tokens = [[self.backbone.encode(text, chat=chat) for text in rows] for rows in texts]
        longest = max(len(row) for rows in tokens for row in rows)
        if longest + more > self.backbone.window:
            raise UserError(
                f"A prompt of {longest} tokens and an answer of {more} are longer than the {self.backbone.window} "
                "tokens this model reads."
            )
        most = max(len(rows) for rows in tokens)
        check_room(self.backbone.device, len(tokens), most * row_bytes(self.backbone, longest + more))
        return Rows.of(tokens, self.backbone.padding, self.backbone.device)

    def _adapters(self, agents: Prompts) -> Adapters:
        """Those of the agents asked, in the order they were asked in."""
        order = [self.agents.index(agent) for agent in agents]
        if order == list(range(len(self.agents))):
            return self.target.adapters(self.weights)
        picked = {name: t if len(t) == 1 else t[order] for name, t in self.weights.items()}
        return self.target.adapters(picked)

    def _tokens(
        self,
        prompts: Prompts,
        texts: list[list[str]],
        sampling: Sampling,
        chat: bool | None,
        rng: torch.Generator | None,
    ) -> Iterator[list[int]]:
        """The next token of every real row, -1 for one that has ended."""
        rows = self._rows(texts, chat, sampling.tokens)
        adapters = self._adapters(prompts)

        def network(**arguments: Any) -> Any:
            with self.target.attached(adapters) as model:
                return model(**arguments)

        for tokens in continuation(network, rows, sampling, self.backbone.stops, rng):
            yield tokens[rows.real].tolist()


class _Told:
    """What was written so far, and how much of it was told."""

    def __init__(self, backbone: Backbone, owners: list[tuple[str, int]]) -> None:
        self.backbone = backbone
        self.owners = owners
        self.written: list[list[int]] = [[] for _ in owners]
        self.told = ["" for _ in owners]

    def take(self, tokens: list[int]) -> None:
        for written, token in zip(self.written, tokens, strict=True):
            if token >= 0:
                written.append(token)

    def news(self, end: bool = False) -> Iterator[Piece]:
        """What is new; a letter of which only some bytes are there waits for the others."""
        for i, (agent, row) in enumerate(self.owners):
            text = self.backbone.decode(self.written[i])
            if len(text) > len(self.told[i]) and (end or not text.endswith("\N{REPLACEMENT CHARACTER}")):
                yield Piece(agent, row, text[len(self.told[i]) :])
                self.told[i] = text
