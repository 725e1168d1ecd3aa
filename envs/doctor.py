"""Try an environment and say in plain words what is right with it, what is odd, and what must be mended.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from . import make
from .interface import Continuous, Discrete, EnvironmentFault, Group, Step, VectorEnv, View

Level = Literal["ok", "warning", "fault"]

_ENVS, _STEPS, _SECONDS, _EPISODES = 4, 1000, 6.0, 3  # how long an environment is tried: until the first is reached
_LARGE, _MANY = 100.0, 10_000  # numbers that upset a network, and more of them than a plain one takes in well
_SLOW = 500.0  # frames/s

# what to do about the faults that `EnvironmentFault` names, by words of its sentence
_CURES = {
    "NaN": "Look for a division by zero, a root or a logarithm in the code that makes it.",
    "is infinite": "Clip it, or look for a division by zero in the code that makes it.",
    "but its space says": "Make the space and what is returned agree.",
    "but its space has": "Make the space and what is returned agree.",
    "cannot be read": "Return one array of the shape and type that the space says.",
    "is no number": "Return one plain number per agent.",
    "gave no action mask": "Once masked, an agent needs its mask at every step at which it is to act.",
    "allows no action": "Leave at least one action legal, if only one that does nothing.",
    "gave no": "Every agent that is in 'agents' when step is called needs an entry in each dictionary it returns.",
    "without being terminated": "Say so in terminations or truncations in the step in which it leaves.",
    "cannot come back": "Let it wait for the next episode, or keep it alive with an action that does nothing.",
    " raised ": "Mend it at the place that is named.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `sentence` says what was found and, unless it is fine, what to do."""

    level: Level
    sentence: str


@dataclass
class _Report:
    findings: list[Finding] = field(default_factory=list)

    def ok(self, sentence: str) -> None:
        self.findings.append(Finding("ok", sentence))

    def warn(self, sentence: str) -> None:
        self.findings.append(Finding("warning", sentence))

    def fault(self, error: str) -> None:
        cure = next((cure for words, cure in _CURES.items() if words in error), "")
        self.findings.append(Finding("fault", f"{error.rstrip('.')}. {cure}".strip()))

    @property
    def sound(self) -> bool:
        return all(finding.level != "fault" for finding in self.findings)

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """What is raised inside becomes a fault."""
        try:
            yield
        except EnvironmentFault as error:
            self.fault(str(error))
        except Exception as error:
            words = " ".join(str(error).split())
            self.fault(f"{what} raised {type(error).__name__}{': ' + words if words else ''}")


def examine(
    kind: str, name: str, *, options: Mapping[str, Any] | None = None, max_steps: int | None = None
) -> list[Finding]:
    """Play some episodes of `kind/name` with random legal actions, and tell what was found; nothing is raised."""
    report = _Report()
    settings: dict[str, Any] = {"max_steps": max_steps, "options": dict(options or {})}
    if kind == "pettingzoo":
        from .inspection import inspect  # only here are PettingZoo's own rules of interest

        with report.trying("trying it"):
            for level, sentence in inspect(name, options or {}, max_steps):
                if level == "fault":
                    report.fault(sentence)
                else:
                    report.findings.append(Finding(level, sentence))
        if not report.sound or any("turn-based" in finding.sentence for finding in report.findings):
            return _with_verdict(report)
    env: VectorEnv | None = None
    with report.trying("making it"):
        env = make(kind, name, num_envs=_ENVS, **settings)
    if env is not None:
        with report.trying("stepping it"):
            _examine_vector(env, report, kind)
        with report.trying("closing it"):
            env.close()
    return _with_verdict(report)


def _with_verdict(report: _Report) -> list[Finding]:
    if not report.sound:
        count = sum(finding.level == "fault" for finding in report.findings)
        report.findings.append(
            Finding("fault", f"It cannot be trained on before {'this is' if count == 1 else 'these are'} mended.")
        )
    elif not any("cannot be trained on" in finding.sentence for finding in report.findings):
        report.ok("It can be trained on.")
    return report.findings


def _examine_vector(env: VectorEnv, report: _Report, kind: str) -> None:
    words = "; ".join(map(_describe, env.groups.values()))
    report.ok(f"{_count(len(env.groups), 'group')}: {words}.")
    _examine_seeds(env, report)
    trial = _Trial(env)
    trial.run()
    if trial.broken:
        for sentence in sorted(trial.broken):
            report.fault(sentence)
        return
    trial.tell_episodes(report)
    trial.tell_observations(report)
    trial.tell_rewards(report)
    if trial.speed < _SLOW:
        cure = "; step it in several processes (env.workers)" if kind == "pettingzoo" else ""
        report.warn(f"It is slow: {trial.speed:,.0f} frames/s with {_ENVS} environments in one process{cure}.")
    else:
        report.ok(f"{trial.speed:,.0f} frames/s with {_ENVS} environments in one process.")
    if env.state_dict() is None:
        report.warn(
            "Its state cannot be stored, so a run that is resumed begins new episodes and does not repeat bit for bit; "
            "it may draw from a generator that reset(seed) does not seed, or keep something from the last episode."
        )
    else:
        report.ok("Its state can be stored, so a resumed run continues bit for bit.")


def _describe(group: Group) -> str:
    agents = group.agents[0] if len(group.agents) == 1 else f"{group.agents[0]} to {group.agents[-1]}"
    does = (
        f"choose one of {group.action.n}"
        if isinstance(group.action, Discrete)
        else f"give {_count(group.action.size, 'number')}"
    )
    legal = ", some of them forbidden at times" if group.masked else ""
    sees = _count(group.observation, "number")
    return f"{group.name} ({_count(len(group.agents), 'agent')}, {agents}; see {sees}, {does}{legal})"


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _examine_seeds(env: VectorEnv, report: _Report) -> None:
    one = _trace(env, seed=1, steps=20, seconds=1.5)
    other = _trace(env, seed=1, steps=len(one) - 1)
    if not all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
        report.warn(
            "The same seed does not give the same episode twice; let reset(seed) seed every generator that is used "
            "(a global one such as numpy.random is shared by all copies)."
        )
        return
    report.ok("The same seed and actions give the same episode, bit for bit.")
    if torch.equal(one[0], _trace(env, seed=2, steps=0)[0]):
        report.warn("Every seed begins alike; fine if the start is meant to be fixed, else use the seed in reset.")


def _trace(env: VectorEnv, seed: int, steps: int, seconds: float = math.inf) -> list[Tensor]:
    """All that is seen and earned, one row per time."""
    rng = torch.Generator().manual_seed(0)
    until = time.perf_counter() + seconds
    view = env.reset(seed)
    seen = [_flat(view.observation)]
    while len(seen) <= steps and time.perf_counter() < until:
        step = env.step(legal_actions(env, view, rng))
        view = step.view
        seen.append(torch.cat([_flat(view.observation), _flat(step.reward)]))
    return seen


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().cpu().flatten() for tensor in tensors.values()])


def legal_actions(env: VectorEnv, view: View, rng: torch.Generator) -> dict[str, Tensor]:
    """Random actions that the masks of `view` allow: int64 `[E, N]` or float32 `[E, N, A]` by group."""
    actions = {}
    for name, group in env.groups.items():
        shape = (env.num_envs, len(group.agents))
        if isinstance(group.action, Continuous):
            low, high = (torch.tensor(edge).clamp(-1e3, 1e3) for edge in (group.action.low, group.action.high))
            chosen = low + (high - low) * torch.rand(*shape, group.action.size, generator=rng)
        elif group.masked:
            weights = view.mask[name].cpu().float().flatten(0, 1)
            weights[weights.sum(-1) == 0] = 1.0  # reported elsewhere
            chosen = torch.multinomial(weights, 1, generator=rng).reshape(shape)
        else:
            chosen = torch.randint(group.action.n, shape, generator=rng)
        actions[name] = chosen.to(env.device)
    return actions


class _Trial:
    """Some episodes with random actions, and what was seen in them."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.broken: set[str] = set()
        self.lengths: list[int] = []
        self.steps = 0
        self.speed = 0.0
        self.deaths = 0
        self.cut = self.ended = False
        self.low = {name: torch.full((group.observation,), torch.inf) for name, group in env.groups.items()}
        self.high = {name: torch.full((group.observation,), -torch.inf) for name, group in env.groups.items()}
        self.rewards: dict[str, list[Tensor]] = {name: [] for name in env.groups}
        self.returns: list[Tensor] = []
        self._running = torch.zeros(env.num_envs, dtype=torch.int64)
        self._total = torch.zeros(env.num_envs)

    def run(self) -> None:
        env, rng = self.env, torch.Generator().manual_seed(1)
        view = env.reset(1)
        self._see(view)
        spent, began = 0.0, time.perf_counter()
        while self.steps < _STEPS and not self.broken and time.perf_counter() - began < _SECONDS:
            actions = legal_actions(env, view, rng)
            start = time.perf_counter()
            step = env.step(actions)
            spent += time.perf_counter() - start
            self.steps += 1
            self._note(view, step)
            view = step.view
            if len(self.lengths) >= _EPISODES * env.num_envs and self.steps >= 100:
                break
        self.speed = self.steps * env.num_envs / max(spent, 1e-9)

    def _note(self, before: View, step: Step) -> None:
        self._see(step.view)
        done = step.done.cpu()
        self._running += 1
        for name, group in self.env.groups.items():
            reward, ended, cut = (each[name].cpu() for each in (step.reward, step.terminated, step.truncated))
            shape = (self.env.num_envs, len(group.agents))
            self._check(tuple(reward.shape) == shape, f"the rewards of group {name!r} have shape {tuple(reward.shape)}")
            if self.broken:
                return
            self._check(bool(reward.isfinite().all()), f"a reward of group {name!r} holds NaN or is infinite")
            self._check(not bool((ended & cut).any()), f"in group {name!r} one is both terminated and truncated")
            if name in before.alive:
                alive = before.alive[name].cpu()
                self._check(not bool(reward[~alive].any()), f"one of group {name!r} who is dead was rewarded")
                self._check(not bool((ended & ~alive).any()), f"one of group {name!r} who is dead has ended again")
            self.deaths += int(((ended | cut) & ~done[:, None]).sum())
            self.cut, self.ended = self.cut or bool(cut.any()), self.ended or bool(ended.any())
            self.rewards[name].append(reward)
            self._total += reward.sum(-1)
        self.lengths += self._running[done].tolist()
        self.returns += list(self._total[done])
        self._running[done] = 0
        self._total[done] = 0.0

    def _see(self, view: View) -> None:
        for name, group in self.env.groups.items():
            seen = view.observation[name].cpu()
            shape = (self.env.num_envs, len(group.agents), group.observation)
            self._check(
                tuple(seen.shape) == shape and seen.dtype == torch.float32,
                f"group {name!r} sees {seen.dtype} of shape {tuple(seen.shape)}, not float32 of shape {shape}",
            )
            if self.broken:
                return
            self._check(bool(seen.isfinite().all()), f"the observation of group {name!r} holds NaN or is infinite")
            rows = seen[view.alive[name].cpu()] if name in view.alive else seen.flatten(0, 1)
            if len(rows):
                self.low[name] = torch.minimum(self.low[name], rows.amin(0))
                self.high[name] = torch.maximum(self.high[name], rows.amax(0))
            if group.masked:
                self._check(bool(view.mask[name].any(-1).all()), f"the action mask of one of {name!r} allows no action")

    def _check(self, fine: bool, sentence: str) -> None:
        if not fine:
            self.broken.add(sentence[0].upper() + sentence[1:])

    def tell_episodes(self, report: _Report) -> None:
        if not self.lengths:
            bound = f"its clock is {self.env.max_steps} steps" if self.env.max_steps else "it has no clock"
            tell = report.ok if self.env.max_steps else report.warn
            cure = "" if self.env.max_steps else "; if it may go on for ever, set env.max_steps"
            tell(f"No episode ended within {self.steps} steps ({bound}){cure}.")
            return
        how = " and ".join(word for word, was in (("termination", self.ended), ("truncation", self.cut)) if was)
        span = f"{min(self.lengths)} to {max(self.lengths)}" if len(set(self.lengths)) > 1 else str(self.lengths[0])
        report.ok(f"{len(self.lengths)} episodes ended, after {span} steps, by {how}.")
        if max(self.lengths) == 1:
            report.warn("Every episode is one step long; fine for a game of one move, else see what ends it.")
        if self.deaths:
            report.ok(
                f"Agents leave before the episode ends ({self.deaths} times); they keep their places, and are left out "
                "of training until it ends."
            )

    def tell_observations(self, report: _Report) -> None:
        good = True
        for name, group in self.env.groups.items():
            low, high = self.low[name], self.high[name]
            largest = float(torch.maximum(low.abs(), high.abs()).max())
            constant = int((low == high).sum())
            if group.observation > _MANY:
                good = False
                report.warn(
                    f"Group {name!r} sees {group.observation:,} numbers, an image it seems; they are flattened, so "
                    "shrink and crop it in a wrapper, or give the agents the numbers behind it."
                )
            if largest > _LARGE:
                good = False
                report.warn(f"Group {name!r} sees numbers up to {largest:,.0f}; scale them to about 1.")
            if constant == group.observation:
                good = False
                report.warn(f"Group {name!r} sees the same all the time, so it can learn only one behaviour.")
            elif constant:
                good = False
                report.warn(f"{constant} of the {group.observation} numbers that group {name!r} sees never change.")
        if good:
            report.ok("Observations are finite and of a moderate size, and all of them change.")

    def tell_rewards(self, report: _Report) -> None:
        for name, rewards in self.rewards.items():
            every = torch.stack(rewards)
            largest = float(every.abs().max())
            if largest == 0:
                report.warn(
                    f"Group {name!r} was never rewarded in {self.steps} steps of random play; if rewards are so rare, "
                    "learning from nothing is hard, so think of smaller goals on the way."
                )
            elif largest > _LARGE:
                report.warn(
                    f"Rewards of group {name!r} are up to {largest:,.0f}; divide them so that they are about 1."
                )
            else:
                report.ok(f"Rewards of group {name!r} are from {float(every.min()):.3g} to {float(every.max()):.3g}.")
        if self.returns:
            every = torch.stack(self.returns)
            report.ok(f"A random team earns {float(every.mean()):.3g} per episode, all agents together.")
