"""Examples of many roles as one batch, what the agents should write at its end, and how right they are.

Letters: `N` roles, `R` rows of each, `L` tokens, `A` tokens of the longest answer, `P` of all answers, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.agents import framed
from hypermarl.language.backbone import Backbone
from hypermarl.language.packing import pack
from hypermarl.language.rows import Rows
from hypermarl.language.task import Example
from hypermarl.spec import Weights
from hypermarl.targets import LoRATarget


@dataclass(frozen=True)
class Lesson:
    """Rows of `agents` that end in their answers: `wanted [N*R, A]` the tokens to write, right-aligned, where `counts`
    is 1.

    There are `P` tokens to write in all; only for them a model is asked for scores, `[P, V]`, row by row.
    """

    agents: int
    rows: Rows
    wanted: Tensor
    counts: Tensor

    def scores(self, backbone: Backbone, target: LoRATarget | None = None, weights: Weights | None = None) -> Tensor:
        """`[P, V]`: what the model expects at every token of the answers, under these adapters or by itself.

        The model is spared all padding, and what rows of one adapter begin with alike is read once.
        """
        alike = weights is None or all(len(tensor) == 1 for tensor in weights.values())
        packed = pack(self.rows, 1 if alike else self.agents, backbone.attention)
        longest = self.counts.shape[1]
        spots = packed.where[:, -longest - 1 : -1][self.counts.bool()]  # a token is expected by the one before it
        if target is None or weights is None:
            return packed.scores(backbone, spots).float()
        with target.attached(target.adapters(weights), packed.spread):
            return packed.scores(backbone, spots).float()

    @property
    def owners(self) -> Tensor:
        """`[P]`, the row of each token."""
        return self.counts.nonzero()[:, 0]

    @property
    def tokens(self) -> Tensor:
        """`[P]`, the tokens to write."""
        return self.wanted[self.counts.bool()]


def lesson(
    backbone: Backbone,
    frame: str,
    examples: Sequence[Sequence[Example]],
    roles: Sequence[str | None],
    *,
    ends: Sequence[Sequence[bool]] | None = None,
) -> Lesson:
    """`examples[role][row]`; `roles[role]` is what its prompts begin with, if anything.

    Where `ends` is false the answer may go on: its end is neither taught nor asked for.
    """
    prompts: list[list[list[int]]] = []
    answers: list[list[list[int]]] = []
    eos = backbone.tokenizer.eos_token_id
    stop = [eos if eos is not None else min(backbone.stops)]
    for i, (few, role) in enumerate(zip(examples, roles, strict=True)):
        written = [
            answer_tokens(backbone, frame, example.answer) + (stop if ends is None or ends[i][j] else [])
            for j, example in enumerate(few)
        ]
        answers.append(written)
        prompts.append(
            [framed(backbone, frame, example.prompt, role) + end for example, end in zip(few, written, strict=True)]
        )
    rows = Rows.of(prompts, backbone.padding, backbone.device)
    if rows.ids.shape[1] > backbone.window:
        raise UserError(f"An example of {rows.ids.shape[1]} tokens is longer than the {backbone.window} a model reads.")
    longest = max(len(answer) for told in answers for answer in told)
    counts = torch.zeros(len(rows.ids), longest, device=backbone.device)
    most = max(map(len, answers))
    for i, told in enumerate(answers):
        for j, answer in enumerate(told):
            counts[i * most + j, longest - len(answer) :] = 1.0
    return Lesson(len(examples), rows, rows.ids[:, -longest:], counts)


def answer_tokens(backbone: Backbone, frame: str, answer: str) -> list[int]:
    """An answer as it follows a prompt: after a space, except where a chat's turn begins with it."""
    text = answer if frame == "chat" else f" {answer}"
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def first_tokens(backbone: Backbone, frame: str, words: Sequence[str]) -> tuple[int, ...]:
    """What each word begins with; a UserError where two begin alike, as they could not be told apart."""
    firsts: dict[int, str] = {}
    for word in words:
        token = answer_tokens(backbone, frame, word)[0]
        if token in firsts:
            raise UserError(
                f"The words {firsts[token]!r} and {word!r} begin with the same token of {backbone.name}, so a choice "
                "between them cannot be read; give words that begin differently."
            )
        firsts[token] = word
    return tuple(firsts)


def surprise(scores: Tensor, given: Lesson) -> Tensor:
    """`[P]`: minus the log-probability of each token of the answers."""
    return torch.nn.functional.cross_entropy(scores, given.tokens, reduction="none")


def divergence(scores: Tensor, base: Tensor) -> Tensor:
    """`[P]`: KL from what the base expects, `base [P, V]`, to what the agents do."""
    told, student = base.log_softmax(-1), scores.log_softmax(-1)
    return (told.exp() * (told - student)).sum(-1)


def right(scores: Tensor, given: Lesson) -> Tensor:
    """`[N*R]` bool: greedy writing would give exactly the answer, as every token of it is the likeliest after those
    before it."""
    wrong = (scores.argmax(-1) != given.tokens).long()
    return torch.zeros(len(given.counts), dtype=torch.long, device=scores.device).index_add(0, given.owners, wrong) == 0


def chosen(backbone: Backbone, frame: str, scores: Tensor, given: Lesson, examples: Sequence[Example]) -> list[bool]:
    """Whether the answer is the likeliest of an example's choices, told apart by their first tokens."""
    found = []
    starts = given.counts.sum(-1).long().cumsum(0) - given.counts.sum(-1).long()
    for start, example in zip(starts.tolist(), examples, strict=True):
        tokens = [answer_tokens(backbone, frame, choice)[0] for choice in example.choices]
        best = int(scores[start, tokens].argmax())
        found.append(tokens[best] == answer_tokens(backbone, frame, example.answer)[0])
    return found
