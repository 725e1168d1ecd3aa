"""Any `VectorEnv` as a TorchRL environment, so that TorchRL's collectors and losses take it.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action.
"""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from .interface import Discrete, Group, Step, VectorEnv, View


class TorchRLEnv(EnvBase):  # type: ignore[misc]
    """`env` with specs and nested keys, batch size `[E]`; it takes the environment over and switches auto-reset off.

    Under each group's name: `observation [E, N, O]`, `action` (int64 `[E, N]` or float32 `[E, N, A]`), `reward`,
    `done`, `terminated`, `truncated` (each `[E, N, 1]`), `action_mask [E, N, A]` where the group is masked, and
    `alive [E, N]` where it can lose agents. At the root: `done`, `terminated`, `truncated` of the environment `[E, 1]`.
    An agent that has ended stays `done`, and is paid nothing, until its environment begins anew. `group_map` names the
    agents of each group. A row of `action_mask` is never empty: an agent that can do nothing may do action 0.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(device=env.device, batch_size=torch.Size([env.num_envs]))
        env.auto_reset = False
        self.vector = env
        self.group_map = {name: list(group.agents) for name, group in env.groups.items()}
        self._seed: int | None = None
        self._ended: dict[str, tuple[Tensor, Tensor]] = {}  # terminated and truncated so far, [E, N] by group
        mortal = set(env.reset().alive)
        self._declare(mortal)

    def _declare(self, mortal: set[str]) -> None:
        e = self.batch_size[0]
        observations, actions, rewards, dones = ({} for _ in range(4))
        for name, group in self.vector.groups.items():
            n = len(group.agents)
            seen: dict[str, TensorSpec] = {"observation": Unbounded((e, n, group.observation), device=self.device)}
            if group.masked:
                seen["action_mask"] = Binary(group.action.size, (e, n, group.action.size), self.device, torch.bool)
            if name in mortal:
                seen["alive"] = Categorical(2, (e, n), self.device, torch.bool)
            observations[name] = Composite(seen, shape=(e, n))
            actions[name] = Composite({"action": _action_spec(group, e, self.device)}, shape=(e, n))
            rewards[name] = Composite({"reward": Unbounded((e, n, 1), device=self.device)}, shape=(e, n))
            dones[name] = Composite(_done_specs((e, n, 1), self.device), shape=(e, n))
        shape = self.batch_size
        self.observation_spec = Composite(observations, shape=shape)
        self.action_spec = Composite(actions, shape=shape)
        self.reward_spec = Composite(rewards, shape=shape)
        self.done_spec = Composite({**dones, **_done_specs((e, 1), self.device)}, shape=shape)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDictBase:
        rows = None if tensordict is None else tensordict.get("_reset", None)
        if rows is None or bool(rows.all()):
            view = self.vector.reset(self._seed)
            self._ended, self._seed = {}, None
        else:
            rows = rows.reshape(self.batch_size).to(self.vector.device)  # a seed waits until all begin anew
            view = self.vector.reset_rows(rows)
            self._ended = {
                name: (terminated & ~rows[:, None], truncated & ~rows[:, None])
                for name, (terminated, truncated) in self._ended.items()
            }
        return TensorDict(self._seen(view), self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = {name: tensordict.get((name, "action")).to(self.vector.device) for name in self.vector.groups}
        step = self.vector.step(actions)
        leaves = self._seen(step.view)
        late = torch.zeros_like(step.done)
        for name, leaf in leaves.items():
            terminated, truncated = self._latch(name, step)
            leaf["reward"] = step.reward[name].unsqueeze(-1)
            leaf["terminated"] = terminated.unsqueeze(-1)
            leaf["truncated"] = truncated.unsqueeze(-1)
            leaf["done"] = (terminated | truncated | step.done[:, None]).unsqueeze(-1)
            late = late | step.truncated[name].any(-1)
        late = late & step.done
        out = TensorDict(leaves, self.batch_size, device=self.device)
        out["done"] = step.done.unsqueeze(-1)
        out["terminated"] = (step.done & ~late).unsqueeze(-1)
        out["truncated"] = late.unsqueeze(-1)
        return out

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def _latch(self, name: str, step: Step) -> tuple[Tensor, Tensor]:
        terminated, truncated = step.terminated[name], step.truncated[name]
        if name in self._ended:
            before = self._ended[name]
            truncated = before[1] | (truncated & ~before[0])
            terminated = before[0] | (terminated & ~before[1])
        self._ended[name] = (terminated, truncated)
        return terminated, truncated

    def _seen(self, view: View) -> dict[str, TensorDict]:
        leaves = {}
        for name, group in self.vector.groups.items():
            seen = {"observation": view.observation[name]}
            if group.masked:
                seen["action_mask"] = _never_empty(view.mask[name])
                # random actions are drawn from the spec, which has to know what is legal now
                self.full_action_spec[name, "action"].update_mask(seen["action_mask"].to(self.device))
            if (name, "alive") in self.observation_spec.keys(True):
                seen["alive"] = view.alive[name]
            leaves[name] = TensorDict(seen, (*self.batch_size, len(group.agents)))
        return leaves


def _never_empty(mask: Tensor) -> Tensor:
    first = torch.arange(mask.shape[-1], device=mask.device) == 0
    return torch.where(mask.any(-1, keepdim=True), mask, first)


def _action_spec(group: Group, e: int, device: torch.device) -> TensorSpec:
    n, action = len(group.agents), group.action
    if isinstance(action, Discrete):
        return Categorical(action.n, (e, n), device, torch.int64)
    if not all(map(math.isfinite, (*action.low, *action.high))):
        return Unbounded((e, n, action.size), device=device)
    low, high = (torch.tensor(edge, device=device).expand(e, n, -1).clone() for edge in (action.low, action.high))
    return Bounded(low, high, (e, n, action.size), device, torch.float32)


def _done_specs(shape: tuple[int, ...], device: torch.device) -> dict[str, TensorSpec]:
    return {name: Categorical(2, shape, device, torch.bool) for name in ("done", "terminated", "truncated")}
