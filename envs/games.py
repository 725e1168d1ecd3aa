"""Two games on who chooses what: be different (Specialisation) or be alike (Synchronisation).

Source: Tessera, Rahman, Storkey, Albrecht, "HyperMARL", arXiv 2412.04233, appendix E. With k the number of agents that
chose what agent i chose, itself included, Specialisation pays 1/k and Synchronisation 1/(N - k + 1).

Letters: `E` environments, `N` agents, `O` observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .interface import Discrete, EnvironmentFault, Group, Step, View
from .options import nearest, read_options, whole_number

GROUP = "agents"
START = -1  # stands for "nobody has chosen yet", in the state and in what is seen


def specialisation(alike: Tensor, agents: int) -> Tensor:
    """What `alike` agents that chose the same earn each, of `agents` in all."""
    return 1.0 / alike


def synchronisation(alike: Tensor, agents: int) -> Tensor:
    """What `alike` agents that chose the same earn each, of `agents` in all."""
    return 1.0 / (agents - alike + 1)


PAYOFFS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "specialisation": specialisation,
    "synchronisation": synchronisation,
}

CATALOGUE: dict[str, str] = {
    "specialisation": "N agents earn more the fewer chose the same action",
    "synchronisation": "N agents earn more the more chose the same action",
}


@dataclass(frozen=True)
class GameOptions:
    """`temporal`: agents see the last joint action for `episode_steps` steps; otherwise a game is one blind choice.

    `terminate` says whether the last step ends the game for good, or only a clock cut it off. Left open, the
    one-choice game terminates (nothing follows it) and the temporal game is cut off (it could go on for ever).
    """

    n_agents: int = 4
    temporal: bool = True
    episode_steps: int = 10
    terminate: bool | None = None

    def __post_init__(self) -> None:
        # What is seen in the temporal game is N x N wide; the one-choice game only has N actions each.
        whole_number("n_agents", self.n_agents, 2, 4096 if self.temporal is False else 64)
        whole_number("episode_steps", self.episode_steps, 1)
        for name in ("temporal", "terminate"):
            if getattr(self, name) not in (True, False, None) or (name == "temporal" and self.temporal is None):
                raise ValueError(f"option {name!r} must be true or false, not {getattr(self, name)!r}.")


class MatrixGame:
    """E copies of one game of N agents with N actions each, stepped at once on `device`.

    All agents see the same: in the temporal game the last joint action, a flattened N x N one-hot, all -1 before the
    first; in the one-choice game the constant 1. Nothing is random, so seeds change nothing.
    """

    def __init__(
        self,
        payoff: Callable[[Tensor, int], Tensor],
        options: GameOptions,
        *,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
    ) -> None:
        n = options.n_agents
        length = options.episode_steps if options.temporal else 1
        self._terminate = not options.temporal if options.terminate is None else options.terminate
        self._length = length if self._terminate else None
        self.max_steps = max_steps if self._terminate else min(length, max_steps or length)
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.auto_reset = True
        self._payoff = payoff
        self._temporal = options.temporal
        agents = tuple(f"agent_{i}" for i in range(n))
        self.groups = {GROUP: Group(GROUP, agents, n * n if options.temporal else 1, Discrete(n))}
        self._n = n
        self._choices = torch.arange(n, device=self.device)
        self._chosen = torch.full((num_envs, n), START, device=self.device)  # [E, N] int64
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=self.device)  # [E]
        self._still = torch.ones(num_envs, n, 1, device=self.device)  # [E, N, 1], what the one-choice game shows

    def reset(self, seed: int | None = None) -> View:
        self._chosen = torch.full_like(self._chosen, START)
        self._age = torch.zeros_like(self._age)
        return self._view()

    def reset_rows(self, rows: Tensor) -> View:
        self._begin(rows)
        return self._view()

    def step(self, actions: dict[str, Tensor]) -> Step:
        chosen = actions[GROUP]
        count = torch.zeros_like(chosen, dtype=torch.float32)  # [E, N], how many chose each action
        alike = count.scatter_add_(1, chosen, torch.ones_like(count)).gather(1, chosen)  # [E, N], itself included
        self._chosen = chosen.clone()
        self._age = self._age + 1
        over = self._age >= self._length if self._length else torch.zeros_like(self._age, dtype=torch.bool)
        late = self._age >= self.max_steps if self.max_steps else torch.zeros_like(over)
        late = late & ~over
        done = over | late
        last = view = self._show(chosen)
        if self.auto_reset:
            self._begin(done)
            view = self._show(self._chosen)
        return Step(
            view=View({GROUP: view}),
            reward={GROUP: self._payoff(alike, self._n)},
            terminated={GROUP: over[:, None].expand(chosen.shape)},
            truncated={GROUP: late[:, None].expand(chosen.shape)},
            final={GROUP: last},
            done=done,
        )

    def state_dict(self) -> dict[str, Tensor] | None:
        return {"chosen": self._chosen.clone(), "age": self._age.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> View:
        self._chosen = state["chosen"].to(self.device, copy=True)
        self._age = state["age"].to(self.device, copy=True)
        return self._view()

    def render(self) -> np.ndarray:
        from .drawing import choices

        chosen = self._chosen[0].tolist()
        alike = torch.tensor([chosen.count(each) for each in chosen])
        reward = self._payoff(alike, self._n).tolist()
        return choices(chosen, reward, played=int(self._age[0]), steps=self._length or self.max_steps or 1)

    def close(self) -> None:
        """Nothing is held open."""

    def _begin(self, rows: Tensor) -> None:
        self._chosen = self._chosen.masked_fill(rows[:, None], START)
        self._age = self._age.masked_fill(rows, 0)

    def _view(self) -> View:
        return View({GROUP: self._show(self._chosen)})

    def _show(self, chosen: Tensor) -> Tensor:
        """`chosen [E, N]` as what each agent sees: `[E, N, O]`, one row of memory for all of them."""
        if not self._temporal:
            return self._still
        picked = (chosen[:, :, None] == self._choices).float()  # [E, N, N]
        seen = picked.masked_fill(chosen[:, :, None] == START, START).reshape(self.num_envs, 1, self._n * self._n)
        return seen.expand(self.num_envs, self._n, self._n * self._n)


def make(
    name: str,
    *,
    num_envs: int = 1,
    device: str | torch.device = "cpu",
    max_steps: int | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> MatrixGame:
    """The game `name`, one of `CATALOGUE`; `workers` has no effect, since all copies are one tensor."""
    if name not in PAYOFFS:
        raise EnvironmentFault(f"Environment 'games/{name}' does not exist; {nearest(name, PAYOFFS)}")
    chosen = read_options(GameOptions, options or {}, f"games/{name}")
    return MatrixGame(PAYOFFS[name], chosen, num_envs=num_envs, device=device, max_steps=max_steps)
