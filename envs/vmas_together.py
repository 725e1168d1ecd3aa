"""The two VMAS scenarios of the HyperMARL paper with all agents handled at once, not one by one.

Where nothing collides, most of a step is the price of calling small operations, for each agent and each food or goal.
Here an operation serves all of them: the numbers are the same bit for bit, which a test holds for every option. Only
for VMAS 1.5, whose formulas these are; any other version, and a team that collides, is stepped by VMAS's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Course(Protocol):
    """How a simulation moves, pays and sees, once the agents' actions are set."""

    def advance(self) -> None:
        """Move the world by one step."""

    def pay(self, reward: dict[str, Tensor]) -> None:
        """Write the rewards `[E, N]` of the step; once after each `advance`."""

    def observe(self, observation: dict[str, Tensor]) -> None:
        """Write what every agent sees, `[E, N, O]`."""


def together(title: str, scenario: Any, world: Any) -> Course | None:
    """The fast course of a scenario, if it has one under its options."""
    import vmas

    known: dict[str, Callable[[Any, Any], Course]] = {"vmas/dispersion": Dispersion, "vmas/navigation": Navigation}
    if title not in known or not vmas.__version__.startswith("1.5.") or not _flies_freely(world):
        return None
    return known[title](scenario, world)


def _flies_freely(world: Any) -> bool:
    """Whether a step is nothing but drag, the agents' own force, and the walls; the same for all agents."""
    agents, entities = world.agents, world.entities
    first = agents[0]
    return (
        not any(entity.collide for entity in entities)
        and not any(entity.movable or entity.rotatable for entity in world.landmarks)
        and not world._joints
        and not bool(world._gravity.any())
        and world._linear_friction == world._angular_friction == world.dim_c == 0
        and all(
            (agent.mass, agent.drag, agent.shape.radius) == (first.mass, first.drag, first.shape.radius)
            and agent.action_script is None
            and type(agent.dynamics).__name__ == "Holonomic"
            and agent.linear_friction is agent.angular_friction is agent.gravity is None
            and agent.max_speed is agent.v_range is agent.max_f is agent.f_range is None
            and agent.max_t is agent.t_range is None
            for agent in agents
        )
    )


class _Flight:
    """Agents that move freely: `advance` for both scenarios."""

    def __init__(self, scenario: Any, world: Any) -> None:
        self.scenario, self.world, self.agents = scenario, world, list(world.agents)
        drag = self.agents[0].drag
        self._keep = 1 - (world._drag if drag is None else drag)
        self._mass = self.agents[0].mass
        self._walls = [None if wall is None else float(wall) for wall in (world.x_semidim, world.y_semidim)]

    def places(self) -> Tensor:
        """Where the agents are, `[N, E, 2]`."""
        return torch.stack([agent.state.pos for agent in self.agents])

    def advance(self) -> None:
        force = torch.stack([agent.action.u[:, :2] for agent in self.agents])
        place, speed = self.places(), torch.stack([agent.state.vel for agent in self.agents]) * self._keep
        pull = force / self._mass
        for _ in range(self.world._substeps):
            speed = speed + pull * self.world._sub_dt
            place = place + speed * self.world._sub_dt
            for axis, wall in enumerate(self._walls):
                if wall is not None:
                    place[..., axis].clamp_(-wall, wall)
        for i, agent in enumerate(self.agents):
            agent.state.force, agent.state.vel, agent.state.pos = force[i], speed[i], place[i]

    def see_self(self, seen: Tensor) -> None:
        """Own place and speed, the first four numbers of both scenarios' observations `[E, N, O]`."""
        seen[..., :2] = self.places().transpose(0, 1)
        seen[..., 2:4] = torch.stack([agent.state.vel for agent in self.agents], dim=1)


class Dispersion(_Flight):
    """Food that is eaten by whoever is on it, at once and shared."""

    def __init__(self, scenario: Any, world: Any) -> None:
        super().__init__(scenario, world)
        self.food = list(world.landmarks)
        self._reach = self.agents[0].shape.radius + self.food[0].shape.radius

    def _meals(self) -> tuple[Tensor, Tensor]:
        """Where the food is `[F, E, 2]`, and what was eaten `[F, E]`."""
        return torch.stack([food.state.pos for food in self.food]), torch.stack([food.eaten for food in self.food])

    def pay(self, reward: dict[str, Tensor]) -> None:
        meals, eaten = self._meals()
        on_food = torch.linalg.vector_norm(self.places().unsqueeze(1) - meals, dim=-1) < self._reach  # [N, F, E]
        guests = on_food.sum(dim=0)
        if self.scenario.share_reward:
            share, eating = torch.ones_like(meals[..., 0]), (guests > 0).expand_as(on_food)
        else:
            share, eating = guests.reciprocal().nan_to_num(posinf=0, neginf=0), on_food
        portions = torch.where(eating & ~eaten, share, 0.0)
        total = portions[:, 0]
        for i in range(1, len(self.food)):  # in VMAS's order: a sum over the axis may round differently
            total = total + portions[:, i]
        if self.scenario.penalise_by_time:
            total = torch.where(total == 0, -0.01, total)
        reward["agents"].copy_(total.transpose(0, 1))
        eaten = eaten | (guests > 0)
        for i, food in enumerate(self.food):
            food.eaten = eaten[i]
            food.is_rendering.masked_fill_(eaten[i], False)

    def observe(self, observation: dict[str, Tensor]) -> None:
        seen, (meals, eaten) = observation["agents"], self._meals()
        food = seen[..., 4:].unflatten(-1, (len(self.food), 3))  # [E, N, F, 3]
        self.see_self(seen)
        food[..., :2] = meals.transpose(0, 1).unsqueeze(1) - seen[..., None, :2]
        food[..., 2] = eaten.transpose(0, 1).unsqueeze(1)


class Navigation(_Flight):
    """Agents that are paid for coming closer to their goals, and once more while all are there."""

    def __init__(self, scenario: Any, world: Any) -> None:
        super().__init__(scenario, world)
        self.goals = [agent.goal for agent in self.agents]

    def pay(self, reward: dict[str, Tensor]) -> None:
        away = torch.linalg.vector_norm(self.places() - self._targets(), dim=-1)  # [N, E]
        there = torch.stack([away[i] < goal.shape.radius for i, goal in enumerate(self.goals)]).all(dim=0)
        left = away * self.scenario.pos_shaping_factor
        gain = torch.stack([agent.pos_shaping for agent in self.agents]) - left
        for i, agent in enumerate(self.agents):
            agent.pos_shaping = left[i]
        if self.scenario.shared_rew:
            total = torch.zeros_like(gain[0])
            for one in gain:  # in VMAS's order: a sum over the axis may round differently
                total = total + one
            gain = total.expand_as(gain)
        reward["agents"].copy_((gain + torch.where(there, self.scenario.final_reward, 0.0)).transpose(0, 1))

    def observe(self, observation: dict[str, Tensor]) -> None:
        seen, targets = observation["agents"], self._targets().transpose(0, 1)
        self.see_self(seen)
        sights = seen[..., 4:].unflatten(-1, (-1, 2))  # [E, N, G, 2]
        sights.copy_(seen[..., None, :2] - targets.unsqueeze(1 if self.scenario.observe_all_goals else 2))

    def _targets(self) -> Tensor:
        return torch.stack([goal.state.pos for goal in self.goals])
