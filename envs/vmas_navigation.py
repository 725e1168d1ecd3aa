"""VMAS's navigation with all agents handled at once: goals, collisions, and a lidar that sees the other agents.

The lidar is what costs most in VMAS: for every ray, agent and other agent it looks for the nearest point on the ray, in
some forty operations. Here a coarse look finds the few rays that can meet somebody, and only they get VMAS's formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .vmas_contact import Near, Pairs
from .vmas_flight import Flight

_SLACK = 0.01  # as a share of the range: what the coarse look lets through although it may miss


def sees_alike(world: Any) -> bool:
    """Whether all agents have one and the same lidar that sees all other agents, or all have none."""
    from vmas.simulator.sensors import Lidar

    agents = world.agents
    sensors = [sensor for agent in agents for sensor in agent.sensors or []]
    if not sensors:
        return True
    first = sensors[0]
    return all(len(agent.sensors or []) == 1 for agent in agents) and all(
        type(sensor) is Lidar
        and sensor._max_range == first._max_range
        and torch.equal(sensor._angles, first._angles)
        and bool((sensor._angles == sensor._angles[0]).all())
        and all(sensor.entity_filter(agent) for agent in agents)
        and not any(sensor.entity_filter(landmark) for landmark in world.landmarks)
        for sensor in sensors
    )


class _Lidar:
    """Rays of all agents against all others that are near. They leave at fixed angles, for nobody turns."""

    def __init__(self, world: Any) -> None:
        self._sensors = [agent.sensors[0] for agent in world.agents]
        self.range = self._sensors[0]._max_range
        angles = self._sensors[0]._angles[0]
        self._rays = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)  # [R, 2]
        across = torch.stack([-torch.sin(angles), torch.cos(angles)], dim=-1)
        self._both = -torch.cat([self._rays, across]).T.contiguous()  # [2, 2R], for the way back from the other
        self._radius = torch.tensor(world.agents[0].shape.radius, device=world.device)
        self._slack = _SLACK * (self.range + world.agents[0].shape.radius)
        self._wide = world.agents[0].shape.radius + self._slack

    def measure(self, place: Tensor, near: Pairs) -> Tensor:
        """How far everybody at `place [N, E, 2]` sees along each ray, `[N, E, R]`."""
        rays = self._rays.shape[0]
        far = torch.full((*place.shape[:2], rays), self.range, device=place.device)
        ahead, beside = (near.away @ self._both).split(rays, dim=1)
        pair, ray = ((beside.abs() < self._wide) & (ahead > -self._slack)).nonzero().unbind(1)
        if pair.shape[0]:
            eye, body, flat = near.one.index_select(0, pair), near.other.index_select(0, pair), place.view(-1, 2)
            seen = self._meet(
                *(rows.index_select(0, which) for rows, which in ((flat, eye), (flat, body), (self._rays, ray)))
            )
            far.view(-1).scatter_reduce_(0, eye * rays + ray, seen, "amin")
        for sensor, measured in zip(self._sensors, far.unbind(), strict=True):
            sensor._last_measurement = measured  # drawn in pictures
        return far

    def _meet(self, eye: Tensor, body: Tensor, ray: Tensor) -> Tensor:
        """Where the `ray [K, 2]` from `eye [K, 2]` meets the disc around `body [K, 2]`, `[K]`: VMAS's formulas."""
        middle = eye + ray * (self.range / 2)
        nearest = middle - _dot(middle - body, ray).unsqueeze(-1) * ray
        off = torch.linalg.vector_norm(body - nearest, dim=-1)
        inside = self._radius**2 - off**2
        half = torch.sqrt(torch.where(inside > 0, inside, 1e-8))
        meets = (off < self._radius) & (_dot(body - eye, ray) > 0.0)
        return torch.where(meets, torch.linalg.vector_norm(nearest - eye, dim=-1) - half, self.range)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """`[K, 2]` and `[K, 2]` to `[K]`."""
    x, y = (one * other).unbind(-1)
    return x + y


class Navigation(Flight):
    """Agents that are paid for coming closer to their goals, once more while all are there, and fined for touching.

    VMAS fines those who nearly touch only if the same two overlap in any other environment. Here an environment is
    judged by itself, so that nothing passes from one to another: whoever comes that near is fined.
    """

    def __init__(self, scenario: Any, world: Any) -> None:
        super().__init__(scenario, world)
        self.goals = [agent.goal for agent in self.agents]
        self._radii = torch.tensor([[goal.shape.radius] for goal in self.goals], device=world.device)
        self._radius = self.agents[0].shape.radius
        self._lidar = _Lidar(world) if scenario.collisions else None
        if self._lidar is not None:
            reach = max(self._lidar.range + self._radius, 2 * self._radius + scenario.min_collision_distance)
            self._near = Near(torch.full((len(self.agents),) * 2, reach, device=world.device))
            fines = [torch.tensor(0.0, device=world.device)]
            for _ in self.agents[1:]:  # one by one, as VMAS adds them: a product may round differently
                fines.append(fines[-1] + scenario.agent_collision_penalty)
            self._fines = torch.stack(fines)

    def conclude(self, reward: dict[str, Tensor], observation: dict[str, Tensor]) -> Tensor:
        place = self.places()
        away = place - self._targets()
        left = torch.linalg.vector_norm(away, dim=-1)  # [N, E]
        near = self._near(place) if self._lidar is not None else None
        self._pay(reward["agents"], left, self._fine(place, near))
        self._see(observation["agents"], place, away, near)
        return (left < self._radius).all(dim=0)

    def observe(self, observation: dict[str, Tensor]) -> None:
        place = self.places()
        near = self._near(place) if self._lidar is not None else None
        self._see(observation["agents"], place, place - self._targets(), near)

    def _pay(self, reward: Tensor, left: Tensor, fine: Tensor | None) -> None:
        there = (left < self._radii).all(dim=0)
        left = left * self.scenario.pos_shaping_factor
        gain = torch.stack([agent.pos_shaping for agent in self.agents]) - left
        for i, agent in enumerate(self.agents):
            agent.pos_shaping = left[i]
        if self.scenario.shared_rew:
            total = torch.zeros_like(gain[0])
            for one in gain:  # in VMAS's order: a sum over the axis may round differently
                total = total + one
            gain = total.expand_as(gain)
        gain = gain + torch.where(there, self.scenario.final_reward, 0.0)
        reward.copy_((gain if fine is None else gain + fine).transpose(0, 1))

    def _fine(self, place: Tensor, near: Pairs | None) -> Tensor | None:
        """What everybody pays for those who are too near, `[N, E]`."""
        if near is None:
            return None
        gap = torch.linalg.vector_norm(near.away, dim=-1) - self._radius - self._radius
        close = (gap <= self.scenario.min_collision_distance).to(torch.int64)
        many = torch.zeros(place.shape[:2], dtype=torch.int64, device=place.device)
        many.view(-1).index_put_((near.one,), close, accumulate=True)
        return self._fines[many]

    def _see(self, seen: Tensor, place: Tensor, away: Tensor, near: Pairs | None) -> None:
        """`seen [E, N, O]`: own place and speed, the way from the goal (or all of them), how near others are."""
        seen[..., :2] = place.transpose(0, 1)
        seen[..., 2:4] = self.speeds().transpose(0, 1)
        end = 4 + 2 * (len(self.agents) if self.scenario.observe_all_goals else 1)
        if self.scenario.observe_all_goals:
            sights = seen[..., 4:end].unflatten(-1, (-1, 2))  # [E, N, G, 2]
            sights.copy_(seen[..., None, :2] - self._targets().transpose(0, 1).unsqueeze(1))
        else:
            seen[..., 4:end] = away.transpose(0, 1)
        if self._lidar is not None and near is not None:
            seen[..., end:] = (self._lidar.range - self._lidar.measure(place, near)).transpose(0, 1)

    def _targets(self) -> Tensor:
        return torch.stack([goal.state.pos for goal in self.goals])
