"""VMAS scenarios with all agents handled at once, not one by one: those of the HyperMARL paper, and balance.

Most of a step is the price of calling small operations, for each agent and each food or goal. Here an operation serves
all of them: the numbers are the same bit for bit, which a test holds for every option. Only for VMAS 1.5, whose
formulas these are; any other version is stepped by VMAS's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .vmas_balance import Balance, balances
from .vmas_flight import Flight, flies
from .vmas_navigation import Navigation, sees_alike


class Course(Protocol):
    """How a simulation moves, pays and sees, once the agents' actions are set."""

    def advance(self) -> None:
        """Move the world by one step."""

    def conclude(self, reward: dict[str, Tensor], observation: dict[str, Tensor]) -> Tensor:
        """Write the rewards `[E, N]` of the step and what is seen now; which have ended, `[E]`. Once a step."""

    def observe(self, observation: dict[str, Tensor]) -> None:
        """Write what every agent sees, `[E, N, O]`."""


def together(title: str, scenario: Any, world: Any) -> Course | None:
    """The fast course of a scenario, if it has one under its options."""
    import vmas

    known: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any], Course]]] = {
        "vmas/balance": (balances, Balance),
        "vmas/dispersion": (flies, Dispersion),
        "vmas/navigation": (lambda world: flies(world) and sees_alike(world), Navigation),
    }
    if title not in known or not vmas.__version__.startswith("1.5."):
        return None
    fits, course = known[title]
    return course(scenario, world) if fits(world) else None


class Dispersion(Flight):
    """Food that is eaten by whoever is on it, at once and shared."""

    def __init__(self, scenario: Any, world: Any) -> None:
        super().__init__(scenario, world)
        self.food = list(world.landmarks)
        self._reach = self.agents[0].shape.radius + self.food[0].shape.radius

    def conclude(self, reward: dict[str, Tensor], observation: dict[str, Tensor]) -> Tensor:
        place, meals = self.places(), self._meals()
        eaten = self._pay(reward["agents"], place, meals)
        self._see(observation["agents"], place, meals, eaten)
        return eaten.all(dim=0)

    def observe(self, observation: dict[str, Tensor]) -> None:
        self._see(observation["agents"], self.places(), self._meals(), self._eaten())

    def _meals(self) -> Tensor:
        """Where the food is, `[F, E, 2]`."""
        return torch.stack([food.state._pos for food in self.food])

    def _eaten(self) -> Tensor:
        return torch.stack([food.eaten for food in self.food])  # [F, E]

    def _pay(self, reward: Tensor, place: Tensor, meals: Tensor) -> Tensor:
        """Write the rewards `[E, N]`; what is eaten afterwards, `[F, E]`."""
        on_food = torch.linalg.vector_norm(place.unsqueeze(1) - meals, dim=-1) < self._reach  # [N, F, E]
        guests, eaten = on_food.sum(dim=0), self._eaten()
        if self.scenario.share_reward:
            share, eating = torch.ones_like(meals[..., 0]), (guests > 0).expand_as(on_food)
        else:
            share, eating = guests.reciprocal().nan_to_num(posinf=0, neginf=0), on_food
        portions = torch.where(eating & ~eaten, share, 0.0)
        total, *others = portions.unbind(1)
        for portion in others:  # in VMAS's order: a sum over the axis may round differently
            total = total + portion
        if self.scenario.penalise_by_time:
            total = torch.where(total == 0, -0.01, total)
        reward.copy_(total.transpose(0, 1))
        eaten = eaten | (guests > 0)
        for food, gone in zip(self.food, eaten.unbind(), strict=True):
            food.eaten = gone
            food.is_rendering.masked_fill_(gone, False)
        return eaten

    def _see(self, seen: Tensor, place: Tensor, meals: Tensor, eaten: Tensor) -> None:
        """`seen [E, N, O]`: own place and speed, and of every food the way there and whether it was eaten."""
        food = seen[..., 4:].unflatten(-1, (len(self.food), 3))  # [E, N, F, 3]
        seen[..., :2] = place.transpose(0, 1)
        seen[..., 2:4] = self.speeds().transpose(0, 1)
        food[..., :2] = meals.transpose(0, 1).unsqueeze(1) - seen[..., None, :2]
        food[..., 2] = eaten.transpose(0, 1).unsqueeze(1)
