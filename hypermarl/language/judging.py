"""How probable what was said is under given adapters, how sure its speaker was, and how far from the frozen model.

Letters: `n` turns, `Q` questions, `W` words, `T` tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypermarl.language.converse import Answer, Conversation, Question, Speech, pieces, stacked
from hypermarl.language.objectives import divergence, entropy, estimated_divergence

KNOWN = 4096  # questions whose answer by the frozen model is remembered


@dataclass(frozen=True)
class Part:
    """Turns whose loss is one backward pass: all choices among words (`questions`), or all in free text (`answers`)."""

    turns: Tensor  # [n], their numbers in the conversation
    place: Tensor  # [n], which of the questions or answers is a turn's
    picks: Tensor  # [n], which word was chosen; -1 in free text
    questions: tuple[Question, ...] = ()
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What the loss reads of a part: `log_prob` and `counts` (1 where a token is) `[n, T]`, the others `[n]`."""

    log_prob: Tensor
    counts: Tensor
    entropy: Tensor  # of a choice; in free text of a token, on average
    divergence: Tensor  # of a choice; in free text of all tokens; NaN where the frozen model was not asked


def parted(talk: Conversation, device: torch.device, idle: Sequence[bool]) -> list[Part]:
    """First the choices whose graph the rollout has kept, then, in pieces, what is to be read again; where all turns
    of a question or answer are `idle`, with nothing to teach, it comes in pieces of such alone.

    Equal questions, and equal answers to one question, are read once.
    """
    chosen: dict[Question, list[int]] = {}
    written: dict[Answer, list[int]] = {}
    for i, turn in enumerate(talk.turns):
        if turn.answer is None:
            chosen.setdefault(turn.question, []).append(i)
        else:
            written.setdefault(turn.answer, []).append(i)

    def tensors(turns: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        numbers = [i for few in turns for i in few]
        place = [k for k, few in enumerate(turns) for _ in few]
        rows = (numbers, place, [talk.turns[i].choice for i in numbers])
        turns_, place_, picks = (torch.tensor(row, device=device) for row in rows)
        return turns_, place_, picks

    kept = [question for question in chosen if talk.known[question].requires_grad]
    again = [question for question in chosen if not talk.known[question].requires_grad]
    found = [Part(*tensors([chosen[question] for question in kept]), questions=tuple(kept))] if kept else []
    for rests in (False, True):
        asked = [question for question in again if all(idle[i] for i in chosen[question]) == rests]
        for few in pieces(asked, lambda question: (question.owner, question.tokens)):
            found.append(Part(*tensors([chosen[question] for question in few]), questions=tuple(few)))
        told = [answer for answer, turns in written.items() if all(idle[i] for i in turns) == rests]
        for some in pieces(told, lambda answer: (answer.question.owner, (*answer.question.tokens, *answer.tokens))):
            found.append(Part(*tensors([written[answer] for answer in some]), answers=tuple(some)))
    return found


class Judge:
    """Reads parts; `base` is the frozen model by itself, `most` how many prompts new to it one part may show it."""

    def __init__(self, base: Speech, most: int | None = None) -> None:
        self.base = base
        self.most = most
        self._known: dict[Question, Tensor] = {}

    def __call__(self, part: Part, speech: Speech, known: dict[Question, Tensor]) -> Judged:
        """With gradient where it is tracked; `known` are choices as they were made, some with their graph."""
        return self._written(part, speech) if part.answers else self._chosen(part, speech, known)

    def _chosen(self, part: Part, speech: Speech, known: dict[Question, Tensor]) -> Judged:
        rows = [known.get(question) for question in part.questions]
        tracked = torch.is_grad_enabled()
        if any(row is None or (tracked and not row.requires_grad) for row in rows):
            log_probs = stacked(speech.choices(part.questions))
        else:
            log_probs = stacked([row for row in rows if row is not None])
        base, there = self._base(part.questions)
        apart = torch.where(there, divergence(log_probs, base), torch.nan)[part.place]
        said = log_probs[part.place, part.picks].unsqueeze(-1)
        return Judged(said, torch.ones_like(said), entropy(log_probs)[part.place], apart)

    def _base(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """The frozen model's log-probabilities `[Q, W]`, zeros where it was not asked, and where it was `[Q]`."""
        plain = [Question(0, question.tokens, question.words) for question in questions]  # whoever is asked
        fresh = [question for question in dict.fromkeys(plain) if question not in self._known][: self.most]
        if fresh:
            if len(self._known) + len(fresh) > KNOWN:
                self._known.clear()
                fresh = list(dict.fromkeys(plain))[: self.most]
            with torch.no_grad():  # each by itself: in a batch its last bits would depend on what else is new
                self._known.update((question, self.base.choices([question])[0]) for question in fresh)
        device = self.base.backbone.device
        rows = [self._known.get(question, torch.zeros(len(question.words), device=device)) for question in plain]
        return stacked(rows), torch.tensor([question in self._known for question in plain], device=device)

    def _written(self, part: Part, speech: Speech) -> Judged:
        log_prob, counts, spread = speech.written(part.answers)
        lengths = counts.sum(-1).clamp(min=1)
        asked = part.answers[: self.most]
        with torch.no_grad():
            base = self.base.written(asked)[0]
        longest = log_prob.shape[1]
        base = torch.nn.functional.pad(base, (longest - base.shape[1], 0, 0, len(part.answers) - len(asked)))
        apart = (estimated_divergence(log_prob, base) * counts).sum(-1)
        there = torch.arange(len(part.answers), device=apart.device) < len(asked)
        apart = torch.where(there, apart, torch.nan)
        place = part.place
        return Judged(log_prob[place], counts[place], (spread.sum(-1) / lengths)[place], apart[place])
