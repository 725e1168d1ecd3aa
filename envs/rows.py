"""PettingZoo environments of one process, each stepped into its row of a board of arrays.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .board import Board, episode_seed
from .bridge import Form, Infos, Observations, advance, begin, fault, open_environment, survey
from .interface import Discrete, EnvironmentFault, Group
from .spaces import Misfit, Reader, Writer, is_masked
from .turns import TurnBased, as_parallel


@dataclass(slots=True)
class _Seat:
    """One agent's place on the board; scalars are views of one element."""

    agent: str
    write: Writer
    read: Reader
    discrete: bool
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    alive: np.ndarray
    action: np.ndarray
    mask: np.ndarray | None


class _Row:
    """One environment, and who of its agents is alive."""

    def __init__(self, name: str, env: Any, form: Form, board: Board, row: int) -> None:
        self.name, self.env = name, env
        self.views = [(board[f"observation/{g}"][row], board[f"final/{g}"][row]) for g in form.groups]
        self.seats: dict[str, _Seat] = {}
        self.nested = {agent: is_masked(env.observation_space(agent)) for agent in env.possible_agents}
        for group in form.groups.values():
            for i, agent in enumerate(group.agents):
                self.seats[agent] = _seat(agent, group, form, board, row, i)
        self.live: dict[str, _Seat] = {}
        self.gone: set[str] = set()

    def start(self, seed: int) -> None:
        """Begin an episode."""
        for seat in self.seats.values():
            self._empty(seat)
        self.live, self.gone = {}, set()
        observations, infos = begin(self.env, self.name, seed)
        for agent in self.env.agents:
            self._enter(agent, observations, infos)
        if not self.live:
            raise fault(self.name, "reset left no agent in 'agents'")

    def step(self, time_is_up: bool) -> bool:
        """One step with the actions on the board; whether the episode has ended. Rewards and flags were cleared."""
        live = self.live
        actions = {agent: seat.read(seat.action[0] if seat.discrete else seat.action) for agent, seat in live.items()}
        observations, rewards, ends, cuts, infos = advance(self.env, self.name, actions)
        ended = []
        for agent, seat in live.items():
            try:
                over, cut = bool(ends[agent]), bool(cuts[agent])
                seat.reward[0] = rewards[agent]
            except (KeyError, TypeError, ValueError) as error:
                raise self._unpaid(agent, rewards, ends, cuts) from error
            if not (over or cut or time_is_up):
                self._see(seat, observations, infos)
                continue
            (seat.terminated if over else seat.truncated)[0] = True
            ended.append(seat)
            if agent in observations or not over:  # the value of a truncated agent is that of what it sees last
                self._look(seat, observations)
            else:
                seat.observation[...] = 0.0
        if ended:
            self._part(ended)
        if self.live:
            agents = self.env.agents
            if len(agents) != len(self.live) or any(agent not in self.live for agent in agents):
                self._change(agents, observations, infos)
        return not self.live

    def _part(self, ended: list[_Seat]) -> None:
        for observation, final in self.views:
            final[...] = observation
        for seat in ended:
            if not np.isfinite(seat.observation).all():
                raise fault(self.name, f"the observation of agent {seat.agent!r} {_not_finite(seat.observation)}")
            self._empty(seat)
            del self.live[seat.agent]
            self.gone.add(seat.agent)

    def _enter(self, agent: str, observations: Observations, infos: Infos) -> None:
        if agent not in self.seats:
            raise fault(self.name, f"agent {agent!r} is in 'agents', but not in 'possible_agents'")
        seat = self.seats[agent]
        self._see(seat, observations, infos)
        seat.alive[0] = True
        self.live[agent] = seat

    def _empty(self, seat: _Seat) -> None:
        seat.observation[...] = 0.0
        seat.alive[0] = False
        if seat.mask is not None:  # never none: a policy's logits must stay finite
            seat.mask[...] = False
            seat.mask[0] = True

    def _see(self, seat: _Seat, observations: Observations, infos: Infos) -> None:
        self._look(seat, observations)
        if seat.mask is None:
            return
        agent = seat.agent
        try:
            given = observations[agent]["action_mask"] if self.nested[agent] else infos[agent]["action_mask"]
        except (KeyError, TypeError) as error:
            raise fault(self.name, f"gave no action mask for agent {agent!r}") from error
        mask = np.asarray(given)
        if mask.shape != seat.mask.shape:
            raise fault(
                self.name, f"the action mask of agent {agent!r} has shape {mask.shape} for {seat.mask.size} actions"
            )
        seat.mask[...] = mask
        if not seat.mask.any():
            raise fault(self.name, f"the action mask of agent {agent!r} allows no action, though it is to act")

    def _look(self, seat: _Seat, observations: Observations) -> None:
        agent = seat.agent
        try:
            seen = observations[agent]["observation"] if self.nested[agent] else observations[agent]
        except (KeyError, TypeError) as error:
            raise fault(self.name, f"gave no observation for agent {agent!r}") from error
        try:
            seat.write(seen, seat.observation)
        except Misfit as error:
            raise fault(self.name, f"the observation of agent {agent!r} {error}") from error
        except (TypeError, ValueError) as error:
            raise fault(self.name, f"the observation of agent {agent!r} cannot be read: {error}") from error

    def _unpaid(self, agent: str, *answers: Mapping[str, Any]) -> EnvironmentFault:
        for word, answer in zip(("reward", "termination", "truncation"), answers, strict=True):
            if agent not in answer:
                return fault(self.name, f"step gave no {word} for agent {agent!r}, which is alive")
        reward, *flags = (answer[agent] for answer in answers)
        try:
            float(reward)
        except (TypeError, ValueError):
            return fault(self.name, f"the reward of agent {agent!r} is no number but {reward!r}")
        return fault(self.name, f"the flags that say whether agent {agent!r} has ended are no booleans but {flags!r}")

    def _change(self, agents: list[str], observations: Observations, infos: Infos) -> None:
        for agent in self.live:
            if agent not in agents:
                raise fault(self.name, f"agent {agent!r} left 'agents' without being terminated or truncated")
        for agent in agents:
            if agent in self.gone:
                raise fault(
                    self.name,
                    f"agent {agent!r} has ended, but is in 'agents' again; take it out when it ends, since an agent "
                    "cannot come back within an episode",
                )
            if agent not in self.live:
                self._enter(agent, observations, infos)


def _seat(agent: str, group: Group, form: Form, board: Board, row: int, i: int) -> _Seat:
    def one(word: str) -> np.ndarray:
        return board[f"{word}/{group.name}"][row, i : i + 1]

    discrete = isinstance(group.action, Discrete)
    return _Seat(
        agent,
        form.observations[agent].writer(),
        form.actions[agent].reader(),
        discrete,
        observation=board[f"observation/{group.name}"][row, i],
        reward=one("reward"),
        terminated=one("terminated"),
        truncated=one("truncated"),
        alive=one("alive"),
        action=one("action") if discrete else board[f"action/{group.name}"][row, i],
        mask=board[f"mask/{group.name}"][row, i] if group.masked else None,
    )


class Rows:
    """Environments `start` to `stop` of a board. Each episode is reset with `episode_seed` of its place and number."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        form: Form,
        board: Board,
        *,
        max_steps: int | None,
        start: int = 0,
        stop: int | None = None,
        first: Any = None,
    ) -> None:
        """`first` is an environment that is already open."""
        self.name, self.form, self.board, self.max_steps = name, form, board, max_steps
        self.start, self.stop = start, board.num_envs if stop is None else stop
        self.offset = 0  # how much larger the number of each environment is than its place, for its seeds
        self.envs = [] if first is None else [first]
        while len(self.envs) < self.stop - self.start:
            self.envs.append(open_to_train(name, options)[0])
        self.rows = [_Row(name, env, form, board, start + i) for i, env in enumerate(self.envs)]

    def reset(self) -> None:
        """Begin anew where `restart`."""
        for e in range(self.start, self.stop):
            if self.board["restart"][e]:
                self._begin(e)
        self._check_finite()

    def step(self, auto_reset: bool) -> None:
        """Advance where `active`; one that is over stays as it is."""
        board = self.board
        for name in self.form.groups:
            for word in ("reward", "terminated", "truncated"):
                board[f"{word}/{name}"][self.start : self.stop] = 0
        board["done"][self.start : self.stop] = False
        active, over, done, length = (board[word] for word in ("active", "over", "done", "length"))
        for e, row in enumerate(self.rows, self.start):
            if not active[e] or over[e]:
                done[e] = over[e]
                continue
            length[e] += 1
            if row.step(self.max_steps is not None and length[e] >= self.max_steps):
                done[e] = True
                if auto_reset:
                    board["episode"][e] += 1
                    self._begin(e)
                else:
                    over[e] = True
        self._check_finite()

    def close(self) -> None:
        for env in self.envs:
            with contextlib.suppress(Exception):  # it is being thrown away
                env.close()
        self.envs = []

    def _begin(self, e: int) -> None:
        board = self.board
        board["length"][e], board["over"][e] = 0, False
        seed = episode_seed(int(board["seed"][0]), e + self.offset, int(board["episode"][e]))
        self.rows[e - self.start].start(seed)

    def _check_finite(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            for name, group in self.form.groups.items():
                for word in ("reward", "observation"):
                    block = self.board[f"{word}/{name}"][self.start : self.stop]
                    if np.isfinite(block.sum()):  # not finite if one is not; the other way round for huge ones only
                        continue
                    for _, i, *_ in np.argwhere(~np.isfinite(block)).tolist():
                        numbers = block[:, i]
                        raise fault(self.name, f"the {word} of agent {group.agents[i]!r} {_not_finite(numbers)}")


def open_to_train(name: str, options: Mapping[str, Any], render_mode: str | None = None) -> tuple[Any, Form]:
    """An environment whose agents move together, and what they see and do; a turn-based game is a fault."""
    env = as_parallel(open_environment(name, options, render_mode), name)
    if isinstance(env, TurnBased):
        raise fault(
            name,
            "is a turn-based (AEC) game: it can be evaluated, but not trained on; if its agents all act in each cycle, "
            "set metadata['is_parallelizable'] = True",
        )
    return env, survey(env, name)


def _not_finite(numbers: np.ndarray) -> str:
    return "holds NaN" if np.isnan(numbers).any() else "is infinite"
