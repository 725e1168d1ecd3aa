"""Navigation with all agents at once is that of plain VMAS, bit for bit, and a row knows nothing of other rows."""

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
from vmas.simulator.core import Sphere

from hypermarl.envs.vmas_contact import Spheres
from hypermarl.envs.vmas_navigation import Navigation
from hypermarl.envs.vmas_simulation import Simulation
from hypermarl.envs.vmas_together import together
from hypermarl.envs.vmas_trial import random_actions

E = 64  # whole vectors: in those left over VMAS rounds a soft contact otherwise, which no other number of them shows


class Pair:
    """Plain VMAS and ours, side by side."""

    def __init__(self, options: dict[str, Any], envs: int = E) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.theirs = vmas.make_env(
                "navigation", num_envs=envs, clamp_actions=options.get("continuous_actions", True), **options
            )
        self.ours = Simulation("navigation", envs, torch.device("cpu"), options)
        assert isinstance(self.ours._course, Navigation)
        self.worlds = self.theirs.world, self.ours.world

    def put(self, place: Tensor, speed: Tensor | None = None, goal: Tensor | None = None) -> None:
        """The same state in both; tensors are `[N, E, 2]`."""
        speed = torch.zeros_like(place) if speed is None else speed
        goal = place + 0.6 if goal is None else goal
        for world in self.worlds:
            for i, agent in enumerate(world.agents):
                agent.set_pos(place[i].clone(), None)
                agent.set_vel(speed[i].clone(), None)
                agent.goal.set_pos(goal[i].clone(), None)
                agent.pos_shaping = torch.linalg.vector_norm(place[i] - goal[i], dim=-1)

    def look(self) -> Tensor:
        """What is seen in both, which must not differ by a bit."""
        _, observation = self.ours.empty()
        self.ours.observe(observation)
        view = observation["agents"]
        assert torch.equal(view, torch.stack([self.theirs.scenario.observation(a) for a in self.theirs.agents], dim=1))
        self.compare_rays()
        return view

    def compare_rays(self) -> None:
        for theirs, ours in zip(*(world.agents for world in self.worlds), strict=True):
            for one, other in zip(theirs.sensors or (), ours.sensors or (), strict=True):
                assert torch.equal(one._last_measurement, other._last_measurement)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """One step of both, which must not differ by a bit; returns the observation and the reward."""
        seen, paid, over, _ = self.theirs.step(list(actions.unbind(1)))
        rewards, observation, done = self.ours.step({"agents": actions})
        reward, view = rewards["agents"], observation["agents"]
        assert torch.equal(view, torch.stack(seen, dim=1)) and torch.equal(reward, torch.stack(paid, dim=1))
        assert torch.equal(done, over)
        self.compare_rays()
        return view, reward

    def episode(self, steps: int, seed: int = 0) -> set[str]:
        """Random steps in a crowd, VMAS and ours the same throughout; returns what has happened on the way.

        In the last row all agents are one upon the other: they have no direction to push each other in, so that there
        every two overlap all the time, and VMAS fines in all rows whom it fines at all.
        """
        generator = torch.Generator().manual_seed(seed)
        agents = self.worlds[0].agents
        draw = torch.rand((3, len(agents), len(agents[0].state.pos), 2), generator=generator) * 2 - 1
        draw[:, :, -1] = draw[:, :1, -1]
        radius = agents[0].shape.radius
        self.put(draw[0] * 0.4, draw[1] * 0.3, draw[2] * 0.4)
        happened: set[str] = set()
        for _ in range(steps):
            actions = random_actions(self.ours, generator)["agents"]
            actions[-1] = actions[-1, :1]
            self.step(actions)
            place = torch.stack([agent.state.pos for agent in agents])[:, :-1]
            apart = torch.linalg.vector_norm(place.unsqueeze(1) - place, dim=-1)
            apart[range(len(agents)), range(len(agents))] = math.inf
            marks = {"overlap": apart < 2 * radius - 0.01, "three": (apart < 2 * radius).sum(dim=0) > 1}
            for agent in agents:
                marks["fine"] = marks.get("fine", torch.zeros(1)) + agent.agent_collision_rew[:-1]
                for sensor in agent.sensors or ():
                    marks[f"sight {agent.name}"] = sensor._last_measurement[:-1] < sensor._max_range
            happened |= {mark.split()[0] for mark, where in marks.items() if bool(where.any())}
        return happened


KNOWN = ["n_agents", "shared_rew", "observe_all_goals", "continuous_actions"]
CROWDS = list(itertools.product(range(1, 7), *[(True, False)] * 3))
RANGES = (0.2, 0.35, 1.0)


@pytest.mark.parametrize("values", CROWDS)
def test_a_crowd_that_collides_is_that_of_plain_vmas(values: tuple[Any, ...], **rest: Any) -> None:
    options = dict(zip(KNOWN, values, strict=True))
    crowd = {"lidar_range": RANGES[CROWDS.index(values) % 3]} | options | rest
    happened = Pair(crowd).episode(12)
    expected = {"overlap", "fine", "sight", "three"}
    assert happened == [set(), expected - {"three"}, expected][min(options["n_agents"], 3) - 1]


REST = [
    {"agent_radius": 0.16, "agent_collision_penalty": -0.7123, "final_reward": 0.3},
    {"n_lidar_rays": 1, "enforce_bounds": True, "world_spawning_x": 0.5},
    {"n_lidar_rays": 37, "enforce_bounds": True, "pos_shaping_factor": 0.3, "agent_collision_penalty": -1.1},
]


@pytest.mark.slow
@pytest.mark.parametrize("lidar_range", [0.15, *RANGES])
@pytest.mark.parametrize("values", CROWDS)
def test_every_range_in_every_crowd(values: tuple[Any, ...], lidar_range: float) -> None:
    test_a_crowd_that_collides_is_that_of_plain_vmas(values, lidar_range=lidar_range)


@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("values", [(4, True, False, True), (5, False, True, False)])
def test_other_bodies_fines_rays_and_walls_in_a_crowd(values: tuple[Any, ...], rest: dict[str, Any]) -> None:
    test_a_crowd_that_collides_is_that_of_plain_vmas(values, **rest)


GHOSTS = [
    {"n_agents": n, "agents_with_same_goal": same, "split_goals": split}
    for n in range(1, 7)
    for same, split in {(1, False), (n, False), (max(n // 2, 1), False), (max(n // 2, 1), n % 2 == 0)}
]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", GHOSTS)
def test_a_team_that_passes_through_itself_is_that_of_plain_vmas(options: dict[str, Any], shared: bool) -> None:
    for every, continuous in itertools.product((True, False), repeat=2):
        known = {"shared_rew": shared, "observe_all_goals": every, "continuous_actions": continuous}
        Pair({"collisions": False} | options | known).episode(8)


def around(number: float) -> Tensor:
    """The numbers next to `number`, and some farther away, 17 in all."""
    steps = torch.tensor([0, 1, 2, 3, 8, 100, 1000, 10000, 100000], dtype=torch.int32)
    bits = torch.full((1,), number).view(torch.int32) + torch.cat([steps, -steps[1:]])
    return bits.view(torch.float32)


def test_rays_that_graze_and_bodies_that_touch_are_those_of_plain_vmas() -> None:
    angles = torch.linspace(0, 2 * math.pi, 13, dtype=torch.float64)[:12]
    ahead = torch.stack([angles.cos(), angles.sin()], dim=-1)  # along each ray, and across it
    across = torch.stack([-angles.sin(), angles.cos()], dim=-1)
    offsets = torch.cat([around(0.1), around(0.099), -around(0.1), torch.zeros(1), torch.tensor([1e-8, -1e-8])])
    lengths = torch.cat([around(0.2), around(0.35), around(0.45), around(0.1), around(0.205), torch.tensor([0.3, 0.0])])
    grid = lengths.double()[:, None, None, None] * ahead[:, None] + offsets.double()[:, None] * across[:, None]
    away = torch.cat([grid.flatten(0, 2), lengths.double()[:, None, None].mul(ahead).flatten(0, 1)]).float()
    away = torch.cat([away, torch.zeros(-len(away) % 32 + 31, 2), torch.zeros(1, 2)])
    pair = Pair({"n_agents": 2}, envs=len(away))
    for start in (torch.zeros(2), torch.tensor([0.3712, -0.8231]), torch.tensor([41.3, -7.25])):
        pair.put(torch.stack([start.expand_as(away), start + away]))
        rays = 0.35 - pair.look()[..., -12:]
        assert 0.001 < (rays < 0).float().mean() < 0.2 < (rays < 0.35).any(dim=-1).float().mean() < 0.9
        _, reward = pair.step(torch.zeros(len(away), 2, 2))
        assert 0.01 < (reward == -1).float().mean() < 0.99


def test_three_in_a_heap_push_as_in_plain_vmas() -> None:
    generator = torch.Generator().manual_seed(0)
    pair = Pair({"n_agents": 6, "agent_radius": 0.2, "agent_collision_penalty": -0.7}, envs=256)
    place = torch.rand((6, 256, 2), generator=generator) * 0.3
    place[:, -1] = 0.0
    place[1, :50] = place[0, :50]  # at the same place: nobody knows where to push
    place[2, 25:75] = place[3, 25:75] + 1e-6 * torch.rand((50, 2), generator=generator)
    pair.put(place)
    for _ in range(5):
        pair.step(torch.zeros(256, 6, 2))


def test_an_environment_is_judged_by_itself() -> None:
    """VMAS fines two who nearly touch only if the same two overlap in another environment: here that is no matter."""
    nearly, wide = torch.tensor([0.203, 0.0]), torch.tensor([0.9, 0.0])
    fined = []
    for neighbour in (wide, torch.zeros(2)):
        pair = Pair({"n_agents": 2}, envs=2)
        pair.put(torch.stack([torch.zeros(2, 2), torch.stack([nearly, neighbour])]))
        rest = torch.zeros(2, 2, 2)
        theirs = torch.stack(pair.theirs.step(list(rest.unbind(1)))[1], dim=1)
        ours = pair.ours.step({"agents": rest})[0]["agents"]
        fined.append((theirs[0].tolist(), ours[0].tolist()))
    assert fined == [([0.0, 0.0], [-1.0, -1.0]), ([-1.0, -1.0], [-1.0, -1.0])]


def test_the_push_in_a_row_is_the_same_to_the_last_bit_whoever_else_overlaps() -> None:
    world = Pair({"n_agents": 3}, envs=1).worlds[1]
    contact = Spheres(world, world.agents)
    generator = torch.Generator().manual_seed(0)
    turn = torch.rand(600, generator=generator) * 6
    place = torch.zeros(3, 600, 2)
    place[1] = torch.stack([turn.cos(), turn.sin()], dim=-1) * (0.2 - torch.rand((600, 1), generator=generator) * 0.004)
    place[2] = 1.0
    force = torch.rand((3, 600, 2), generator=generator)
    together_ = contact(force, place)
    alone = torch.cat([contact(force[:, i : i + 1], place[:, i : i + 1]) for i in range(600)], dim=1)
    assert torch.equal(together_, alone) and not torch.equal(together_, force)


def test_a_start_is_seen_as_in_plain_vmas() -> None:
    pair = Pair({"n_agents": 4, "lidar_range": 1.5})
    pair.put(torch.rand((4, E, 2), generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert bool((pair.look()[..., -12:] > 0).any())


def test_only_bodies_that_are_alike_and_physics_that_is_known_are_taken_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def course(change: Any) -> object:
        simulation = Pair({"n_agents": 3}, envs=2).ours
        change(simulation.world)
        return together(simulation.title, simulation.scenario, simulation.world)

    def turn(world: Any) -> None:
        world.agents[1].state.rot = world.agents[1].state.rot + 0.5

    assert isinstance(course(lambda world: None), Navigation)
    changes: list[Any] = [
        turn,
        lambda world: setattr(world.agents[2], "_shape", Sphere(radius=0.2)),
        lambda world: setattr(world.agents[2], "_collision_filter", lambda other: False),
        lambda world: setattr(world.agents[2], "_collide", False),
        lambda world: setattr(world.agents[2], "_movable", False),
        lambda world: setattr(world.landmarks[0], "_collide", True),
        lambda world: setattr(world.agents[0].sensors[0], "_entity_filter", lambda body: True),
        lambda world: setattr(world.agents[0].sensors[0], "_entity_filter", lambda body: False),
        lambda world: setattr(world.agents[0].sensors[0], "_max_range", 0.1),
        lambda world: setattr(world.agents[0].sensors[0], "_angles", world.agents[0].sensors[0]._angles + 0.1),
        lambda world: world.agents[0].sensors.append(world.agents[1].sensors[0]),
        lambda world: world.agents[0].sensors.clear(),
        lambda world: setattr(world, "_linear_friction", 0.1),
        lambda world: setattr(world.agents[0], "_max_speed", 1.0),
    ]
    for change in changes:
        assert course(change) is None, changes.index(change)
    monkeypatch.setattr(vmas, "__version__", "1.6.0")
    assert together("vmas/navigation", None, None) is None
