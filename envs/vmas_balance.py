"""VMAS's balance with all bodies handled at once: agents below a line, a package on it, the floor beneath.

VMAS works out who touches whom for all of them in all environments, most of it for nothing: a box alone is four lines,
a line against it sixteen distances. Here a coarse look finds what is near the floor or the line, and only that gets
VMAS's formulas, in VMAS's order: the numbers are the same bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .vmas_contact import Push, Spheres
from .vmas_flight import alike

_SLACK = 2e-5  # how much farther from the floor than needed we look, so that rounding decides nothing


def balances(world: Any) -> bool:
    """Whether agents, goal, package, line and floor are such as we know them."""
    from vmas.simulator.core import Box, Landmark, Line, Sphere, World

    if [landmark.name for landmark in world.landmarks] != ["goal", "package", "line", "floor"]:
        return False
    goal, package, line, floor = world.landmarks
    bodies = [package, line, floor, *world.agents]
    fixed, moves, turns = (False, False), (True, False), (True, True)
    return (
        type(world) is World
        and not world._joints
        and world._linear_friction == world._angular_friction == world.dim_c == 0
        and (world._substeps, world.x_semidim) == (1, None)
        and world.y_semidim is not None
        and all(type(each) is Landmark for each in world.landmarks)
        and [type(each.shape) for each in world.landmarks] == [Sphere, Sphere, Line, Box]
        and [(each.movable, each.rotatable) for each in world.landmarks] == [fixed, moves, turns, fixed]
        and (floor.shape.length, floor.shape.width, floor.shape.hollow) == (10, 1, False)
        and not bool(floor.state.rot.any())
        and not goal.collide
        and all(each.collides(other) for each in bodies for other in bodies)
        and all(each.linear_friction is each.angular_friction is each.gravity is each.drag is None for each in bodies)
        and all(each.max_speed is each.v_range is None for each in bodies)
        and alike(world.agents)
    )


class _Rod(NamedTuple):
    """Where the line is."""

    middle: Tensor  # [E, 2]
    slope: Tensor  # [E, 1]

    def take(self, row: Tensor) -> _Rod:
        return _Rod(self.middle.index_select(0, row), self.slope.index_select(0, row))


class _Forces(NamedTuple):
    """What acts on the bodies: package and agents, which are spheres, and the line."""

    spheres: Tensor  # [S, E, 2]
    line: Tensor  # [E, 2]
    turn: Tensor  # on the line, [E, 1]

    def on_spheres(self, which: Tensor, row: Tensor, push: Tensor) -> _Forces:
        return self._replace(spheres=self.spheres.index_put((which, row), push, accumulate=True))

    def on_line(self, row: Tensor, push: Tensor, arm: Tensor) -> _Forces:
        """With `push [K, 2]` at `arm [K, 2]` from its middle; in the order of the bodies, as VMAS adds."""
        turn = (arm[:, 0] * push[:, 1] - arm[:, 1] * push[:, 0]).unsqueeze(-1)
        line, turn = (
            old.index_put((row,), new, accumulate=True) for old, new in ((self.line, push), (self.turn, turn))
        )
        return self._replace(line=line, turn=turn)


class _Line:
    """The pushes between the line and the spheres."""

    def __init__(self, world: Any, spheres: list[Any], line: Any) -> None:
        from vmas.simulator import physics, utils

        self._closest, self._push = physics._get_closest_point_line, Push(world)
        self._length = line.shape.length
        radii = torch.tensor([sphere.shape.radius for sphere in spheres], device=world.device)
        self._reach = radii + utils.LINE_MIN_DIST  # [S]
        self._across = self._reach.unsqueeze(1) * 1.2  # where to look
        self._along = self._across + self._length / 2

    def push(self, forces: _Forces, place: Tensor, rod: _Rod) -> _Forces:
        """What acts on spheres at `place [S, E, 2]` and on the line where they touch."""
        x, y = (place - rod.middle).unbind(-1)
        cos, sin = rod.slope.cos().squeeze(-1), rod.slope.sin().squeeze(-1)
        near = ((x * cos + y * sin).abs() <= self._along) & ((y * cos - x * sin).abs() <= self._across)
        which, row = near.nonzero().unbind(1)
        if which.shape[0] == 0:
            return forces
        rod, sphere = rod.take(row), place[which, row]
        point = self._closest(*rod, self._length, sphere)
        push = self._push(sphere - point, self._reach.index_select(0, which))
        return forces.on_spheres(which, row, push).on_line(row, -push, point - rod.middle)


class _Floor:
    """The floor, a box that never moves. Who is well above it is not looked at; of its sides mostly only the top is."""

    def __init__(self, world: Any, spheres: list[Any], line: Any, floor: Any) -> None:
        from vmas.simulator import physics, utils

        self._physics, self._push, self._state = physics, Push(world), floor.state
        self._thin, self._length = utils.LINE_MIN_DIST, line.shape.length
        radii = torch.tensor([sphere.shape.radius for sphere in spheres], device=world.device)
        self._reach = radii + self._thin  # [S]
        self._high = (self._reach + _SLACK).unsqueeze(1)
        self._size = floor.shape.width, floor.shape.length

    def _above(self, place: Tensor) -> Tensor:
        """How high `place [..., E, 2]` is above the floor, `[..., E]`."""
        return place[..., 1] - (self._state._pos[:, 1] + self._size[0] / 2)

    def _lowest(self, rod: _Rod) -> Tensor:
        """How high the lower end of the line is above the floor, `[E]`."""
        return self._above(rod.middle) - rod.slope.squeeze(-1).sin().abs() * (self._length / 2)

    def _amid(self, place: Tensor) -> Tensor:
        """Whether `place [..., E, 2]` is so far from the floor's ends that only the top can be near."""
        width, length = self._size
        return (place[..., 0] - self._state._pos[:, 0]).abs() < length / 2 - width

    def _box(self, row: Tensor) -> tuple[Tensor, Tensor]:
        return self._state._pos.index_select(0, row), self._state._rot.index_select(0, row)

    def _surface(self, row: Tensor, place: Tensor, top: bool) -> Tensor:
        """The point on the floor's surface that is nearest to `place [K, 2]`; on its `top` if that is known."""
        (middle, slope), (width, length) = self._box(row), self._size
        if top:
            up = slope + torch.pi / 2
            middle = middle + torch.cat([up.cos(), up.sin()], dim=-1) * (width / 2)
            found: Tensor = self._physics._get_closest_point_line(middle, slope, length, place)
        else:
            found = self._physics._get_closest_point_box(middle, slope, *self._size, place)
        return found

    def _meet(self, row: Tensor, rod: _Rod) -> tuple[Tensor, Tensor]:
        """The points of the floor and of the line that are closest to each other, `[K, 2]` each."""
        found = self._physics._get_closest_line_box(*self._box(row), *self._size, *rod.take(row), self._length)
        on_box, on_line = found
        return on_box, on_line

    def hold(self, forces: _Forces, place: Tensor, rod: _Rod) -> _Forces:
        """What acts on spheres at `place [S, E, 2]` and on the line where they touch the floor."""
        above = self._above(place)
        low = above <= self._high
        which, row = low.nonzero().unbind(1)
        if which.shape[0]:
            top = bool(((above > -self._size[0] / 4) & self._amid(place) | ~low).all())
            sphere = place[which, row]
            surface = self._surface(row, sphere, top)
            inner, deep = self._physics._get_inner_point_box(sphere, surface, self._box(row)[0])
            push = self._push(sphere - inner, self._reach.index_select(0, which) + deep)
            forces = forces.on_spheres(which, row, push)
        row = (self._lowest(rod) <= self._thin + _SLACK).nonzero().squeeze(1)
        if row.shape[0]:
            on_box, on_line = self._meet(row, rod)
            inner, deep = self._physics._get_inner_point_box(on_line, on_box, self._box(row)[0])
            push = -self._push(inner - on_line, self._thin + deep)
            forces = forces.on_line(row, push, on_line - rod.take(row).middle)
        return forces

    def reached(self, package: Tensor, rod: _Rod) -> Tensor:
        """Where the line or the package at `package [E, 2]` lies on the floor, `[E]`; mostly their heights tell."""
        norm = torch.linalg.vector_norm
        low, near = self._lowest(rod), self._thin
        sure = (low < near - _SLACK) & (self._above(rod.middle) > 0) & self._amid(rod.middle)
        row = ((low <= near + _SLACK) & ~sure).nonzero().squeeze(1)
        down = sure.clone()
        if row.shape[0]:
            on_box, on_line = self._meet(row, rod)
            down[row] = norm(on_box - on_line, dim=-1) - near < 0
        low, reach = self._above(package), self._reach[0]
        sure = (low < reach - _SLACK) & (low > 0) & self._amid(package)
        row = ((low <= reach + _SLACK) & ~sure).nonzero().squeeze(1)
        down = down | sure
        if row.shape[0]:
            sphere, box = package.index_select(0, row), self._box(row)[0]
            surface = self._surface(row, sphere, top=False)
            inside = norm(sphere - box, dim=-1) < norm(box - surface, dim=-1)
            down[row] |= inside | (norm(sphere - surface, dim=-1) < reach)
        return down


class Balance:
    """The package is paid for on its way to the goal; all lose when it or the line falls to the floor.

    Each environment is judged by itself: VMAS leaves out two bodies whose outer circles overlap nowhere in the batch,
    which for the end of a line may be a hair too early.
    """

    def __init__(self, scenario: Any, world: Any) -> None:
        self.scenario, self.world, self.agents = scenario, world, list(world.agents)
        self.goal, self.package, self.line, floor = world.landmarks
        self._bodies = [self.package, *self.agents]  # in VMAS's order: landmarks first
        self._states = [body.state for body in self._bodies]
        self._masses = torch.tensor([[[float(body.mass)]] for body in self._bodies], device=world.device)
        self._weight = torch.stack([body.mass * world._gravity for body in self._bodies]).unsqueeze(1)
        self._line_weight = self.line.mass * world._gravity
        self._spheres = Spheres(world, self._bodies)
        self._rod = _Line(world, self._bodies, self.line)
        self._floor = _Floor(world, self._bodies, self.line, floor)
        self._keep, self._wall = 1 - world._drag, float(world.y_semidim)

    def advance(self) -> None:
        line, step = self.line.state, self.world._sub_dt
        force = torch.stack([agent._action._u for agent in self.agents])
        place, speed = self._places(), self._speeds()
        own = torch.cat([torch.zeros_like(force[:1]), force]) + self._weight
        own = self._spheres(own, place)
        forces = _Forces(own, torch.zeros_like(line._pos) + self._line_weight, torch.zeros_like(line._rot))
        rod = _Rod(line._pos, line._rot)
        forces = self._floor.hold(self._rod.push(forces, place, rod), place, rod)

        speed = speed * self._keep + forces.spheres / self._masses * step
        place = self._bound(place + speed * step)
        line._vel = line._vel * self._keep + forces.line / self.line.mass * step
        line._pos = self._bound(line._pos + line._vel * step)
        line._ang_vel = line._ang_vel * self._keep + forces.turn / self.line.moment_of_inertia * step
        line._rot = line._rot + line._ang_vel * step
        for state, *now in zip(self._states, speed.unbind(), place.unbind(), strict=True):
            state._vel, state._pos = now
        for state, asked in zip(self._states[1:], force.unbind(), strict=True):
            state._force = asked

    def _bound(self, place: Tensor) -> Tensor:
        place[..., 1].clamp_(-self._wall, self._wall)
        return place

    def _places(self) -> Tensor:
        """Where the package and the agents are, `[1 + N, E, 2]`."""
        return torch.stack([state._pos for state in self._states])

    def _speeds(self) -> Tensor:
        return torch.stack([state._vel for state in self._states])

    def conclude(self, reward: dict[str, Tensor], observation: dict[str, Tensor]) -> Tensor:
        place, line, scenario = self._places(), self.line.state, self.scenario
        down = self._floor.reached(place[0], _Rod(line._pos, line._rot))
        scenario.on_the_ground = down
        left = torch.linalg.vector_norm(place[0] - self.goal.state._pos, dim=1)
        scaled = left * scenario.shaping_factor
        gain = scenario.global_shaping - scaled
        scenario.global_shaping = scaled
        paid = torch.where(down, float(scenario.fall_reward), 0.0) + gain
        reward["agents"].copy_(paid.unsqueeze(1).expand_as(reward["agents"]))
        self._see(observation["agents"], place)
        return down | (left - self.package.shape.radius - self.goal.shape.radius < 0)

    def observe(self, observation: dict[str, Tensor]) -> None:
        self._see(observation["agents"], self._places())

    def _see(self, seen: Tensor, place: Tensor) -> None:
        """`seen [E, N, 16]`: own place and speed, how the package, the line and the goal lie, how both move."""
        line, package, speed = self.line.state, place[0], self._speeds()
        seen[..., :2] = agents = place[1:].transpose(0, 1)
        seen[..., 2:4] = speed[1:].transpose(0, 1)
        seen[..., 4:6] = agents - package.unsqueeze(1)
        seen[..., 6:8] = agents - line._pos.unsqueeze(1)
        shared = [package - self.goal.state._pos, speed[0], line._vel, line._ang_vel, line._rot % torch.pi]
        seen[..., 8:] = torch.cat(shared, dim=-1).unsqueeze(1)
