"""Any PettingZoo environment in several processes: `mpe2.simple_spread_v3`, or one's own `my_pkg.module:make`.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action, `L` steps of the longest episode.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .board import Board
from .bridge import fault, open_environment
from .flat import FlatParallel, flattened
from .interface import Discrete, EnvironmentFault, Group, Step, View
from .rows import Rows, open_to_train
from .turns import as_parallel
from .twin import Twin
from .workers import RESET, STEP, STEP_ONLY, Crew

CATALOGUE: dict[str, str] = {
    "mpe2.simple_spread_v3": "three agents cover three landmarks without colliding",
    "mpe2.simple_tag_v3": "three slow chasers and a fast runner (two groups)",
    "mpe2.simple_speaker_listener_v4": "a speaker tells a listener where to go (two groups)",
    "mpe2.simple_reference_v3": "two agents tell each other where to go",
    "mpe2.simple_adversary_v3": "two agents keep an adversary from their landmark (two groups)",
    "mpe2.simple_crypto_v3": "two agents share a secret that a third must not read",
    "mpe2.simple_push_v3": "an adversary keeps an agent from its landmark (two groups)",
    "mpe2.simple_world_comm_v3": "a led pack of chasers in a world with forests (three groups)",
    "butterfly.knights_archers_zombies_v11": "knights and archers hold off zombies, and may die",
    "butterfly.pistonball_v6": "twenty pistons roll a ball to the left, from images",
    "butterfly.cooperative_pong_v6": "two paddles keep a ball in play, from images",
    "sisl.multiwalker_v9": "three walkers carry a parcel",
    "sisl.pursuit_v5": "eight pursuers surround evaders on a grid",
    "classic.rps_v2": "rock, paper, scissors",
    "classic.tictactoe_v3": "noughts and crosses; turn-based, so to be evaluated only",
    "classic.connect_four_v3": "four in a row; turn-based, so to be evaluated only",
}
_LONG = 5000  # steps; a longer episode is not replayed just to see that it can be
_PATIENCE = 0.5  # seconds for that


def make(
    name: str,
    *,
    num_envs: int,
    device: str | torch.device = "cpu",
    max_steps: int | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> PettingZooVector:
    """`num_envs` copies, stepped in `workers` processes of which this is one; 0 and 1 are both this one alone."""
    return PettingZooVector(
        name, num_envs=num_envs, device=device, max_steps=max_steps, workers=workers, options=options or {}
    )


def make_parallel(
    name: str, *, max_steps: int | None = None, options: Mapping[str, Any] | None = None, render_mode: str | None = None
) -> FlatParallel:
    """One copy to evaluate on, with flat observations; of a turn-based game the parallel form."""
    env = as_parallel(open_environment(name, options or {}, render_mode), name)
    return flattened(env, name, max_steps=max_steps, render_mode=render_mode)


class PettingZooVector:
    """E copies of a PettingZoo environment behind the `VectorEnv` interface.

    An agent that dies keeps its place until the episode ends: it sees zeros, earns nothing, and `alive` is False.
    Episode number k of environment e is reset with a seed that is a function of (seed, e, k). Its state is these
    numbers and the actions taken since, which are replayed to continue; where that does not give what was seen (an
    environment that draws from a generator it does not seed), there is no state.
    """

    def __init__(
        self,
        name: str,
        *,
        num_envs: int,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        workers: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.num_envs, self.device = name, num_envs, torch.device(device)
        self.auto_reset = True
        self._options = dict(options or {})
        self._stepped_to = max_steps
        first, self._form = open_to_train(name, self._options)
        self.groups: dict[str, Group] = self._form.groups
        clocks = [max_steps, getattr(getattr(first, "unwrapped", first), "max_cycles", None)]
        self.max_steps: int | None = min((clock for clock in clocks if isinstance(clock, int)), default=None)
        self._crew: Crew | None = None
        workers = max(min(workers, num_envs), 1)
        mine = num_envs // workers
        if workers > 1:
            self._crew = Crew(
                name, self._options, self.groups, num_envs, start=mine, processes=workers - 1, max_steps=max_steps
            )
        self._board = Board(self.groups, num_envs) if self._crew is None else self._crew.board
        self._rows: Rows | None = Rows(
            name, self._options, self._form, self._board, max_steps=max_steps, stop=mine, first=first
        )
        self._tensors = {key: torch.from_numpy(array) for key, array in self._board.arrays.items()}
        self._closed = ""
        self._begun = self._whole = False
        self._replays = True
        self._twin: Twin | None = None
        self._forget()

    # -- stepping

    def reset(self, seed: int | None = None) -> View:
        self._settle()
        board = self._board
        if seed is not None or not self._begun:
            board["seed"][0] = (secrets.randbits(63) if seed is None else seed) % 2**63
            board["episode"][:] = 0
        else:
            board["episode"][:] += 1
        board["restart"][:] = True
        self._whole = False
        self._command(RESET)
        self._forget()
        self._begun = self._whole = True
        return self._view()

    def reset_rows(self, rows: Tensor) -> View:
        if not self._begun:
            return self.reset()
        self._settle()
        board = self._board
        board["restart"][:] = rows.cpu().numpy()
        board["episode"][board["restart"]] += 1
        whole, self._whole = self._whole, False
        self._command(RESET)
        self._begins[board["restart"]] = self._time
        self._prune()
        self._whole = whole
        return self._view()

    def step(self, actions: dict[str, Tensor]) -> Step:
        if not self._begun:
            raise fault(self.name, "it must be reset before its first step")
        self._settle()
        self._take(actions)
        whole, self._whole = self._whole, False  # an interrupt from here on leaves history and rows apart
        self._command(STEP if self.auto_reset else STEP_ONLY)
        self._past.append({g: self._board[f"action/{g}"].copy() for g in self.groups})
        self._time += 1
        done = self._board["done"]
        if self.auto_reset and done.any():
            self._begins[done] = self._time
            self._prune()
        self._whole = whole
        return self._answer()

    def _take(self, actions: dict[str, Tensor]) -> None:
        for name, group in self.groups.items():
            given, taken = actions[name], self._tensors[f"action/{name}"]
            if given.shape != taken.shape:
                raise fault(
                    self.name,
                    f"actions of group {name!r} must have shape {tuple(taken.shape)}, not {tuple(given.shape)}",
                )
            taken.copy_(given)
            array = self._board[f"action/{name}"]
            if isinstance(group.action, Discrete):
                if array.min() < 0 or array.max() >= group.action.n:
                    raise fault(self.name, f"actions of group {name!r} must be from 0 to {group.action.n - 1}")
            elif not np.isfinite(array).all():
                raise fault(self.name, f"the policy of group {name!r} chose an action that is not finite")

    def _settle(self) -> None:
        """Nobody reads or writes the board from here on; an interrupted command may have left workers at it."""
        if self._crew is not None:
            with self._failing():
                self._crew.collect()

    def _command(self, word: bytes) -> None:
        if self._closed:
            raise fault(self.name, self._closed)
        assert self._rows is not None
        with self._failing():
            if self._crew is not None:
                self._crew.send(word)
            self._rows.reset() if word == RESET else self._rows.step(auto_reset=word == STEP)
            if self._crew is not None:
                self._crew.collect()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """A fault inside ends it all."""
        try:
            yield
        except EnvironmentFault as error:
            self.close()
            self._closed = f"it is closed since it failed ({str(error).rstrip('.')})"
            raise

    def _answer(self) -> Step:
        kept, groups = self._keep, self.groups
        view, done = self._view(), kept("done")
        terminated = {g: kept(f"terminated/{g}") for g in groups}
        truncated = {g: kept(f"truncated/{g}") for g in groups}
        final = view.observation
        if any(self._board[f"{word}/{g}"].any() for g in groups for word in ("terminated", "truncated")) or done.any():
            ended = done
            for g in groups:
                ended = ended | terminated[g].any(-1) | truncated[g].any(-1)
            final = {g: torch.where(ended[:, None, None], kept(f"final/{g}"), view.observation[g]) for g in groups}
        if not self.auto_reset:  # nothing comes after the last observation before a reset
            seen = {g: torch.where(done[:, None, None], final[g], view.observation[g]) for g in groups}
            view = View(seen, view.mask, view.alive)
        return Step(view, {g: kept(f"reward/{g}") for g in groups}, terminated, truncated, final, done)

    def _view(self) -> View:
        return View(
            {g: self._keep(f"observation/{g}") for g in self.groups},
            {g: self._keep(f"mask/{g}") for g, group in self.groups.items() if group.masked},
            {g: self._keep(f"alive/{g}") for g in self.groups},
        )

    def _keep(self, key: str) -> Tensor:
        """A copy that the next step does not overwrite."""
        tensor = self._tensors[key]
        return tensor.clone() if self.device.type == "cpu" else tensor.to(self.device)

    # -- what has been done since the episodes began

    def _forget(self) -> None:
        self._past: deque[dict[str, np.ndarray]] = deque()  # actions, the last at time - 1
        self._time = 0
        self._begins = np.zeros(self.num_envs, np.int64)  # the time at which each episode began

    def _prune(self) -> None:
        while len(self._past) > self._time - int(self._begins.min()):
            self._past.popleft()

    def _episode(self, e: int) -> list[dict[str, np.ndarray]]:
        """The actions of environment e in its episode, each by group `[1, N]` or `[1, N, A]`."""
        skip = len(self._past) - (self._time - int(self._begins[e]))
        length = int(self._board["length"][e])
        return [{g: each[g][e : e + 1] for g in self.groups} for each in list(self._past)[skip : skip + length]]

    def state_dict(self) -> dict[str, Tensor] | None:
        """Seed, episode numbers and lengths, the actions of the episodes `[L, E, N(, A)]`, and what is seen now."""
        if not self._whole or self._closed or not self._replayable():
            return None
        board = self._board
        state = {word: torch.from_numpy(board[word].copy()) for word in ("seed", "episode", "length", "over")}
        longest = int(board["length"].max())
        for g in self.groups:
            actions = np.zeros((longest, *board[f"action/{g}"].shape), board[f"action/{g}"].dtype)
            for e in range(self.num_envs):
                for t, each in enumerate(self._episode(e)):
                    actions[t, e] = each[g][0]
            state[f"action/{g}"] = torch.from_numpy(actions)
            state[f"observation/{g}"] = torch.from_numpy(board[f"observation/{g}"].copy())
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> View:
        self._settle()
        board = self._board
        for key in (
            "seed",
            "episode",
            "length",
            "over",
            *(f"{w}/{g}" for g in self.groups for w in ("observation", "action")),
        ):
            expected = board[key].shape
            found = (
                tuple(state[key].shape[1:] if key.startswith("action/") else state[key].shape) if key in state else None
            )
            if found != expected:
                raise fault(self.name, f"the stored state is of another environment or another number of them ({key})")
        state = {key: tensor.cpu() for key, tensor in state.items()}
        length = state["length"].numpy()
        board["seed"][:], board["episode"][:] = state["seed"].numpy(), state["episode"].numpy()
        board["restart"][:] = True
        self._begun, self._whole = True, False
        self._command(RESET)
        self._forget()
        for t in range(int(length.max())):
            board["active"][:] = t < length
            for g in self.groups:
                self._tensors[f"action/{g}"].copy_(state[f"action/{g}"][t])
            self._command(STEP_ONLY)
            self._past.append({g: board[f"action/{g}"].copy() for g in self.groups})
        board["active"][:] = True
        self._time = int(length.max())
        same = all(np.array_equal(board[key], state[key].numpy()) for key in ("length", "over"))
        for g in self.groups:
            same = same and np.array_equal(board[f"observation/{g}"], state[f"observation/{g}"].numpy())
        if not same:
            raise fault(
                self.name,
                "replaying its stored actions does not give what was seen then, so it cannot be continued exactly; "
                "reset(seed) must seed every random generator it uses",
            )
        self._whole = True
        return self._view()

    def _replayable(self) -> bool:
        """Whether a fresh copy that replays an episode sees, bit for bit, what that episode sees; once no, always no.

        As many episodes are tried as half a second allows. Later ones come first: what an environment keeps from one
        episode to the next is not seen in its first.
        """
        until = time.perf_counter() + _PATIENCE
        later, length = self._board["episode"] > 0, self._board["length"]
        for e in np.lexsort((-length, ~later)).tolist():
            if self._replays and length[e] <= _LONG:
                self._replays = self._replay(e, None)
            if not self._replays or time.perf_counter() > until:
                break
        return self._replays

    def _replay(self, e: int, render_mode: str | None) -> bool:
        if self._twin is None or self._twin.render_mode != render_mode:
            if self._twin is not None:
                self._twin.close()
            self._twin = Twin(self.name, self._options, self._stepped_to, render_mode)
        twin, board = self._twin, self._board
        twin.follow(int(board["seed"][0]), e, int(board["episode"][e]), self._episode(e))
        return all(
            np.array_equal(twin.board[f"{word}/{g}"][0], board[f"{word}/{g}"][e])
            for g in self.groups
            for word in ("observation", "alive")
        )

    # -- the rest

    def render(self) -> np.ndarray:
        """A picture of a copy that is brought to where environment 0 is; training copies never draw."""
        if not self._begun:
            self.reset()
        if not self._replay(0, "rgb_array"):
            raise fault(self.name, "it cannot be drawn: a copy with the same seed and actions sees something else")
        assert self._twin is not None
        return self._twin.picture()

    def close(self) -> None:
        for each in (self._crew, self._rows, self._twin):
            if each is not None:
                each.close()
        self._crew, self._rows, self._twin = None, None, None
        self._closed = self._closed or "it is closed"
