"""Agents of words in environments of words: what they are asked, how probable each answer is, and what it earned.

Where legal words are few the policy is a choice among them, by the first token of each; else an answer is written token
by token. Equal questions to equal adapters are one row of a forward pass, however many copies ask them.

Letters: `Q` questions, `W` words of the longest choice, `n` answers, `T` tokens of the longest, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.agents import framed
from hypermarl.language.backbone import Backbone
from hypermarl.language.lessons import first_tokens
from hypermarl.language.packing import alike, pack
from hypermarl.language.rows import Rows, Sampling, choose, continuation
from hypermarl.language.settings import LanguageConfig
from hypermarl.spec import Weights
from hypermarl.targets.lora import Adapters, LoRATarget, Spread

PIECE = 4096  # tokens of a pass: what an update keeps for its gradient at a time
Item = TypeVar("Item")
LONGEST = 10_000  # steps of an episode that is taken for one without end


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to the adapters number `owner`; `words` are the first tokens of what may be said, () for any text."""

    owner: int
    tokens: tuple[int, ...]
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens written to a question; `ended` if it stopped by itself, which counts as one more token."""

    question: Question
    tokens: tuple[int, ...]
    ended: bool

    @property
    def length(self) -> int:
        return len(self.tokens) + self.ended


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's answer in one copy: `choice` is the number of the word said, or -1 with an `answer` in free text."""

    copy: int
    step: int
    agent: str
    prompt: str
    said: str
    question: Question
    choice: int
    answer: Answer | None = None


class Speech:
    """The frozen model under given adapters (None: by itself), as a policy over answers.

    `room` is for how many tokens the graph of choices may be held; None: for all.
    """

    def __init__(
        self,
        backbone: Backbone,
        target: LoRATarget,
        weights: Weights | None,
        temperature: float,
        room: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.target = target
        self.weights = weights
        self.temperature = temperature
        self.room = room
        self._made: dict[tuple[int, ...], Adapters] = {}

    def choices(self, questions: Sequence[Question]) -> list[Tensor]:
        """Log-probabilities of each question's words; with gradient as long as there is `room` for its graph."""
        found: dict[int, Tensor] = {}
        for numbers in pieces(range(len(questions)), lambda i: (questions[i].owner, questions[i].tokens)):
            piece = [questions[i] for i in numbers]
            rows, order, places = self._rows(piece, [question.tokens for question in piece])
            packed = pack(rows, len(order), self.backbone.attention)
            tracked = torch.is_grad_enabled() and (self.room is None or packed.ids.numel() <= self.room)
            if self.room is not None:
                self.room -= packed.ids.numel() if tracked else 0
            with torch.set_grad_enabled(tracked), self._attached(order, packed.spread):
                logits = packed.scores(self.backbone, packed.where[places, -1])
                longest = max(len(question.words) for question in piece)
                words = torch.tensor([(*q.words, *(longest - len(q.words)) * (-1,)) for q in piece])
                words = words.to(logits.device)
                scores = logits.gather(-1, words.clamp(min=0)).float() / self.temperature
                scores = scores.masked_fill(words < 0, -torch.inf).log_softmax(-1)
            found |= {i: row[: len(questions[i].words)] for i, row in zip(numbers, scores, strict=True)}
        return [found[i] for i in range(len(questions))]

    def write(self, questions: Sequence[Question], tokens: int, rng: torch.Generator | None) -> list[Answer]:
        """An answer to each, drawn one by one; without `rng` always the most probable token."""
        rows, order, places = self._rows(questions, [question.tokens for question in questions])
        self._check_window(rows.ids.shape[1] + tokens)
        sampling = Sampling(tokens, self.temperature if rng is not None else 0.0)

        def network(**arguments: Any) -> Any:
            with self._attached(order) as model:
                return model(**arguments)

        told = continuation(network, rows, len(order), sampling, self.backbone.stops, rng)
        steps = torch.stack(list(told), -1)
        written = [tuple(token for token in steps[place].tolist() if token >= 0) for place in places]
        return [
            Answer(question, few, len(few) < steps.shape[1]) for question, few in zip(questions, written, strict=True)
        ]

    def written(self, answers: Sequence[Answer]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability of every token of the answers, where there is one, and the entropy there: `[n, T]` each.

        An answer that stopped by itself has one more: that any of the tokens came that end a text.
        """
        texts = [(*each.question.tokens, *each.tokens) for each in answers]
        rows, order, places = self._rows([each.question for each in answers], texts)
        self._check_window(rows.ids.shape[1])
        longest = max(len(each.tokens) for each in answers) + 1
        packed = pack(rows, len(order), self.backbone.attention)
        spots = packed.where[places, -longest:]
        with self._attached(order, packed.spread):
            logits = packed.scores(self.backbone, spots.flatten()).view(*spots.shape, -1)
        scores = (logits.float() / self.temperature).log_softmax(-1)  # [n, T, V]
        stops = scores[..., sorted(self.backbone.stops)].logsumexp(-1)
        wanted = torch.zeros(scores.shape[:2], dtype=torch.long, device=scores.device)
        counts, ends = torch.zeros_like(wanted), torch.zeros_like(wanted)
        for i, each in enumerate(answers):
            first = longest - 1 - len(each.tokens)  # the position that gives the first token
            wanted[i, first : longest - 1] = torch.tensor(each.tokens, dtype=torch.long)
            counts[i, first : first + each.length] = 1
            ends[i, longest - 1] = 1
        told = scores.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        spread = -(scores.exp() * scores).sum(-1)
        return torch.where(ends.bool(), stops, told) * counts, counts, spread * counts

    def _rows(
        self, questions: Sequence[Question], texts: Sequence[Sequence[int]]
    ) -> tuple[Rows, tuple[int, ...], list[int]]:
        """Rows beside those of the same owner, the owners' order, and which row is whose."""
        one = self.weights is None  # by itself the model has no owners
        mine: dict[int, list[int]] = {}
        for i, question in enumerate(questions):
            mine.setdefault(0 if one else question.owner, []).append(i)
        order = tuple(sorted(mine))
        most = max(map(len, mine.values()))
        places = [0] * len(questions)
        for k, owner in enumerate(order):
            for j, i in enumerate(mine[owner]):
                places[i] = k * most + j
        prompts = [[texts[i] for i in mine[owner]] for owner in order]
        rows = Rows.of(prompts, self.backbone.padding, self.backbone.device)
        self._check_window(rows.ids.shape[1])
        return rows, order, places

    def _attached(self, order: tuple[int, ...], spread: Spread | None = None) -> Any:
        if self.weights is None:
            return nullcontext(self.target.network)
        if order not in self._made:
            count = max(map(len, self.weights.values()))
            whole = order == tuple(range(count))
            with torch.enable_grad():  # they may serve passes with gradient later
                picked = {
                    name: tensor if whole or len(tensor) == 1 else tensor[list(order)]
                    for name, tensor in self.weights.items()
                }
                self._made[order] = self.target.adapters(picked)
        return self.target.attached(self._made[order], spread)

    def _check_window(self, tokens: int) -> None:
        if tokens > self.backbone.window:
            raise UserError(
                f"A prompt with its answer is {tokens} tokens long; the model reads {self.backbone.window}: shorten "
                "what the environment says, or lower reward.tokens."
            )


class Asking:
    """Turns what an environment says into questions; remembers texts and words it has seen."""

    def __init__(self, config: LanguageConfig, backbone: Backbone, roles: Mapping[str, str]) -> None:
        self.config = config
        self.backbone = backbone
        self.agents = tuple(roles)
        self.roles = roles
        shared = config.sharing.conditioning == "none"
        self.owners = {agent: 0 if shared else i for i, agent in enumerate(self.agents)}
        self._prompts: dict[tuple[str, str], tuple[int, ...]] = {}
        self._words: dict[tuple[str, ...], tuple[int, ...]] = {}

    def question(self, agent: str, prompt: str, words: tuple[str, ...] | None) -> Question:
        key = agent if self.config.sharing.id_in_observation else "", prompt
        if key not in self._prompts:
            role = self.roles[agent] if key[0] else None
            if len(self._prompts) >= PIECE:
                self._prompts.clear()
            self._prompts[key] = tuple(framed(self.backbone, self.config.backbone.frame, prompt, role))
        return Question(self.owners[agent], self._prompts[key], () if words is None else self.first_tokens(words))

    def first_tokens(self, words: tuple[str, ...]) -> tuple[int, ...]:
        """One for each word."""
        if words not in self._words:
            self._words[words] = first_tokens(self.backbone, self.config.backbone.frame, words)
        return self._words[words]


@dataclass
class Conversation:
    """Episodes that were played: what was said, and `rewards[copy][step]`; `known` are the choices as they stood."""

    turns: list[Turn] = field(default_factory=list)
    rewards: list[list[Mapping[str, float]]] = field(default_factory=list)
    illegal: int = 0
    known: dict[Question, Tensor] = field(default_factory=dict)

    def totals(self, agent: str) -> list[float]:
        """Of every episode, undiscounted."""
        return [sum(float(step.get(agent, 0.0)) for step in steps) for steps in self.rewards]

    def distinct(self) -> list[float]:
        """Wherever several spoke at once: the share of what was said that differs."""
        together: dict[tuple[int, int], list[str]] = {}
        for turn in self.turns:
            together.setdefault((turn.copy, turn.step), []).append(turn.said)
        return [len(set(said)) / len(said) for said in together.values() if len(said) > 1]

    def add(self, other: Conversation) -> None:
        """More episodes under the same weights."""
        first = len(self.rewards)
        self.turns += [replace(turn, copy=first + turn.copy) for turn in other.turns]
        self.rewards += other.rewards
        self.illegal += other.illegal
        self.known |= other.known


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that waits for its answer in one copy; a single legal word is said without asking the model."""

    copy: int
    agent: str
    prompt: str
    words: tuple[str, ...] | None


def asked(env: Any, copy: int, observations: Mapping[str, str]) -> tuple[list[Asked], dict[str, str]]:
    """Who is to choose, and what the others say who have a single word."""
    waiting, plain = [], {}
    for agent in env.agents:
        words = env.words(agent) if agent in observations else ()
        if words is None or len(words) > 1:
            waiting.append(Asked(copy, agent, observations[agent], words))
        elif words:
            plain[agent] = words[0]
    return waiting, plain


def answered(
    asking: Asking,
    speech: Speech,
    waiting: Sequence[Asked],
    step: int,
    known: dict[Question, Tensor],
    rng: torch.Generator | None,
    tokens: int,
) -> list[Turn]:
    """A turn for each, in their order; without `rng` the most probable word. `known` are choices computed before."""
    questions = [asking.question(each.agent, each.prompt, each.words) for each in waiting]
    fresh = [question for question in dict.fromkeys(questions) if question.words and question not in known]
    if fresh:
        known.update(zip(fresh, speech.choices(fresh), strict=True))
    chosen = [i for i, question in enumerate(questions) if question.words]
    picks: dict[int, int] = {}
    if chosen:
        scores = stacked([known[questions[i]].detach() for i in chosen])
        sampling = Sampling(1, 0.0 if rng is None else 1.0)
        picks = dict(zip(chosen, choose(scores, sampling, rng).tolist(), strict=True))
    free = [i for i, question in enumerate(questions) if not question.words]
    texts = dict(zip(free, speech.write([questions[i] for i in free], tokens, rng), strict=True)) if free else {}
    turns = []
    for i, (each, question) in enumerate(zip(waiting, questions, strict=True)):
        if each.words is not None:
            said, answer = each.words[picks[i]], None
        else:
            answer = texts[i]
            said = asking.backbone.decode(answer.tokens).strip()
        turns.append(Turn(each.copy, step, each.agent, each.prompt, said, question, picks.get(i, -1), answer))
    return turns


def converse(
    asking: Asking,
    speech: Speech,
    envs: Sequence[Any],
    seeds: Sequence[int],
    rng: torch.Generator,
    tokens: int,
    known: dict[Question, Tensor] | None = None,
) -> Conversation:
    """One episode of every environment, each reset with its seed, all copies side by side; `known` is added to."""
    found = Conversation(rewards=[[] for _ in envs], known={} if known is None else known)
    seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    living = [copy for copy, env in enumerate(envs) if env.agents]
    step = 0
    while living:
        if step >= LONGEST:
            raise UserError(f"An episode did not end within {LONGEST} steps; give the environment an option to end it.")
        plain: dict[int, dict[str, str]] = {}
        waiting: list[Asked] = []
        for copy in living:
            more, plain[copy] = asked(envs[copy], copy, seen[copy])
            waiting += more
        turns = answered(asking, speech, waiting, step, found.known, rng, tokens) if waiting else []
        for turn in turns:
            plain[turn.copy][turn.agent] = turn.said
        found.turns += turns
        for copy in living:
            seen[copy], rewards, _, _, infos = envs[copy].step(plain[copy])
            found.rewards[copy].append(rewards)
            found.illegal += sum(bool(info.get("illegal")) for info in infos.values())
        living = [copy for copy in living if envs[copy].agents]
        step += 1
    return found


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """`[Q, W]`, -inf beside the words of a question."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-torch.inf)


def pieces(items: Sequence[Item], row: Callable[[Item], tuple[int, Sequence[int]]]) -> list[list[Item]]:
    """Cut so that a piece has at most PIECE tokens, those with which rows of one owner begin alike counted once.

    `row` tells of each its owner and tokens; what begins alike comes together.
    """
    found: list[list[Item]] = []
    last: tuple[int, Sequence[int]] = (-1, ())
    size = 0
    for item in sorted(items, key=row):
        owner, tokens = row(item)
        fresh = len(tokens) - (alike(last[1], tokens) if owner == last[0] else 0)
        if not found or size + fresh > PIECE:
            found.append([])
            size, fresh = 0, len(tokens)
        found[-1].append(item)
        size += fresh
        last = owner, tokens
    return found
