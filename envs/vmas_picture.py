"""Pictures of a VMAS simulation: its own where OpenGL can be had without a display, else drawn here in plain numpy."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np

from .drawing import canvas
from .vmas_simulation import Simulation

_SIDE = 640
_EDGE = np.array([60, 60, 66], dtype=np.uint8)
_Ends = tuple[list[float], list[float]]


def draw(simulation: Simulation) -> np.ndarray:
    """Environment 0 as an RGB picture, uint8 `[H, W, 3]`, sides multiples of 16 as video formats want."""
    if simulation.can_draw:
        try:
            picture = inspect.unwrap(type(simulation.env).render)(simulation.env, mode="rgb_array", env_index=0)
            height, width = picture.shape[:2]
            return np.pad(picture, ((0, -height % 16), (0, -width % 16), (0, 0)), constant_values=255)
        except Exception:  # no OpenGL, no display, a driver that gives up: as many kinds as machines
            simulation.can_draw = False
    return _Sketch(simulation).picture


class _Sketch:
    """Bodies as discs, boxes and lines at their places; sensors and a scenario's own decorations are left out."""

    def __init__(self, simulation: Simulation) -> None:
        scenario, world = simulation.scenario, simulation.world
        width, height = scenario.viewer_size
        scale = _SIDE / max(width, height)
        self.picture = canvas(round(height * scale), round(width * scale))
        self.picture[:] = 255
        places = [entity.state.pos[0].tolist() for entity in world.agents]
        self.middle = [float(each) for each in scenario.render_origin]
        reach = max(max(abs(place[0] - self.middle[0]), abs(place[1] - self.middle[1])) for place in places)
        body = max(entity.shape.circumscribed_radius() for entity in world.agents)
        self.pixels = min(self.picture.shape[:2]) / (2 * max(scenario.viewer_zoom, reach + 2 * body))
        if scenario.visualize_semidims:
            self._walls(world)
        for joint in getattr(world, "_joints", {}).values():
            one, other = (joint.pos_point(entity)[0].tolist() for entity in (joint.entity_a, joint.entity_b))
            self._line((one, other), 1.0, _EDGE)
        for entity in [*world.landmarks, *world.agents]:
            if bool(entity.is_rendering[0]):
                self._body(entity)

    def _walls(self, world: Any) -> None:
        x, y = world.x_semidim, world.y_semidim
        far = 100.0
        right, top = far if x is None else float(x), far if y is None else float(y)
        for side in (-1, 1):
            if x is not None:
                self._line(([side * right, -top], [side * right, top]), 1.0, _EDGE)
            if y is not None:
                self._line(([-right, side * top], [right, side * top]), 1.0, _EDGE)

    def _body(self, entity: Any) -> None:
        colour = entity.color[0] if getattr(entity.color, "ndim", 1) > 1 else entity.color
        paint = (np.asarray([float(part) for part in colour][:3]) * 255).round().astype(np.uint8)
        place = entity.state.pos[0].tolist()
        turn = float(entity.state.rot[0])
        shape, kind = entity.shape, type(entity.shape).__name__
        along = [math.cos(turn) * getattr(shape, "length", 0) / 2, math.sin(turn) * getattr(shape, "length", 0) / 2]
        ends = [place[0] - along[0], place[1] - along[1]], [place[0] + along[0], place[1] + along[1]]
        if kind == "Sphere":
            self._line((place, place), max(shape.radius * self.pixels, 1.5), paint)
        elif kind == "Box":
            self._line(ends, shape.width / 2 * self.pixels, paint, square=True)
        else:
            self._line(ends, 1.5, paint)

    def _line(self, ends: _Ends, thick: float, colour: np.ndarray, square: bool = False) -> None:
        """Paint all within `thick` pixels of the line, its ends round or `square`: that is a disc, a box or a line."""
        height, width = self.picture.shape[:2]
        a, b = self._pixel(ends[0]), self._pixel(ends[1])
        first = np.clip(np.floor(np.minimum(a, b) - thick - 2), 0, [height, width]).astype(int)
        last = np.clip(np.ceil(np.maximum(a, b) + thick + 2), 0, [height, width]).astype(int)
        patch = self.picture[first[0] : last[0], first[1] : last[1]]
        if patch.size == 0:
            return
        rows, columns = np.mgrid[first[0] : last[0], first[1] : last[1]]
        away = np.stack([rows, columns], axis=-1) - a
        length = float(np.hypot(*(b - a)))
        direction = (b - a) / length if length > 0 else np.array([0.0, 1.0])
        along = away @ direction
        across = np.abs(away @ np.array([-direction[1], direction[0]]))
        beyond = np.maximum(np.maximum(-along, along - length), 0)
        depth = thick - (across if square else np.hypot(across, beyond))
        if square:
            depth = np.minimum(depth, -np.maximum(-along, along - length))
        cover = np.clip(depth + 0.5, 0, 1)[..., None]
        patch[:] = (patch * (1 - cover) + colour * cover).astype(np.uint8)

    def _pixel(self, place: list[float]) -> np.ndarray:
        height, width = self.picture.shape[:2]
        x, y = place[0] - self.middle[0], place[1] - self.middle[1]
        return np.array([height / 2 - y * self.pixels, width / 2 + x * self.pixels])
