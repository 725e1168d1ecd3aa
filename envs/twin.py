"""A copy of one PettingZoo environment that is brought to the same place by doing the same: to draw, and to check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .board import Board
from .bridge import fault
from .rows import Rows, open_to_train


class Twin:
    """Follows environment e of a vector; `board` has one row."""

    def __init__(self, name: str, options: Mapping[str, Any], max_steps: int | None, render_mode: str | None) -> None:
        self.name, self.render_mode = name, render_mode
        first, form = open_to_train(name, options, render_mode)
        modes = getattr(first, "metadata", {}).get("render_modes", [])
        if render_mode is not None and render_mode not in modes:
            raise fault(name, f"it cannot be drawn: its metadata['render_modes'] lack {render_mode!r}")
        self.board = Board(form.groups, 1)
        self.rows = Rows(name, options, form, self.board, max_steps=max_steps, first=first)
        self._place: tuple[int, int, int] | None = None

    def follow(self, seed: int, e: int, episode: int, actions: list[dict[str, np.ndarray]]) -> None:
        """Be where these actions lead, each by group `[1, N]` or `[1, N, A]`; on from here if that is on the way."""
        board = self.board
        if self._place != (seed, e, episode) or int(board["length"][0]) > len(actions):
            board["seed"][0], board["episode"][0], board["restart"][0] = seed, episode, True
            self.rows.offset = e
            self.rows.reset()
            self._place = (seed, e, episode)
        for each in actions[int(board["length"][0]) :]:
            for g, array in each.items():
                board[f"action/{g}"][...] = array
            self.rows.step(auto_reset=False)

    def picture(self) -> np.ndarray:
        """uint8 `[H, W, 3]`."""
        try:
            picture = self.rows.envs[0].render()
        except Exception as error:
            raise fault(self.name, f"it cannot be drawn: {type(error).__name__}: {error}") from error
        if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] >= 3):
            raise fault(self.name, "its render() gives no picture of height, width and colours")
        return np.ascontiguousarray(picture[:, :, :3], dtype=np.uint8)

    def close(self) -> None:
        self.rows.close()
