"""Small pictures in plain numpy, so that watching a team needs no window and no drawing package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WHITE, PAPER, LINE, INK = (255, 255, 255), (246, 246, 243), (214, 214, 208), (60, 60, 66)
WORST, BEST = np.array([208, 70, 60]), np.array([46, 150, 96])


def colours(n: int) -> np.ndarray:
    """`n` colours that are easy to tell apart, uint8 `[n, 3]`: hues a golden angle apart, in turns of brightness."""
    turn = np.arange(n) * 0.61803398875 + 0.58
    bright = np.array([0.85, 0.62, 0.95])[np.arange(n) % 3]
    wheel = np.stack([turn, turn + 2 / 3, turn + 1 / 3], axis=1) % 1.0
    level = np.clip(np.abs(wheel * 6 - 3) - 1, 0, 1)
    return np.asarray(255 * bright[:, None] * (1 - 0.75 * (1 - level)), dtype=np.uint8)


def canvas(height: int, width: int) -> np.ndarray:
    """An empty picture, uint8 `[H, W, 3]`; sizes are rounded up to multiples of 16, which video formats want."""
    return np.full((-(-height // 16) * 16, -(-width // 16) * 16, 3), PAPER, dtype=np.uint8)


def box(picture: np.ndarray, top: int, left: int, height: int, width: int, colour: Sequence[int] | np.ndarray) -> None:
    """Fill a box in place; what lies outside of the picture is left out."""
    picture[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = colour


def disc(picture: np.ndarray, row: float, column: float, radius: float, colour: Sequence[int] | np.ndarray) -> None:
    """Fill a disc in place, its edge softened; what lies outside of the picture is left out."""
    top, left = max(int(row - radius) - 1, 0), max(int(column - radius) - 1, 0)
    patch = picture[top : max(int(row + radius) + 3, 0), left : max(int(column + radius) + 3, 0)]
    if patch.size == 0:
        return
    rows, columns = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    cover = np.clip(radius + 0.5 - np.hypot(rows - row, columns - column), 0, 1)[:, :, None]
    patch[:] = (patch * (1 - cover) + np.asarray(colour) * cover).astype(np.uint8)


def choices(chosen: Sequence[int], reward: Sequence[float], played: int, steps: int) -> np.ndarray:
    """Who chose what: a row for each agent, a column for each action, the reward as a bar at the right.

    `chosen` holds -1 before the first step. The bar at the top is the part of the episode that was played.
    """
    n = len(chosen)
    cell = max(6, 288 // n)
    gap, side, top = max(1, cell // 10), 72, 24
    picture = canvas(top + n * cell + 8, 8 + n * cell + 8 + side + 8)
    box(picture, 8, 8, 8, n * cell, LINE)
    box(picture, 8, 8, 8, round(n * cell * min(played / steps, 1)), INK)
    palette = colours(n)
    for agent, (action, earned) in enumerate(zip(chosen, reward, strict=True)):
        row = top + agent * cell
        for column in range(n):
            colour = palette[action] if column == action else WHITE
            box(picture, row, 8 + column * cell, cell - gap, cell - gap, colour)
        box(picture, row, 16 + n * cell, cell - gap, side, WHITE)
        if action >= 0:
            shade = (WORST + (BEST - WORST) * earned).astype(np.uint8)
            box(picture, row, 16 + n * cell, cell - gap, round(side * earned), shade)
    return picture


def particles(
    position: np.ndarray, landmark: np.ndarray, colour: np.ndarray, within: float, played: int, steps: int
) -> np.ndarray:
    """Agents as discs and landmarks as rings, each in its colour.

    `position [N, 2]`, `landmark [G, 2]` and `colour [N]` (the landmark that an agent seeks); the view holds at least
    +-`within`, more where agents have left it.
    """
    size, top = 448, 24
    reach = max(within, float(np.abs(position).max())) * 1.08
    picture = canvas(top + size, size)
    box(picture, 8, 8, 8, size - 16, LINE)
    box(picture, 8, 8, 8, round((size - 16) * min(played / steps, 1)), INK)
    box(picture, top, 0, size, size, WHITE)
    palette = colours(len(landmark))
    scale = size / (2 * reach)

    def place(point: np.ndarray) -> tuple[float, float]:
        return top + size / 2 - float(point[1]) * scale, size / 2 + float(point[0]) * scale

    for shade, point in zip(palette, landmark, strict=True):
        for radius, paint in ((14, shade), (10, np.array(WHITE))):
            disc(picture, *place(point), radius, paint)
    radius = 6 if len(position) <= 64 else 3
    for kind, point in zip(colour, position, strict=True):
        disc(picture, *place(point), radius + 1, WHITE)
        disc(picture, *place(point), radius, palette[kind])
    return picture
