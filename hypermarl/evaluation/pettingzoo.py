"""Evaluate any player on any PettingZoo ParallelEnv; nothing here knows what the player is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import Episodes


class Player(Protocol):
    """Whoever plays: a team of trained policies, a random one, a person."""

    def reset(self, agents: list[str], seed: int | None = None) -> None:
        """A new episode begins with these agents; forget the last one. The seed decides what is drawn at random."""

    def act(self, observations: Mapping[str, Any], masks: Mapping[str, NDArray[Any]] | None = None) -> dict[str, Any]:
        """An action for each agent that observes. `masks` hold the legal actions of those that have some forbidden."""


Watch = Callable[[Any, int, Mapping[str, float]], None]
"""(env, step, rewards so far by agent), called after the reset (step 0) and after every step."""


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """A seed for each episode; evaluations with neighbouring seeds share none, a longer one begins like a shorter."""
    words = np.random.SeedSequence(seed).generate_state(episodes)
    return [int(word) & 0x7FFFFFFF for word in words]  # some environments refuse more than 31 bits


def evaluate(
    player: Player,
    make_env: Callable[[], Any],
    episodes: int,
    seed: int,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    longest: int = 100_000,
    watch: Watch | None = None,
) -> Episodes:
    """Play `episodes` episodes one after another, each reset with a seed of its own.

    `groups` says who plays on one side, for the report. Agents that leave early earn nothing from then on. An episode
    of more than `longest` steps is taken for one that never ends, and refused.
    """
    if episodes < 1:
        raise UserError(f"An evaluation needs at least one episode, not {episodes}.")
    env = make_env()
    try:
        played = [_play(player, env, word, longest, watch) for word in episode_seeds(seed, episodes)]
        known = getattr(env, "possible_agents", None)
        agents = tuple(known) if known else tuple(dict.fromkeys(agent for totals, _, _ in played for agent in totals))
    finally:
        env.close()
    return Episodes(
        agents=agents,
        returns=np.array([[totals.get(agent, 0.0) for agent in agents] for totals, _, _ in played], dtype=np.float64),
        lengths=np.array([length for _, _, length in played], dtype=np.int64),
        alive=np.array([[acted.get(agent, 0) for agent in agents] for _, acted, _ in played], dtype=np.int64),
        environment=np.zeros(len(played), dtype=np.int64),
        groups={name: tuple(members) for name, members in (groups or {}).items()},
    )


def _play(
    player: Player, env: Any, seed: int, longest: int, watch: Watch | None
) -> tuple[dict[str, float], dict[str, int], int]:
    observations, infos = env.reset(seed=seed)
    player.reset(list(env.agents), seed)
    totals: dict[str, float] = {agent: 0.0 for agent in env.agents}
    acted: dict[str, int] = {agent: 0 for agent in env.agents}
    length = 0
    if watch:
        watch(env, 0, totals)
    while env.agents:
        if length >= longest:
            raise UserError(f"An episode did not end within {longest} steps; set env.max_steps.")
        living = list(env.agents)
        plain, masks = split_masks({agent: observations[agent] for agent in living}, infos)
        observations, rewards, _, _, infos = env.step(player.act(plain, masks))
        length += 1
        for agent in living:
            totals[agent] = totals.get(agent, 0.0) + float(rewards.get(agent, 0.0))
            acted[agent] = acted.get(agent, 0) + 1
        if watch:
            watch(env, length, totals)
    return totals, acted, length


def split_masks(
    observations: Mapping[str, Any], infos: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[np.bool_]]]:
    """Observations without, and legal actions from, a Dict observation's or an info's `action_mask`."""
    plain: dict[str, Any] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for agent, observation in observations.items():
        mask = (infos or {}).get(agent, {}).get("action_mask")
        if isinstance(observation, Mapping) and "action_mask" in observation:
            mask = observation["action_mask"]
            rest = {key: value for key, value in observation.items() if key != "action_mask"}
            observation = rest["observation"] if set(rest) == {"observation"} else rest
        plain[agent] = observation
        if mask is not None:
            masks[agent] = np.asarray(mask).astype(bool)
    return plain, masks
