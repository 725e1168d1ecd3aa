"""Prompts of many agents as one batch, and its continuation token by token.

Letters: `N` agents, `R` rows of each, `L` tokens, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypermarl.errors import UserError

Network = Callable[..., Any]  # a causal language model: tokens in, `.logits` and `.past_key_values` out


@dataclass(frozen=True)
class Rows:
    """Token rows `[N*R, L]`, those of an agent beside each other, padded on the left.

    An agent with fewer rows than R has rows to fill up, which are not `real [N*R]` and hold a single token.
    """

    ids: Tensor
    mask: Tensor  # [N*R, L], 1 where a token stands
    real: Tensor  # [N*R]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[Sequence[int]]], padding: int, device: Any = "cpu") -> Rows:
        """`prompts[agent][row]` is a list of tokens; every agent needs at least one row."""
        most = max(len(rows) for rows in prompts)
        longest = max(len(row) for rows in prompts for row in rows)
        ids, mask, real = [], [], []
        for rows in prompts:
            for i in range(most):
                row = list(rows[i]) if i < len(rows) else [padding]
                ids.append([padding] * (longest - len(row)) + row)
                mask.append([0] * (longest - len(row)) + [1] * len(row))
                real.append(i < len(rows))
        return cls(*(torch.tensor(each, device=device) for each in (ids, mask, real)))

    def arguments(self) -> dict[str, Tensor]:
        """What a language model is called with."""
        return {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": positions(self.mask)}

    @property
    def padding(self) -> int:
        """A token to fill up with; it is masked wherever it stands."""
        return int(self.ids[0, 0])

    def texts(self) -> list[list[int]]:
        """The tokens of every row."""
        lengths = self.mask.sum(-1).tolist()
        return [row[len(row) - length :] for row, length in zip(self.ids.tolist(), lengths, strict=True)]

    def distinct(self, owners: int) -> tuple[Rows, Tensor | None]:
        """Rows of which no two of an owner are alike, and which of them stands for each row here `[N*R]`; None where
        there is nothing to spare.

        Rows of one owner have one adapter: as many beside each other for each of the `owners`.
        """
        texts, each = [tuple(text) for text in self.texts()], len(self.ids) // owners
        real, blocks = self.real.tolist(), [range(first, first + each) for first in range(0, len(texts), each)]
        once = [list(dict.fromkeys(texts[row] for row in block if real[row])) for block in blocks]
        most = max(map(len, once))
        if most == each:
            return self, None
        known = [{text: owner * most + i for i, text in enumerate(few)} for owner, few in enumerate(once)]
        which = [
            mine[texts[row]] if real[row] else owner * most  # what fills up is never read
            for owner, (block, mine) in enumerate(zip(blocks, known, strict=True))
            for row in block
        ]
        return Rows.of(once, self.padding, self.ids.device), torch.tensor(which, device=self.ids.device)


@dataclass(frozen=True)
class Sampling:
    """How to continue a text: `temperature=0` always takes the most probable token."""

    tokens: int = 64  # at most
    temperature: float = 0.0
    top_p: float = 1.0  # only the most probable tokens that make up this share
    stop: tuple[int, ...] = ()  # tokens that end a row, beside the model's own

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                "Sampling needs at least one token, a temperature of 0 or more and 0 < top_p <= 1, not "
                f"tokens={self.tokens}, temperature={self.temperature}, top_p={self.top_p}."
            )


def positions(mask: Tensor) -> Tensor:
    """`[rows, L]` from the mask: the first token of a row is number 0 wherever padding has put it."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def continuation(
    network: Network,
    rows: Rows,
    owners: int,
    sampling: Sampling,
    stops: frozenset[int],
    rng: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """The next token of every row, step by step: `[N*R]`, -1 for a row that has ended.

    The prompts are read once, one that several rows of an owner have only for one of them, then one token of each row
    at a time with the keys and values kept. Rows end by themselves, at a token of `stops` or `sampling.stop`, which is
    not given out. `network` is called once per step and nothing is held between steps but tensors, so the caller may
    do anything in the meantime.
    """
    ends = torch.tensor(sorted(stops | set(sampling.stop)), dtype=torch.long, device=rows.ids.device)
    running = rows.real.clone()
    first, copies = rows.distinct(owners)
    mask, arguments, cache = rows.mask, first.arguments(), None
    for step in range(sampling.tokens):
        with torch.no_grad():
            out = network(**arguments, past_key_values=cache, use_cache=True, logits_to_keep=1)
            scores = out.logits[:, -1]
            if cache is None and copies is not None:
                scores = scores[copies]
                out.past_key_values.batch_select_indices(copies)
            token = choose(scores, sampling, rng)
            running = running & ~torch.isin(token, ends)
        yield torch.where(running, token, -1)
        if step == sampling.tokens - 1 or not running.any():
            return
        cache = out.past_key_values
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        arguments = {
            "input_ids": token.unsqueeze(-1),
            "attention_mask": mask,
            "position_ids": mask.sum(-1, keepdim=True) - 1,
        }


def choose(logits: Tensor, sampling: Sampling, rng: torch.Generator | None = None) -> Tensor:
    """Tokens `[rows]` for logits `[rows, V]`; each row uses up one random number, whatever it holds."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    shares = torch.softmax(logits.float() / sampling.temperature, -1)
    luck = torch.rand(len(shares), 1, generator=rng, device=rng.device if rng is not None else None).to(shares.device)
    if sampling.top_p < 1:
        shares, order = _largest(shares, sampling.top_p)
        # the most probable token is always in; of the rest, those that begin below the share asked for
        shares = torch.where(shares.cumsum(-1) - shares < sampling.top_p, shares, 0.0)
    above = shares.cumsum(-1)
    drawn = torch.searchsorted(above, luck * above[:, -1:], right=True)
    # in case rounding lets the sum stay below the number drawn: the last token that can be drawn
    last = shares.shape[-1] - 1 - (shares > 0).flip(-1).byte().argmax(-1, keepdim=True)
    drawn = drawn.minimum(last)
    return (order.gather(-1, drawn) if sampling.top_p < 1 else drawn).squeeze(-1)


def _largest(shares: Tensor, enough: float, width: int = 256) -> tuple[Tensor, Tensor]:
    """So many of the largest shares of each row that they make up `enough`, and their tokens; rarely all of them."""
    found = shares.topk(min(width, shares.shape[-1]), -1)
    if found.values.shape[-1] < shares.shape[-1] and (found.values.sum(-1) < enough).any():
        return _largest(shares, enough, 8 * width)
    return found.values, found.indices
