"""The board: one memory, the same arrays for whoever knows the groups."""

from __future__ import annotations

import numpy as np

from hypermarl.envs.board import Board
from hypermarl.envs.interface import Continuous, Discrete, Group

GROUPS = {
    "walker": Group("walker", ("walker_0", "walker_1"), 5, Continuous((-1.0, -1.0, 0.0), (1.0, 1.0, 2.0))),
    "guard": Group("guard", ("guard",), 2, Discrete(4), masked=True),
}


def test_two_boards_on_one_memory_are_one() -> None:
    memory = bytearray(Board.size(GROUPS, 3))
    one, other = Board(GROUPS, 3, memory), Board(GROUPS, 3, memory)
    for number, array in enumerate(one.arrays.values()):
        array[...] = number + 1
    for number, (name, array) in enumerate(other.arrays.items()):  # none overlaps with a later one
        assert (array == (True if array.dtype == bool else number + 1)).all(), name


def test_shapes_and_types() -> None:
    board = Board(GROUPS, 3)
    assert board["observation/walker"].shape == (3, 2, 5)
    assert (board["action/walker"].shape, board["action/walker"].dtype) == ((3, 2, 3), np.float32)
    assert (board["action/guard"].shape, board["action/guard"].dtype) == ((3, 1), np.int64)
    assert board["mask/guard"].shape == (3, 1, 4)
    assert "mask/walker" not in board.arrays
    assert board["active"].all()
