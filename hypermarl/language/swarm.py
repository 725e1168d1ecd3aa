"""A swarm: one frozen language model, an adapter for every agent, all agents answering in one batch.

Letters: `N` agents, `R` rows of each, `V` vocabulary.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.agents import framed
from hypermarl.language.backbone import Backbone
from hypermarl.language.lessons import first_tokens
from hypermarl.language.room import check_room, row_bytes
from hypermarl.language.rows import Rows, Sampling, continuation
from hypermarl.language.rows import choose as pick
from hypermarl.spec import Weights
from hypermarl.targets.lora import Adapters, LoRATarget

Prompts = Mapping[str, str | Sequence[str]]
Likeness = str | Mapping[str, float]
"""A known agent, or how much of each a newcomer is."""
GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an agent's answer, as soon as it is written."""

    agent: str
    row: int
    text: str


class Author(Protocol):
    """Writes adapters, so that newcomers can join: a trained generator, see `hypermarl.language.load`."""

    @property
    def alike(self) -> bool:
        """Whether all agents have one adapter."""

    @property
    def prompted(self) -> bool:
        """Whether who an agent is stands in its prompts."""

    def code(self, text: str | None, agent: str | None = None) -> Tensor:
        """What the generator reads of an agent, `[1, d]`."""

    def mixed(self, codes: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """What it reads of one between others."""

    def weights(self, codes: Sequence[Tensor]) -> Weights:
        """Adapters, `[N, *shape]`."""


def check_known(agent: str, agents: Sequence[str]) -> None:
    """A UserError unless `agent` is one of them."""
    if agent not in agents:
        close = difflib.get_close_matches(agent, agents, n=1)
        known = f"did you mean {close[0]!r}?" if close else f"it has {_few(agents)}."
        raise UserError(f"There is no agent {agent!r} in this swarm; {known}")


class Swarm:
    """Named agents on one frozen model; `weights` are their adapters, `{name: [N, *shape]}`."""

    def __init__(
        self,
        backbone: Backbone,
        target: LoRATarget,
        agents: Sequence[str],
        weights: Weights,
        *,
        frame: str | None = None,
        roles: Mapping[str, str] | None = None,
        author: Author | None = None,
        codes: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`frame` is put around prompts unless a call says `chat` (None: as `Backbone.encode` does it), and `roles` are
        what an agent's prompts begin with; `author` wrote the weights for agents of these `codes`, and can write more.
        """
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
        self.weights = dict(weights)
        self.frame = frame
        self.roles = dict(roles or {})
        self.author = author
        self.codes = dict(codes or {})

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory of the frozen model and of all adapters together."""
        sizes = {"model": list(self.backbone.model.parameters()), "adapters": list(self.weights.values())}
        return {part: sum(t.numel() * t.element_size() for t in tensors) for part, tensors in sizes.items()}

    def add(self, agent: str, *, role: str | None = None, like: Likeness | None = None) -> None:
        """Let a newcomer join: its adapter is generated, nothing is trained, nobody else changes.

        `role` describes it in words; `like` names a known agent, or says how much of each it is.
        """
        if agent in self.agents:
            raise UserError(f"There is an agent {agent!r} in this swarm already.")
        weights, code = self._made(role, like)
        for name, mine in weights.items():
            known = self.weights[name]
            if len(known) > 1 or not torch.equal(known, mine):  # else all share it, the newcomer too
                self.weights[name] = torch.cat([known.expand(len(self.agents), -1, -1), mine])
        self.agents = (*self.agents, agent)
        self.codes[agent] = code
        if role is not None and self.author is not None and self.author.prompted:
            self.roles[agent] = role

    @contextmanager
    def agent(self, text: str | None = None, *, like: Likeness | None = None) -> Iterator[Guest]:
        """An agent for as long as the block lasts: `with swarm.agent(text="...") as agent: agent.generate(prompt)`."""
        weights, _ = self._made(text, like)
        roles = {GUEST: text} if text is not None and self.author is not None and self.author.prompted else None
        guest = Guest(Swarm(self.backbone, self.target, [GUEST], weights, frame=self.frame, roles=roles))
        try:
            yield guest
        finally:
            guest.leave()

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
        rows = self._rows(prompts, texts, chat, 0)
        with torch.no_grad(), self.target.attached(self._adapters(prompts)) as model:
            scores = model(**rows.arguments(), use_cache=False, logits_to_keep=1).logits[:, -1][rows.real]
        return {agent: scores[[i for i, owner in enumerate(owners) if owner[0] == agent]] for agent in prompts}

    def choose(
        self,
        prompts: Prompts,
        words: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        temperature: float = 0.0,
        chat: bool | None = None,
        rng: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """Every agent's choice among `words`, the same for all or each agent's own: a word for a prompt, a list of
        words for a list of prompts.

        This is how agents act that were trained by reward where actions are words. Words are told apart by their first
        tokens; `temperature` and `rng` are as for `Sampling` and `generate`.
        """
        for agent in prompts:
            check_known(agent, self.agents)
        offered = {agent: words.get(agent, ()) if isinstance(words, Mapping) else words for agent in prompts}
        if odd := [agent for agent, some in offered.items() if isinstance(some, str) or not some]:
            raise UserError(f"Agent {odd[0]!r} has nothing to choose from; give a list of words.")
        chats = self.frame is None and bool(getattr(self.backbone.tokenizer, "chat_template", None))
        frame = "chat" if (chats if chat is None else chat) or self.frame == "chat" else ""
        firsts = {agent: list(first_tokens(self.backbone, frame, some)) for agent, some in offered.items()}
        said: dict[str, Any] = {}
        for agent, scores in self.logits(prompts, chat=chat).items():
            picks = pick(scores[:, firsts[agent]], Sampling(1, temperature), rng).tolist()
            chosen = [offered[agent][i] for i in picks]
            said[agent] = chosen[0] if isinstance(prompts[agent], str) else chosen
        return said

    def _asked(self, prompts: Prompts) -> tuple[list[list[str]], list[tuple[str, int]]]:
        """The texts of each agent asked, and whose each row is."""
        for agent in prompts:
            check_known(agent, self.agents)
        texts = [[asked] if isinstance(asked, str) else list(asked) for asked in prompts.values()]
        if not texts or not all(texts):
            raise UserError("Nothing was asked: give every agent named at least one prompt.")
        return texts, [(agent, row) for agent, rows in zip(prompts, texts, strict=True) for row in range(len(rows))]

    def _made(self, role: str | None, like: Likeness | None) -> tuple[Weights, Tensor]:
        """The adapter of a newcomer, and its code."""
        author = self.author
        if author is None:
            raise UserError(
                "Nobody can join a swarm without a generator; hypermarl.load_swarm(RUN) gives one with its."
            )
        if (role is None) == (like is None):
            raise UserError("Say who a newcomer is either in words, role=..., or by whom it is like, like=...")
        if role is not None:
            if not role.strip():
                raise UserError("A description is empty; say in words what it should be.")
            code = author.code(role)
        else:
            assert like is not None
            if author.prompted:
                raise UserError("In this swarm who an agent is stands in its prompt; describe a newcomer by role=...")
            shares = {like: 1.0} if isinstance(like, str) else dict(like)
            for agent in shares:
                check_known(agent, self.agents)
            if not shares or not all(math.isfinite(share) for share in shares.values()):
                raise UserError("like= needs at least one agent, and a finite number for each.")
            code = author.mixed([self.codes[agent] for agent in shares], list(shares.values()))
        return author.weights([code]), code

    def _encode(self, agent: str, text: str, chat: bool | None) -> list[int]:
        role = self.roles.get(agent)
        if self.frame is None or chat is not None or not text.strip():
            return self.backbone.encode(text, chat=chat, system=role)
        return framed(self.backbone, self.frame, text, role)

    def _rows(self, prompts: Prompts, texts: list[list[str]], chat: bool | None, more: int) -> Rows:
        tokens = [
            [self._encode(agent, text, chat) for text in rows] for agent, rows in zip(prompts, texts, strict=True)
        ]
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
        rows = self._rows(prompts, texts, chat, sampling.tokens)
        adapters = self._adapters(prompts)

        def network(**arguments: Any) -> Any:
            with self.target.attached(adapters) as model:
                return model(**arguments)

        owners = max(adapter.count for adapter in adapters.values())
        for tokens in continuation(network, rows, owners, sampling, self.backbone.stops, rng):
            yield tokens[rows.real].tolist()


class Guest:
    """One agent that is not of the swarm, from `Swarm.agent`; gone when its block ends."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm: Swarm | None = swarm

    def generate(self, prompt: str | Sequence[str], sampling: Sampling | None = None, **options: Any) -> Any:
        """A text for a prompt, texts for several; options as for `Swarm.generate`."""
        return self._present().generate({GUEST: prompt}, sampling, **options)[GUEST]

    def logits(self, prompt: str | Sequence[str], *, chat: bool | None = None) -> Tensor:
        """Scores of what would come next, `[R, V]`."""
        return self._present().logits({GUEST: prompt}, chat=chat)[GUEST]

    def choose(self, prompt: str | Sequence[str], words: Sequence[str], **options: Any) -> Any:
        """A word for a prompt, words for several; options as for `Swarm.choose`."""
        return self._present().choose({GUEST: prompt}, words, **options)[GUEST]

    def leave(self) -> None:
        """Let go of the adapter."""
        self._swarm = None

    def _present(self) -> Swarm:
        if self._swarm is None:
            raise UserError("The block of this agent has ended, and with it the agent; open another.")
        return self._swarm


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")


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
