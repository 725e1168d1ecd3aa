"""Examples of many roles as one batch, what the agents should write at its end, and how right they are.

Letters: `N` roles, `R` rows of each, `L` tokens, `A` tokens of the longest answer, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.agents import framed
from hypermarl.language.backbone import Backbone
from hypermarl.language.rows import Rows
from hypermarl.language.task import Example


@dataclass(frozen=True)
class Lesson:
    """Rows that end in their answers: `wanted [N*R, A]` the tokens to write, right-aligned; `counts` where 1."""

    rows: Rows
    wanted: Tensor
    counts: Tensor

    @property
    def keep(self) -> int:
        """How many positions at the end a model must be asked for, to score all answers."""
        return self.wanted.shape[1] + 1

    def arguments(self) -> dict[str, Any]:
        return {**self.rows.arguments(), "use_cache": False, "logits_to_keep": self.keep}


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
    stop = next(iter(sorted(backbone.stops)))
    end = backbone.tokenizer.eos_token_id if backbone.tokenizer.eos_token_id is not None else stop
    for i, (few, role) in enumerate(zip(examples, roles, strict=True)):
        written = [
            answer_tokens(backbone, frame, example.answer) + ([end] if ends is None or ends[i][j] else [])
            for j, example in enumerate(few)
        ]
        answers.append(written)
        prompts.append(
            [framed(backbone, frame, example.prompt, role) + told for example, told in zip(few, written, strict=True)]
        )
    rows = Rows.of(prompts, backbone.padding, backbone.device)
    if rows.ids.shape[1] > backbone.window:
        raise UserError(f"An example of {rows.ids.shape[1]} tokens is longer than the {backbone.window} a model reads.")
    longest = max(len(answer) for few in answers for answer in few)
    counts = torch.zeros(len(rows.ids), longest, device=backbone.device)
    most = max(map(len, answers))
    for i, few in enumerate(answers):
        for j, answer in enumerate(few):
            counts[i * most + j, longest - len(answer) :] = 1.0
    return Lesson(rows, rows.ids[:, -longest:], counts)


def answer_tokens(backbone: Backbone, frame: str, answer: str) -> list[int]:
    """An answer as it follows a prompt: after a space, except where a chat's turn begins with it."""
    text = answer if frame == "chat" else f" {answer}"
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def surprise(logits: Tensor, given: Lesson) -> Tensor:
    """`[N*R, A]`: minus the log-probability of each token of the answers, 0 beside them. Logits `[N*R, A+1, V]`."""
    scores = logits[:, :-1].float()
    found = torch.nn.functional.cross_entropy(scores.transpose(1, 2), given.wanted, reduction="none")
    return found * given.counts


def divergence(logits: Tensor, base: Tensor, given: Lesson) -> Tensor:
    """`[N*R, A]`: KL from what the base says to what the agents say, at the tokens of the answers. Logits as above."""
    told, student = (x[:, :-1].float().log_softmax(-1) for x in (base, logits))
    return (told.exp() * (told - student)).sum(-1) * given.counts


def right(logits: Tensor, given: Lesson) -> Tensor:
    """`[N*R]` bool: greedy writing would give exactly the answer, as every token of it is the likeliest after those
    before it."""
    likeliest = logits[:, :-1].argmax(-1) == given.wanted
    return (likeliest | (given.counts == 0)).all(-1)


def chosen(backbone: Backbone, frame: str, logits: Tensor, given: Lesson, examples: Sequence[Example]) -> list[bool]:
    """Whether the answer is the likeliest of an example's choices, told apart by their first tokens."""
    found = []
    for scores, counts, example in zip(logits, given.counts, examples, strict=True):
        first = int(counts.numel() - counts.sum())
        tokens = [answer_tokens(backbone, frame, choice)[0] for choice in example.choices]
        best = int(scores[first, tokens].argmax())
        answer = answer_tokens(backbone, frame, example.answer)[0]
        found.append(tokens[best] == answer)
    return found
