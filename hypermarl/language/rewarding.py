"""Learning from reward: one update plays a round of episodes in words and moves the generator along what they earned.

Letters: `N` agents, `n` turns, `Q` questions, `W` words, `T` tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypermarl.envs.words import TextEnv, make_text
from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import Episodes
from hypermarl.evaluation.pettingzoo import evaluate
from hypermarl.language import converse as conversing
from hypermarl.language.agents import Descriptions, build_actor, identity, open_backbone
from hypermarl.language.converse import Asking, Conversation, Speech, Turn, converse
from hypermarl.language.descent import Descent
from hypermarl.language.judging import Judge, Judged, Part, parted
from hypermarl.language.objectives import OBJECTIVES, advantages, grouping, returns_to_go
from hypermarl.language.player import WordPlayer
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.watch import Watch
from hypermarl.spec import Weights

SAMPLED = 64  # how many prompts new to it an update shows the frozen model where its divergence has no weight


class Rewarding:
    """An environment in words, agents that learn in it, and how far they have come.

    What is drawn is a function of seed and update.
    """

    def __init__(self, config: LanguageConfig) -> None:
        assert config.env is not None
        self.config = config
        self.envs = [self.make_env() for _ in range(config.env.num_envs)]
        self.agents = tuple(self.envs[0].possible_agents)
        self.roles = {agent: self.envs[0].roles[agent] for agent in self.agents}
        self.backbone, self.target = open_backbone(config.backbone, config.device)
        self.descriptions = Descriptions(
            config.description, self.backbone, whole=config.sharing.conditioning == "reader"
        )
        texts = list(self.roles.values())
        self.actor = build_actor(config, self.backbone, self.target, texts, self.descriptions)
        self.descent = Descent(self.actor, config.train)
        self.asking = Asking(config, self.backbone, self.roles)
        self.watch = Watch(self.agents, config.reward.tokens)
        self.update = 0
        self.episodes = 0
        self.turns = 0
        self.judge = Judge(self._spoken(None), None if config.reward.kl else SAMPLED)
        self._last: Conversation | None = None
        self._warnings: list[str] = []

    @property
    def names(self) -> dict[str, str]:
        """Every agent and who it is."""
        return self.roles

    def make_env(self, **options: Any) -> TextEnv:
        """A new copy; `options` win over those of the settings."""
        env = self.config.env
        assert env is not None
        return make_text(env.kind, env.name, options={**env.options, **options})

    def who(self) -> Any:
        """What the conditioner is told of all agents."""
        return identity(self.config, range(len(self.agents)), list(self.roles.values()), self.descriptions)

    def iterate(self) -> dict[str, float]:
        """One update; what is to be remembered of it."""
        config = self.config.reward
        weights, speech = self._speech()
        with torch.set_grad_enabled(config.epochs == 1):  # then what is said is also what is learned from
            speech.room = conversing.PIECE
            talk = self.converse(speech)
            speech.room = None
        if not talk.turns:
            raise UserError(f"Nobody had anything to choose in {self.config.name}; there is nothing to learn.")
        advantage = self._advantages(talk)
        idle = self._idle(advantage)
        parts = parted(talk, self.backbone.device, idle.tolist())
        old: list[Tensor] = []
        judged: list[Judged] = []
        lost = 0.0
        for epoch in range(config.epochs):
            if epoch:
                weights, speech = self._speech()
                talk.known.clear()
            for i, part in enumerate(parts):
                teaches = not idle[part.turns].all()
                if epoch and not teaches:
                    continue
                with torch.set_grad_enabled(bool(teaches)):
                    one = self.judge(part, speech, talk.known)
                    if epoch == 0:
                        old.append(one.log_prob.detach())
                        judged.append(one)
                    loss = self._loss(one, old[i], advantage[part.turns]) / len(talk.turns)
                if teaches:
                    loss.backward(retain_graph=True)  # parts share how adapters are picked
                lost += float(loss.detach()) / config.epochs
            norm = self._descend(weights, speech)
        self.update += 1
        self.episodes += len(talk.rewards)
        self.turns += len(talk.turns)
        values = self._values(talk, parts, judged)
        values |= {"loss/policy": lost, "gradient_norm": norm, "episodes": self.episodes, "turns": self.turns}
        self._last = talk
        self._warnings += self.watch.look(values)
        return values

    def converse(self, speech: Speech) -> Conversation:
        """The episodes of this update; copies of one group begin alike."""
        config, seed = self.config.reward, self.config.seed
        rng = torch.Generator().manual_seed(random.Random(f"{seed}/{self.update}").getrandbits(63))
        found = Conversation()
        for episode in range(config.episodes):
            starts = [copy // config.group for copy in range(len(self.envs))]
            seeds = [random.Random(f"{seed}/{self.update}/{episode}/{start}").getrandbits(31) for start in starts]
            found.add(converse(self.asking, speech, self.envs, seeds, rng, config.tokens, found.known))
        return found

    def warnings(self) -> list[str]:
        """Sentences since the last call."""
        told, self._warnings = self._warnings, []
        return told

    @torch.no_grad()
    def play(self, episodes: int, seed: int, greedy: bool = True, **options: Any) -> Episodes:
        """Episodes under the present weights, one after another; `options` of the environment win."""
        weights = {name: tensor.detach().clone() for name, tensor in self.actor.weights(self.who()).items()}
        player = WordPlayer(self.asking, self._spoken(weights), self.config.reward.tokens, greedy=greedy)
        return evaluate(player, lambda: player.attach(self.make_env(**options)), episodes, seed)

    def evaluate(self) -> dict[str, float]:
        """Team and agents' returns when the likeliest is said, the team's when answers are drawn, and, in the games of
        words, under phrasings that were kept for tests."""
        episodes, seed = self.config.reward.test_episodes, self.config.seed + 1_000_003
        greedy, sampled = self.play(episodes, seed), self.play(episodes, seed, greedy=False)
        found = {"return/greedy": float(greedy.team.mean()), "return/sampled": float(sampled.team.mean())}
        assert self.config.env is not None
        if self.config.env.kind == "words":
            found["return/unseen"] = float(self.play(episodes, seed, phrasings="test").team.mean())
        return found | {f"return/{agent}": float(greedy.agent(agent).mean()) for agent in self.agents}

    def dialogue(self) -> str:
        """The first episode of the last update, line by line."""
        if self._last is None:
            return ""
        earned = self._last.rewards[0]
        return "\n".join(
            f"{turn.agent} <- {turn.prompt!r} -> {turn.said!r} (reward {earned[turn.step].get(turn.agent, 0.0):.3g})"
            for turn in self._last.turns
            if turn.copy == 0
        )

    def codes(self) -> Tensor | None:
        """Of all agents, where words are read."""
        from hypermarl.language.run import codes_of

        return codes_of(self.actor, self.who()) if self.config.reads else None

    def counters(self) -> dict[str, int]:
        return {"episodes": self.episodes, "turns": self.turns}

    def recount(self, counters: Mapping[str, int]) -> None:
        self.episodes, self.turns = counters.get("episodes", 0), counters.get("turns", 0)

    def _spoken(self, weights: Weights | None) -> Speech:
        return Speech(self.backbone, self.target, weights, self.config.reward.temperature)

    def _speech(self) -> tuple[Weights, Speech]:
        """Generated weights, and speech under leaves of the same values: passes add their gradients up there."""
        weights = self.actor.weights(self.who())
        return weights, self._spoken({name: tensor.detach().requires_grad_() for name, tensor in weights.items()})

    def _descend(self, weights: Weights, speech: Speech) -> float:
        """From the leaves through the generator, once, and a step."""
        assert speech.weights is not None
        reached = {name: leaf.grad for name, leaf in speech.weights.items() if leaf.grad is not None}
        if not reached:  # nobody had anything to teach: the step is that of a gradient of zeros, with its momentum
            reached = {name: torch.zeros_like(leaf) for name, leaf in speech.weights.items()}
        torch.autograd.backward([weights[name] for name in reached], list(reached.values()))
        return self.descent.step(self.update)

    def _idle(self, advantage: Tensor) -> Tensor:
        """`[n]`: turns that teach nothing, whose pass needs no gradient: neither better nor worse than others, and
        nothing else is asked of them."""
        if self.config.reward.kl or self._bonus():
            return torch.zeros_like(advantage, dtype=torch.bool)
        return advantage == 0

    def _advantages(self, talk: Conversation) -> Tensor:
        """`[n]`, from what each agent earns from its turn on."""
        config = self.config.reward
        rewards = {
            (copy, agent): returns_to_go([float(step.get(agent, 0.0)) for step in steps], config.gamma)
            for copy, steps in enumerate(talk.rewards)
            for agent in self.agents
        }
        found = torch.tensor([rewards[turn.copy, turn.agent][turn.step] for turn in talk.turns])
        how = grouping(config)
        if how == "none":
            return found.to(self.backbone.device)
        groups: dict[Any, int] = {}
        for turn in talk.turns:
            groups.setdefault(_group(turn, how), len(groups))
        numbers = torch.tensor([groups[_group(turn, how)] for turn in talk.turns])
        return advantages(found, numbers).to(self.backbone.device)

    def _loss(self, one: Judged, old: Tensor, advantage: Tensor) -> Tensor:
        """Summed over the turns of a part."""
        config = self.config.reward
        surrogate = OBJECTIVES[config.objective](one.log_prob, old, advantage.unsqueeze(-1), config)
        loss = (surrogate * one.counts).sum()
        if config.kl:
            loss = loss + config.kl * one.divergence.sum()
        if bonus := self._bonus():
            loss = loss - bonus * one.entropy.sum()
        return loss

    def _bonus(self) -> float:
        """The weight of entropy in this update."""
        start, end = self.config.reward.entropy, self.config.reward.entropy_end
        if end is None:
            return start
        since, until = (share * self.config.train.updates for share in self.config.reward.entropy_fall)
        fallen = (self.update - since) / max(until - since, 1.0)
        return start + (end - start) * min(max(fallen, 0.0), 1.0)

    def _values(self, talk: Conversation, parts: Sequence[Part], judged: Sequence[Judged]) -> dict[str, float]:
        """What was earned, and of every agent how it speaks."""
        earned = {agent: _mean(talk.totals(agent)) for agent in self.agents}
        values = {"return/team": _mean(list(earned.values()))}
        values |= {f"return/{agent}": each for agent, each in earned.items()}
        told: dict[str, dict[str, list[float]]] = {"entropy": {}, "kl": {}, "length": {}}
        for part, one in zip(parts, judged, strict=True):
            turns = [talk.turns[i] for i in part.turns.tolist()]
            tokens = one.counts.sum(-1) if part.answers else torch.full_like(one.entropy, torch.nan)
            rows = {"entropy": one.entropy.tolist(), "kl": one.divergence.tolist(), "length": tokens.tolist()}
            for kind, numbers in rows.items():
                for turn, number in zip(turns, numbers, strict=True):
                    if not math.isnan(number):
                        told[kind].setdefault(turn.agent, []).append(number)
        values |= {f"policy/{kind}/{agent}": _mean(n) for kind, each in told.items() for agent, n in each.items()}
        values["illegal"] = talk.illegal / len(talk.turns)
        if apart := talk.distinct():
            values["distinct"] = _mean(apart)
        return values


def _group(turn: Turn, how: str) -> Any:
    if how == "prompt":  # with the agent: those who share adapters are paid each for itself
        return turn.agent, turn.question
    return turn.agent if how == "agent" else None


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
