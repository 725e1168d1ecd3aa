"""Spaces as flat rows, and agents as groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hypermarl.envs.interface import Continuous, Discrete
from hypermarl.envs.spaces import Misfit, action_form, groups_of, observation_form


def written(space: Any, value: Any) -> list[float]:
    form = observation_form(space)
    row = np.full(form.size, 7.0, np.float32)
    form.writer()(value, row)
    return row.tolist()


@pytest.mark.parametrize(
    ("space", "value", "row"),
    [
        (spaces.Box(-9, 9, (2, 2)), np.array([[1, 2], [3, 4]], np.float64), [1, 2, 3, 4]),
        (spaces.Box(-9, 9, ()), np.float32(2.5), [2.5]),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 255], np.uint8), [0, 1]),
        (spaces.Box(0, 7, (2,), np.uint8), np.array([0, 7], np.uint8), [0, 7]),  # numbers, not an image
        (spaces.Box(0, 1, (3,), np.bool_), np.array([True, False, True]), [1, 0, 1]),
        (spaces.MultiBinary((2, 1)), np.array([[1], [0]], np.int8), [1, 0]),
        (spaces.Discrete(3), 2, [0, 0, 1]),
        (spaces.Discrete(3, start=-1), np.int64(-1), [1, 0, 0]),
        (spaces.MultiDiscrete([2, 3], start=[0, 5]), np.array([1, 5]), [0, 1, 1, 0, 0]),
        (
            spaces.Dict({"observation": spaces.Discrete(2), "action_mask": spaces.Box(0, 1, (2,), np.int8)}),
            1,
            [0, 1],
        ),
    ],
)
def test_observations_become_rows(space: Any, value: Any, row: list[float]) -> None:
    assert written(space, value) == row


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=4), elements=st.floats(-9, 9, width=32)))
def test_a_box_of_any_shape_is_flattened_in_order(value: np.ndarray) -> None:
    assert written(spaces.Box(-9, 9, value.shape), value) == value.flatten().tolist()


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros(1), "has shape"),
        (spaces.Box(-1, 1, (2,)), np.zeros((2, 1)), "has shape"),
        (spaces.Box(-1, 1, (1,)), np.array([None]), "has dtype object"),
        (spaces.Box(0, 255, (1,), np.uint8), np.zeros(1), "has dtype float64"),
        (spaces.Discrete(3), 3, "is 3, but its space has the 3 whole numbers from 0"),
        (spaces.Discrete(3), 0.5, "is 0.5"),
        (spaces.Discrete(3), np.array([0, 1]), "has shape"),
    ],
)
def test_what_is_not_of_the_space_is_refused(space: Any, value: Any, words: str) -> None:
    with pytest.raises(Misfit, match=words):
        written(space, value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Text(3),
        spaces.Box(-1, 1, (0,)),
        spaces.Sequence(spaces.Discrete(2)),
    ],
)
def test_observation_spaces_we_cannot_use_are_refused(space: Any) -> None:
    with pytest.raises(Misfit):
        observation_form(space)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.MultiDiscrete([2, 2]), "number the combinations"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple"),
        (spaces.Box(-np.inf, 1, (2,)), "without finite bounds"),
        (spaces.Box(0, 3, (2,), np.int32), "Box of int32"),
        (spaces.Box(-1, 1, (0,)), "no numbers"),
    ],
)
def test_action_spaces_we_cannot_use_are_refused(space: Any, words: str) -> None:
    with pytest.raises(Misfit, match=words):
        action_form(space)


@given(arrays.arrays(np.float32, 4, elements=st.floats(width=32, allow_nan=False)))
def test_whatever_a_policy_chooses_is_in_the_box(row: np.ndarray) -> None:
    for dtype in (np.float32, np.float64):
        box = spaces.Box(np.array([[-0.1, 0], [1, 2]], dtype), np.array([[0.1, 0.3], [1.5, 3]], dtype), dtype=dtype)
        form = action_form(box)
        assert isinstance(form.action, Continuous)
        assert form.reader()(row) in box


def groups(**agents: tuple[Any, Any]) -> dict[str, tuple[str, ...]]:
    forms = {agent: (observation_form(s), action_form(a), False) for agent, (s, a) in agents.items()}
    found = groups_of(forms)
    assert all(group.name == name for name, group in found.items())
    return {name: group.agents for name, group in found.items()}


BOX, WIDE, TWO, THREE = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (3,)), spaces.Discrete(2), spaces.Discrete(3)


def test_groups_are_named_by_what_their_agents_have_in_common() -> None:
    assert groups(a_0=(BOX, TWO), b_0=(WIDE, TWO), a_1=(BOX, TWO)) == {"a": ("a_0", "a_1"), "b": ("b_0",)}
    assert groups(knight_0=(BOX, TWO), archer_0=(BOX, TWO)) == {"knight_archer": ("knight_0", "archer_0")}
    assert groups(adam=(BOX, TWO), eve=(BOX, THREE)) == {"adam": ("adam",), "eve": ("eve",)}


def test_groups_of_one_prefix_are_told_apart() -> None:
    found = groups(a_0=(BOX, TWO), a_1=(BOX, TWO), a_2=(WIDE, TWO))
    assert found == {"a_0_to_a_1": ("a_0", "a_1"), "a_2": ("a_2",)}
    assert list(groups(**{"0": (BOX, TWO), "1": (BOX, TWO)})) == ["0_to_1"]
    many = {word: (BOX, TWO) for word in ("ann", "bob", "cid", "dan")}
    assert list(groups(**many)) == ["agents"]


def test_different_bounds_of_actions_make_different_groups() -> None:
    low, high = spaces.Box(-1, 1, (1,)), spaces.Box(-2, 2, (1,))
    assert len(groups(a_0=(BOX, low), a_1=(BOX, high))) == 2
    assert action_form(spaces.Discrete(3, start=4)).action == Discrete(3)
