"""Learning roles from examples: one update writes adapters for a few roles and has all of them answer in one pass.

Letters: `N` roles of a batch, `R` rows of each, `A` tokens of an answer, `V` vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypermarl.conditioning import Described
from hypermarl.language.agents import Descriptions, build_actor, identity, open_backbone
from hypermarl.language.descent import Descent
from hypermarl.language.lessons import Lesson, divergence, lesson, right, surprise
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.task import Example, Role, Task
from hypermarl.language.tasks import make_task
from hypermarl.spec import Weights

KEPT = 1024  # unrelated examples of which is remembered what the frozen model expects, 0.2 MB a token of SmolLM2
DRAWS = 4  # of an example whose answer is to differ


class Teaching:
    """A task, an actor that learns it, and how far it has come; what is drawn is a function of seed and update."""

    def __init__(self, config: LanguageConfig, *, fresh: bool = True) -> None:
        """Not `fresh`, it is given what it has learned afterwards, and how it would start need not be found."""
        assert config.task is not None
        self.config = config
        self.task: Task = make_task(config.task.name, config.task.options)
        self.backbone, self.target = open_backbone(config.backbone, config.device)
        self.descriptions = Descriptions(
            config.description, self.backbone, whole=config.sharing.conditioning == "reader"
        )
        self.learned = self.task.of("trained")
        self.numbers = {role.name: i for i, role in enumerate(self.learned)}
        texts = [role.wordings[0] for role in self.learned]
        self._ready = False
        self._unmoved: dict[Example, Tensor] = {}  # [tokens, V]
        if fresh:
            self._read()
        wordings = [role.wordings for role in self.learned] if fresh else ()
        self.actor = build_actor(config, self.backbone, self.target, texts, self.descriptions, wordings, fresh=fresh)
        self.descent = Descent(self.actor, config.train)
        self.update = 0
        self.examples = 0
        self.tokens = 0

    @property
    def names(self) -> dict[str, str]:
        """Every role and its first wording."""
        return {role.name: role.wordings[0] for role in self.task.roles}

    def iterate(self) -> dict[str, float]:
        """One update; what is to be remembered of it."""
        config = self.config
        if not self._ready:
            self._read()
        rng = random.Random(f"{config.seed}/{self.update}")
        roles = rng.sample(self.learned, min(config.teach.roles, len(self.learned)))
        wordings = [rng.choice(role.wordings) for role in roles]
        told = self._shuffled(roles, wordings) if config.teach.shuffled else wordings
        examples = [self._varied(role, rng) for role in roles]
        due = config.teach.unrelated > 0 and self.update % config.teach.unrelated_every == 0
        apart = due and bool(self.task.unrelated)
        if apart:
            for few in examples:
                few.append(rng.choice(self.task.unrelated))
        given = self.lesson(examples, told, apart)
        weights = self.actor.weights(self._blurred(self.who(roles, told)))
        scores = self.scores(given, weights)
        apart_rows = torch.zeros(len(given.counts), device=scores.device)
        if apart:
            apart_rows.view(len(roles), -1)[:, -1] = 1.0
        aside = apart_rows[given.owners]
        found = {"loss/answer": _mean(surprise(scores, given), 1.0 - aside)}
        loss = found["loss/answer"]
        if config.teach.distil > 0:
            taught = self._taught(examples, wordings, apart)
            found["loss/distil"] = _mean(divergence(scores, taught), 1.0 - aside)
            loss = (1.0 - config.teach.distil) * loss + config.teach.distil * found["loss/distil"]
        if apart:
            expected = self._expected([few[-1] for few in examples], told)
            found["loss/unrelated"] = divergence(scores[aside.bool()], expected).mean()
            loss = loss + config.teach.unrelated * found["loss/unrelated"]
        loss.backward()
        with torch.no_grad():
            answered = right(scores, given)[apart_rows == 0].float().mean()
        norm = self.descent.step(self.update)
        self.update += 1
        self.examples += len(roles) * config.teach.rows
        self.tokens += int(given.rows.mask.sum())
        return {
            **{name: float(value.detach()) for name, value in found.items()},
            "right": float(answered),
            "gradient_norm": norm,
            "examples": self.examples,
            "tokens": self.tokens,
        }

    def warnings(self) -> list[str]:
        return []

    def evaluate(self) -> dict[str, float]:
        """Exact answers by column, with controls; see `examination`."""
        from hypermarl.language.examination import examine

        return examine(self, self.config.teach.items, seed=self.config.seed)

    def dialogue(self) -> str:
        """A few examples of the last kind drawn, and what is written for them."""
        rng = random.Random(f"{self.config.seed}/{self.update}/dialogue")
        roles = rng.sample(self.task.roles, min(6, len(self.task.roles)))
        if self.config.sharing.conditioning in ("one_hot", "table", "text_and_id"):
            roles = [role for role in roles if role.name in self.numbers]
        lines = []
        for role in roles:
            wording, example = rng.choice(role.unseen or role.wordings), self.task.draw(role, rng, True)
            given = self.lesson([[example]], [wording])
            with torch.no_grad():
                scores = self.scores(given, self.actor.weights(self.who([role], [wording])))
            written = self.backbone.decode(scores.argmax(-1).tolist())
            lines.append(f"{role.name}: {example.prompt!r} -> {written.strip()!r} (wanted {example.answer!r})")
        return "\n".join(lines)

    def codes(self) -> Tensor | None:
        """Of all roles by their first wordings."""
        from hypermarl.language.run import codes_of

        if not self.config.reads:
            return None
        with torch.no_grad():
            return codes_of(self.actor, self.descriptions(list(self.names.values())))

    def counters(self) -> dict[str, int]:
        return {"examples": self.examples, "tokens": self.tokens}

    def recount(self, counters: Mapping[str, int]) -> None:
        self.examples, self.tokens = counters.get("examples", 0), counters.get("tokens", 0)

    def who(self, roles: Sequence[Role], wordings: Sequence[str]) -> Any:
        """What the conditioner is told of these roles."""
        return identity(self.config, [self.numbers.get(role.name, 0) for role in roles], wordings, self.descriptions)

    def lesson(
        self,
        examples: Sequence[Sequence[Example]],
        wordings: Sequence[str],
        apart: bool = False,
        *,
        plain: bool = False,
    ) -> Lesson:
        """The batch; with the role in the prompt where that is the way of sharing, unless it is to be `plain`.

        With `apart`, a role's last row is an unrelated one, whose answer may go on.
        """
        prompted = self.config.sharing.id_in_observation and not plain
        return self._lesson(examples, [wording if prompted else None for wording in wordings], apart)

    def _lesson(self, examples: Sequence[Sequence[Example]], roles: Sequence[str | None], apart: bool) -> Lesson:
        ends = [[not (apart and j == len(few) - 1) for j in range(len(few))] for few in examples]
        return lesson(self.backbone, self.config.backbone.frame, examples, roles, ends=ends)

    def scores(self, given: Lesson, weights: Weights | None = None) -> Tensor:
        """`[P, V]` under these adapters; without them, of the frozen model and without gradient."""
        if weights is not None:
            return given.scores(self.backbone, self.target, weights)
        with torch.no_grad():
            return given.scores(self.backbone)

    def _read(self) -> None:
        """What is trained on, where texts are read sentence by sentence."""
        self._ready = True
        if self.descriptions.by_sentence:
            texts = (text for role in self.learned for text in role.wordings)
            self.descriptions.read(texts, shown=self.config.train.progress)

    def _varied(self, role: Role, rng: random.Random) -> list[Example]:
        """Rows of one role, with other answers than its earlier rows where a few draws find any: what answers have in
        common is soon learned, and what decides between them is learned from comparing."""
        found: list[Example] = []
        for _ in range(self.config.teach.rows):
            for _ in range(DRAWS):
                example = self.task.draw(role, rng, False)
                if example.answer not in [each.answer for each in found]:
                    break
            found.append(example)
        return found

    def _shuffled(self, roles: Sequence[Role], wordings: Sequence[str]) -> list[str]:
        """The control: always the same wrong role's words for a role."""
        del wordings
        order = list(self.learned)
        random.Random(self.config.seed).shuffle(order)
        rng = random.Random(f"{self.config.seed}/{self.update}/shuffled")
        return [rng.choice(order[self.numbers[role.name]].wordings) for role in roles]

    def _blurred(self, who: Any) -> Any:
        """Encoded descriptions `[N, f]` as other wordings may be: a little of another's in them, less pronounced, and
        with noise, so that what is learned of a wording holds for those near it."""
        conditioner, teach = self.actor.conditioner, self.config.teach
        plain = not (teach.noise or teach.mix or teach.fade)
        if plain or not isinstance(conditioner, Described) or not who.is_floating_point():
            return who
        rng = torch.Generator().manual_seed(random.Random(f"{self.config.seed}/{self.update}/noise").getrandbits(63))
        noise = torch.randn(who.shape, generator=rng).to(who)
        mix, fade = torch.rand(2, len(who), 1, generator=rng).to(who)
        others = who.roll(int(torch.randint(1, max(2, len(who)), (1,), generator=rng)), 0)
        mixed = who + teach.mix * mix * (others - who)
        faded = mixed + teach.fade * fade * (conditioner.mean - mixed)
        return faded + teach.noise * conditioner.scale * noise

    def _expected(self, examples: Sequence[Example], told: Sequence[str]) -> Tensor:
        """What the frozen model expects of unrelated examples, one of each role, `[P, V]`."""
        if self.config.sharing.id_in_observation or len(self.task.unrelated) > KEPT:
            return self.scores(self.lesson([[example] for example in examples], told, True))
        for example in examples:
            if example not in self._unmoved:  # each by itself: in a batch its last bits would depend on the others
                self._unmoved[example] = self.scores(self.lesson([[example]], [""], True))
        return torch.cat([self._unmoved[example] for example in examples])

    def _taught(self, examples: Sequence[Sequence[Example]], wordings: Sequence[str], apart: bool) -> Tensor:
        """What the frozen model expects with the description in its prompt (context distillation), `[P, V]`."""
        return self.scores(self._lesson(examples, list(wordings), apart))


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
