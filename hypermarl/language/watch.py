"""What looks wrong in a run that learns from reward, agent by agent, in sentences; each is said once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bounds:
    """From where on something is wrong. It must have been so for `patience` updates in a row."""

    entropy: float = 0.02  # nats, below which an agent's answers no longer vary
    fall: float = 0.2  # of the best return so far (or of all the ground gained, if that is more)
    divergence: float = 25.0  # nats from the frozen model: a sure choice of what it would say once in e^25 times
    empty: float = 0.5  # tokens: answers below it are as good as none
    full: float = 0.98  # share of the longest answer: those above it have no end
    apart: float = 1.1  # different answers of a team, below which all say the same
    patience: int = 3
    memory: float = 0.8  # of the running mean of returns


@dataclass
class _Past:
    """Returns of one agent, or of the team, smoothed."""

    now: float
    best: float
    worst: float
    last: float
    noise: float = 0.0  # variance of single updates, from neighbouring ones: a lasting fall counts only once
    first_length: float | None = None

    def take(self, value: float, memory: float) -> None:
        self.noise = memory * self.noise + (1.0 - memory) * (value - self.last) ** 2 / 2.0
        self.last = value
        self.now = memory * self.now + (1.0 - memory) * value
        self.best, self.worst = max(self.best, self.now), min(self.worst, self.now)

    def fallen(self, share: float) -> bool:
        """Below the best by more than `share` of it and of the range of returns, and by more than their noise."""
        lost = self.best - self.now
        return lost > share * max(abs(self.best), self.best - self.worst) and lost > 3.0 * math.sqrt(self.noise)


@dataclass
class Watch:
    """Sees the values of every update; `longest` is how many tokens an answer may have."""

    agents: Sequence[str]
    longest: int
    bounds: Bounds = field(default_factory=Bounds)
    _past: dict[str, _Past] = field(default_factory=dict)
    _since: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _said: set[tuple[str, str]] = field(default_factory=set)

    def look(self, values: Mapping[str, float]) -> list[str]:
        """Sentences on what has been wrong long enough and was not said yet."""
        found = []
        for agent in self.agents:
            past = self._remember(agent, values)
            if past is not None:
                found += self._one(agent, past, values)
        team = self._remember("team", values)
        if team is not None and "distinct" in values:
            alike = values["distinct"] * len(self.agents) < self.bounds.apart and team.fallen(self.bounds.fall)
            found += self._say(
                "team",
                "alike",
                alike,
                f"All agents say the same, and the team's return fell from {team.best:.2f} to {team.now:.2f}: they "
                "are no longer told apart.",
            )
        return found

    def _one(self, agent: str, past: _Past, values: Mapping[str, float]) -> list[str]:
        bounds = self.bounds
        entropy = values.get(f"policy/entropy/{agent}", float("inf"))
        found = self._say(
            agent,
            "collapse",
            entropy < bounds.entropy and past.fallen(bounds.fall),
            f"{agent}: its answers no longer vary (entropy {entropy:.3f}) and its reward fell from {past.best:.2f} to "
            f"{past.now:.2f}: collapsed.",
        )
        far = values.get(f"policy/kl/{agent}", 0.0)
        found += self._say(
            agent,
            "far",
            far > bounds.divergence,
            f"{agent}: it is {far:.0f} nats away from the frozen model, more than {bounds.divergence:.0f}: a lower "
            "train.lr or a reward.kl keeps it nearer.",
        )
        length = values.get(f"policy/length/{agent}")
        if length is None:
            return found
        if past.first_length is None:
            past.first_length = length
        started = past.first_length
        found += self._say(
            agent,
            "empty",
            length < bounds.empty <= started,
            f"{agent}: its answers have become empty ({length:.1f} tokens, {started:.1f} at the start).",
        )
        found += self._say(
            agent,
            "endless",
            length > bounds.full * self.longest >= started,
            f"{agent}: its answers no longer end ({length:.1f} of at most {self.longest} tokens, {started:.1f} at the "
            "start).",
        )
        return found

    def _remember(self, name: str, values: Mapping[str, float]) -> _Past | None:
        value = values.get(f"return/{name}")
        if value is None:
            return self._past.get(name)
        if name in self._past:
            self._past[name].take(value, self.bounds.memory)
        else:
            self._past[name] = _Past(value, value, value, value)
        return self._past[name]

    def _say(self, name: str, what: str, wrong: bool, sentence: str) -> list[str]:
        key = name, what
        self._since[key] = self._since[key] + 1 if wrong else 0
        if self._since[key] < self.bounds.patience or key in self._said:
            return []
        self._said.add(key)
        return [sentence]
