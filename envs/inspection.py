"""PettingZoo's own rules: what an environment may break in dictionaries, before it is trained on."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from pettingzoo.test import parallel_api_test

from .bridge import advance, begin, open_environment, survey
from .flat import FlatParallel
from .spaces import is_masked
from .turns import Cycle, TurnBased, as_parallel

Told = tuple[Literal["ok", "warning", "fault"], str]
_STEPS, _SECONDS, _EPISODES = 300, 5.0, 3


def inspect(name: str, options: Mapping[str, Any], max_steps: int | None) -> Iterator[Told]:
    """What is found in one environment, as (level, sentence); what it raises on the way is for the caller."""
    env = as_parallel(open_environment(name, options), name)
    try:
        yield "ok", f"It is made by {name!r}{_with(options)}, and lists {len(list(env.possible_agents))} agents."
        if isinstance(env, TurnBased):
            yield from _play_in_turn(env, name, max_steps)
            return
        survey(env, name)
        yield from _spaces(env)
        yield from _play(env, name, max_steps)
    finally:
        env.close()
    if not isinstance(env, Cycle):  # PettingZoo's conversion is not to be judged
        yield from _official(name, options)


def _spaces(env: Any) -> Iterator[Told]:
    for word in ("observation_space", "action_space"):
        new = [agent for agent in env.possible_agents if getattr(env, word)(agent) is not getattr(env, word)(agent)]
        if new:
            yield (
                "warning",
                f"{word}({new[0]!r}) makes a new space at every call; keep one per agent, or seeding it has no effect.",
            )


def _with(options: Mapping[str, Any]) -> str:
    return f" with {', '.join(f'{key}={value!r}' for key, value in options.items())}" if options else ""


def _play(env: Any, name: str, max_steps: int | None) -> Iterator[Told]:
    """Episodes of random legal actions in the environment's own words; each odd thing is told once."""
    told: set[str] = set()
    rng = np.random.default_rng(0)
    until, steps = time.perf_counter() + _SECONDS, 0
    for episode in range(_EPISODES):
        observations, infos = begin(env, name, episode)
        length = 0
        while env.agents and steps < _STEPS and time.perf_counter() < until and length != max_steps:
            for agent in env.agents:
                for topic, sentence in _odd(env.observation_space(agent), observations.get(agent), agent):
                    if topic not in told:
                        told.add(topic)
                        yield "warning", sentence
            actions = {agent: _legal(env, agent, observations, infos, rng) for agent in env.agents}
            before = list(env.agents)
            observations, rewards, ends, cuts, infos = advance(env, name, actions)
            steps, length = steps + 1, length + 1
            for sentence in _untidy(before, env, observations, rewards, ends, cuts):
                if sentence not in told:
                    told.add(sentence)
                    yield "warning", sentence
    if not told:
        yield "ok", f"What it returned in {steps} steps is of its spaces, and 'agents' is kept as PettingZoo asks."


def _odd(space: Any, seen: Any, agent: str) -> Iterator[tuple[str, str]]:
    if is_masked(space) and isinstance(seen, Mapping):
        space, seen = space["observation"], seen.get("observation")
    if not isinstance(space, spaces.Box) or not isinstance(seen, np.ndarray) or seen.shape != space.shape:
        return  # a fault that training names
    if seen.dtype != space.dtype:
        sentence = f"What agent {agent!r} sees is {seen.dtype}, but its space says {space.dtype}; make them the same."
        yield "dtype", sentence
    with np.errstate(invalid="ignore"):
        outside = bool((seen < space.low).any() or (seen > space.high).any())
    if outside:
        yield (
            "bounds",
            f"Agent {agent!r} sees {float(seen.min()):.4g} to {float(seen.max()):.4g}, which is outside of the low and "
            "high of its space; correct the bounds.",
        )


def _legal(env: Any, agent: str, observations: Any, infos: Any, rng: np.random.Generator) -> Any:
    space, seen = env.action_space(agent), observations.get(agent)
    mask = seen.get("action_mask") if isinstance(seen, Mapping) else (infos.get(agent) or {}).get("action_mask")
    if isinstance(space, spaces.Discrete):
        allowed = np.flatnonzero(mask) if mask is not None else np.arange(int(space.n))
        return int(rng.choice(allowed if len(allowed) else np.arange(int(space.n)))) + int(space.start)
    return rng.uniform(space.low, space.high).astype(space.dtype)


def _untidy(before: list[str], env: Any, *answers: Mapping[str, Any]) -> Iterator[str]:
    _, _, ends, cuts = answers
    for agent in before:
        if ends.get(agent) and cuts.get(agent):
            yield "An agent is terminated and truncated at once; it is taken as terminated, so say only what is meant."
    over = all(ends.get(agent) or cuts.get(agent) for agent in before)
    if over and env.agents:
        yield "When the episode ends, 'agents' is not emptied; set self.agents = [] there."
    if any(type(flags.get(agent)) not in (bool, np.bool_) for flags in (ends, cuts) for agent in before):
        yield "Terminations and truncations are not all True or False; return booleans."
    strangers = {agent for answer in answers for agent in answer} - set(before) - set(env.agents)
    if strangers:
        yield "step answers for agents that are not in 'agents'; leave those out who have ended before."


def _official(name: str, options: Mapping[str, Any]) -> Iterator[Told]:
    """PettingZoo's `parallel_api_test`, whose verdict is a hint: it plays illegal actions where masks are in infos."""
    env = open_environment(name, options)
    _, infos = begin(env, name, 0)
    if any("action_mask" in (info or {}) for info in infos.values()):
        return
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            parallel_api_test(env, num_cycles=50)
    except Exception as error:
        words = " ".join(str(error).split())
        yield (
            "warning",
            f"PettingZoo's own parallel_api_test fails ({type(error).__name__}: {words}); see to that first.",
        )
    else:
        yield "ok", "PettingZoo's own parallel_api_test passes."
    finally:
        env.close()


def _play_in_turn(env: TurnBased, name: str, max_steps: int | None) -> Iterator[Told]:
    yield (
        "warning",
        "It is a turn-based (AEC) game: it can be evaluated, but cannot be trained on; if its agents all act in each "
        "cycle, set metadata['is_parallelizable'] = True.",
    )
    flat = FlatParallel(env, name, max_steps=max_steps)
    rng, lengths, totals = np.random.default_rng(0), [], []
    for episode in range(_EPISODES):
        observations, infos = flat.reset(seed=episode)
        length, earned = 0, dict.fromkeys(flat.possible_agents, 0.0)
        while flat.agents and length < _STEPS:
            actions = {agent: _legal(flat, agent, observations, infos, rng) for agent in flat.agents}
            observations, rewards, _, _, infos = flat.step(actions)
            earned = {agent: earned[agent] + rewards.get(agent, 0.0) for agent in earned}
            length += 1
        if flat.agents:
            yield "warning", f"A game did not end within {_STEPS} moves; if it may go on for ever, set env.max_steps."
            return
        lengths.append(length)
        totals.append(earned)
    if not any(any(earned.values()) for earned in totals):
        yield "warning", f"Nobody earned anything in {len(totals)} games of random play; see whether rewards are given."
    yield "ok", f"{len(lengths)} games of random legal moves ended, after {min(lengths)} to {max(lengths)} moves."
