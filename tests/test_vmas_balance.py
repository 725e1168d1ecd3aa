"""Balance with all bodies at once is that of plain VMAS, bit for bit."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("vmas")

import vmas
from vmas.simulator.core import Box, Sphere

from hypermarl.envs.vmas_balance import Balance, _Rod
from hypermarl.envs.vmas_memory import Memory
from hypermarl.envs.vmas_simulation import Simulation
from hypermarl.envs.vmas_together import together
from hypermarl.envs.vmas_trial import random_actions

E = 64  # whole vectors: in those left over VMAS rounds a soft contact otherwise


class Pair:
    """Plain VMAS and ours, side by side, from the same start."""

    def __init__(self, options: dict[str, Any], envs: int = E) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.theirs = vmas.make_env(
                "balance", num_envs=envs, clamp_actions=options.get("continuous_actions", True), seed=0, **options
            )
        self.ours = Simulation("balance", envs, torch.device("cpu"), options)
        assert isinstance(self.ours._course, Balance)
        self.ours.reset()
        mine, others = (Memory(each.scenario).tensors for each in (self.ours, self.theirs))
        for path in mine.keys() & others.keys():
            mine[path].write(others[path].read().clone())

    def put(self, name: str, place: Tensor, slope: Tensor | None = None, speed: Tensor | None = None) -> None:
        for each in (self.theirs, self.ours):
            body = next(body for body in each.world.entities if body.name == name)
            body.set_pos(place.clone(), None)
            if slope is not None:
                body.set_rot(slope.clone(), None)
            if speed is not None:
                body.set_vel(speed.clone(), None)

    def scatter(self, generator: torch.Generator) -> None:
        """All bodies that move to anywhere above the floor and near each other."""
        for body in self.theirs.world.entities:
            if body.movable:
                draw = torch.rand((4, E, 2), generator=generator) * 2 - 1
                slope = draw[2, :, :1] * 3 if body.name == "line" else None
                self.put(body.name, draw[0] * torch.tensor([0.5, 0.3]) - torch.tensor([0.0, 0.7]), slope, draw[1] * 0.3)

    def step(self, actions: Tensor) -> Tensor:
        """One step of both, which must not differ by a bit; returns who has ended."""
        seen, paid, over, _ = self.theirs.step(list(actions.unbind(1)))
        reward, observation, done = self.ours.step({"agents": actions})
        assert torch.equal(reward["agents"], torch.stack(paid, dim=1)) and torch.equal(done, over)
        assert torch.equal(observation["agents"], torch.stack(seen, dim=1))
        assert torch.equal(self.ours.scenario.on_the_ground, self.theirs.scenario.on_the_ground)
        return done

    def lie(self) -> Tensor:
        """Where the line or the package lies on the floor, in both; bodies may be where no step lets them be."""
        self.theirs.scenario.compute_on_the_ground()
        world = self.ours.world
        line, package = world.landmarks[2].state, world.landmarks[1].state
        assert isinstance(self.ours._course, Balance)
        down = self.ours._course._floor.reached(package.pos, _Rod(line.pos, line.rot))
        assert torch.equal(down, self.theirs.scenario.on_the_ground)
        return down

    def rest(self) -> Tensor:
        envs = self.ours.num_envs
        return self.step(torch.zeros(envs, len(self.ours.agents), 2))


@pytest.mark.parametrize("agents", range(2, 6))
@pytest.mark.parametrize(("continuous", "fixed", "mass"), [(True, True, 5), (False, False, 1), (True, False, 20)])
@pytest.mark.parametrize("scattered", [True, False])
def test_episodes_are_those_of_plain_vmas(
    agents: int, continuous: bool, fixed: bool, mass: float, scattered: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = Pair(
        {
            "n_agents": agents,
            "continuous_actions": continuous,
            "random_package_pos_on_line": fixed,
            "package_mass": mass,
        }
    )
    if scattered:
        pair.scatter(generator)
    ended = torch.zeros(E, dtype=torch.bool)
    for _ in range(25):
        ended |= pair.step(random_actions(pair.ours, generator)["agents"])
    assert ended.any() or not scattered
    _, observation = pair.ours.empty()
    pair.ours.observe(observation)
    expected = torch.stack([pair.theirs.scenario.observation(agent) for agent in pair.theirs.agents], dim=1)
    assert torch.equal(observation["agents"], expected)


HEIGHTS = torch.cat([torch.linspace(-1.4, 0.4, 91), torch.linspace(-3e-5, 3e-5, 61), torch.tensor([1e-7, -1e-7])])
SIDES = torch.tensor([0.0, 0.3, -2.9, 3.97, 4.03, -4.6, 4.9, 4.999, 5.0, -5.05, 5.3, 41.0])
GRID = torch.cartesian_prod(SIDES, HEIGHTS)
GRID = torch.cat([GRID, GRID[: -len(GRID) % 64]])
TOP = -1.03  # the floor's
THIN = 4 / 6e2  # what VMAS adds to the size of all that touches


@pytest.mark.parametrize("slope", [0.0, 0.4, -1.2, math.pi / 2, 3.0])
def test_a_line_anywhere_about_the_floor_is_held_and_ends_as_in_plain_vmas(slope: float) -> None:
    pair = Pair({}, envs=len(GRID))
    lowest = abs(math.sin(slope)) * 0.4
    pair.put("line", GRID + torch.tensor([0.0, TOP + THIN + lowest]), torch.full((len(GRID), 1), slope))
    for i, name in enumerate(("package", "agent_0", "agent_1", "agent_2")):
        pair.put(name, torch.tensor([[0.2 * i, 0.9]]).expand(len(GRID), 2))
    assert pair.lie().any() and not pair.lie().all()
    ended = pair.rest()
    assert ended.any() and not ended.all()
    pair.rest()


@pytest.mark.parametrize("amid", [True, False])  # all near the middle of the floor, where its top is nearest; or not
@pytest.mark.parametrize("name", ["package", "agent_1"])
def test_a_sphere_anywhere_about_the_floor_is_held_and_ends_as_in_plain_vmas(name: str, amid: bool) -> None:
    grid = GRID[GRID[:, 0].abs() < 3][: 4 * 64] if amid else GRID
    pair = Pair({}, envs=len(grid))
    radius = 0.05 if name == "package" else 0.03
    for i, other in enumerate(("line", "package", "agent_0", "agent_1", "agent_2")):
        pair.put(other, torch.tensor([[0.9 * i - 2, 0.9]]).expand(len(grid), 2))
    pair.put(name, grid + torch.tensor([0.0, TOP + THIN + radius]))
    assert bool(pair.lie().any()) == (name == "package")
    ended = pair.rest()
    assert bool(ended.any()) == (name == "package") and not ended.all()
    pair.rest()


def test_spheres_all_along_the_line_are_pushed_as_in_plain_vmas() -> None:
    along = torch.cat([torch.linspace(-0.5, 0.5, 41), torch.tensor([0.4, -0.4, 0.0])])
    across = torch.cat([torch.linspace(-0.1, 0.1, 41), torch.tensor([0.0, 1e-8, 0.03 + THIN, 0.05 + THIN])])
    grid = torch.cartesian_prod(along, across)
    grid = torch.cat([grid, grid[: -len(grid) % 64]])
    for slope in (0.0, 0.7, -2.0, math.pi / 2):
        pair = Pair({}, envs=len(grid))
        cos, sin = math.cos(slope), math.sin(slope)
        turned = torch.stack([grid[:, 0] * cos - grid[:, 1] * sin, grid[:, 0] * sin + grid[:, 1] * cos], dim=-1)
        pair.put("line", torch.zeros(len(grid), 2), torch.full((len(grid), 1), slope))
        for name, place in (("package", turned), ("agent_0", turned.flip(0)), ("agent_1", -turned)):
            pair.put(name, place)
        before = pair.theirs.world.landmarks[2].state.vel.clone()
        pair.rest()
        assert not torch.equal(before, pair.theirs.world.landmarks[2].state.vel)
        pair.rest()


def test_the_package_in_the_goal_ends_an_episode_as_in_plain_vmas() -> None:
    pair = Pair({}, envs=64)
    reach = torch.linspace(0.09, 0.11, 64)
    goal = torch.stack([reach, torch.zeros(64)], dim=-1)
    pair.put("goal", goal)
    pair.put("package", torch.zeros(64, 2))
    ended = pair.rest()
    assert ended.any() and not ended.all()


def test_only_bodies_that_are_known_are_taken_together() -> None:
    def course(change: Any) -> object:
        simulation = Pair({}, envs=2).ours
        change(simulation.world, *simulation.world.landmarks, simulation.world.agents[1])
        return together(simulation.title, simulation.scenario, simulation.world)

    def turn(floor: Any) -> None:
        floor.state.rot = floor.state.rot + 0.1

    assert isinstance(course(lambda *_: None), Balance)
    changes: list[Any] = [
        lambda world, goal, package, line, floor, agent: setattr(world, "_substeps", 2),
        lambda world, goal, package, line, floor, agent: setattr(world, "_x_semidim", 2.0),
        lambda world, goal, package, line, floor, agent: setattr(world, "_linear_friction", 0.1),
        lambda world, goal, package, line, floor, agent: world._landmarks.pop(),
        lambda world, goal, package, line, floor, agent: setattr(goal, "_collide", True),
        lambda world, goal, package, line, floor, agent: setattr(package, "_rotatable", True),
        lambda world, goal, package, line, floor, agent: setattr(line, "_movable", False),
        lambda world, goal, package, line, floor, agent: setattr(floor, "_movable", True),
        lambda world, goal, package, line, floor, agent: setattr(floor, "_shape", Box(length=10, width=2)),
        lambda world, goal, package, line, floor, agent: setattr(line, "_drag", 0.1),
        lambda world, goal, package, line, floor, agent: turn(floor),
        lambda world, goal, package, line, floor, agent: setattr(agent, "_shape", Sphere(radius=0.2)),
        lambda world, goal, package, line, floor, agent: setattr(agent, "_mass", 2.0),
        lambda world, goal, package, line, floor, agent: setattr(agent, "_collision_filter", lambda other: False),
        lambda world, goal, package, line, floor, agent: setattr(agent, "_max_f", 1.0),
    ]
    assert list(itertools.compress(range(len(changes)), [course(change) is not None for change in changes])) == []
