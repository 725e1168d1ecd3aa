"""Stepping PettingZoo environments into their rows: every way to break the rules becomes one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hypermarl.envs.board import Board, episode_seed
from hypermarl.envs.interface import EnvironmentFault
from hypermarl.envs.rows import Rows, open_to_train

TOY = "pettingzoo_toys:Pistons"


def opened(num_envs: int = 2, max_steps: int | None = None, **options: Any) -> Rows:
    first, form = open_to_train(TOY, options)
    board = Board(form.groups, num_envs)
    rows = Rows(TOY, options, form, board, max_steps=max_steps, first=first)
    board["restart"][:] = True
    return rows


def played(steps: int = 8, **options: Any) -> Rows:
    rows = opened(**options)
    rows.reset()
    for _ in range(steps):
        rows.step(auto_reset=True)
    return rows


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("making", r"making it raised ZeroDivisionError: no pistons \(pettingzoo_toys.py, line \d+\)"),
        ("nobody", "'possible_agents' is empty"),
        ("dict space", "observation space of agent 'piston_0' is a Dict of 'left', 'right'; flatten it"),
        ("multidiscrete", "action space of agent 'piston_0' is a MultiDiscrete space"),
        ("raise in reset", "reset raised KeyError: 'seed'"),
        ("reset answer", "reset must return two dictionaries"),
        ("stranger", "agent 'ghost' is in 'agents', but not in 'possible_agents'"),
        ("raise", "step raised RuntimeError: the piston is stuck"),
        ("nan reward", "reward of agent 'piston_0' holds NaN"),
        ("word reward", "reward of agent 'piston_0' is no number but 'much'"),
        ("nan observation", "observation of agent 'piston_0' holds NaN"),
        ("infinite observation", "observation of agent 'piston_0' is infinite"),
        ("shape", r"observation of agent 'piston_0' has shape \(3, 2\), but its space says \(2, 2\)"),
        ("words", "observation of agent 'piston_0' has dtype <U1"),
        ("ragged", "observation of agent 'piston_0' cannot be read"),
        ("no reward", "step gave no reward for agent 'piston_0', which is alive"),
        ("no termination", "step gave no termination for agent 'piston_0'"),
        ("no truncation", "step gave no truncation for agent 'piston_0'"),
        ("no observation", "gave no observation for agent 'piston_0'"),
        ("array flags", "flags that say whether agent 'piston_0' has ended are no booleans"),
        ("four answers", "step must return five dictionaries"),
        ("vanish", "agent 'piston_0' left 'agents' without being terminated or truncated"),
        ("swap", "agent 'piston_0' left 'agents' without being terminated or truncated"),
    ],
)
def test_a_broken_environment_is_named_with_its_agent_and_its_fault(fault: str, words: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"^Environment '{TOY}': .*{words}") as caught:
        played(fault=fault, at=1)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_what_is_seen_last_must_be_finite_too() -> None:
    with pytest.raises(EnvironmentFault, match="observation of agent 'piston_0' holds NaN"):
        played(fault="nan observation", at=1, max_steps=1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no mask", "gave no action mask for agent 'piston_0'"),
        ("mask shape", r"action mask of agent 'piston_0' has shape \(5,\) for 4 actions"),
        ("empty mask", "action mask of agent 'piston_0' allows no action"),
    ],
)
def test_a_broken_mask_is_named(fault: str, words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        played(fault=fault, mask="info", at=1)


def test_broken_pictures_and_choices_are_named() -> None:
    with pytest.raises(EnvironmentFault, match="has dtype float32, but its space says uint8"):
        played(fault="float image", see="image", at=1)
    with pytest.raises(EnvironmentFault, match="is 19, but its space has the 20 whole numbers from -1"):
        played(fault="choice", see="choice", at=1)


@pytest.mark.parametrize("fault", ["lingering", "revive"])
def test_agents_do_not_come_back_within_an_episode(fault: str) -> None:
    with pytest.raises(EnvironmentFault, match="has ended, but is in 'agents' again; take it out when it ends"):
        played(fault=fault, at=6, steps=30, n=5)


def test_masks_need_choices() -> None:
    with pytest.raises(EnvironmentFault, match="has an action mask, but its actions are no Discrete space"):
        opened(mask="info", act="box")


def test_an_agent_may_come_late() -> None:
    rows = opened(fault="late", at=1, num_envs=8)
    rows.reset()
    alive = rows.board["alive/piston"]
    assert alive.tolist() == [[True, True, False]] * 8
    assert not rows.board["observation/piston"][:, 2].any()
    rows.step(auto_reset=True)
    assert alive.all()
    assert (rows.board["observation/piston"][:, 2, 0] == 2).all()
    assert not rows.board["reward/piston"][:, 2].any(), "paid for what it did not do"
    rows.step(auto_reset=False)
    assert rows.board["reward/piston"][:, 2].all()


def test_rows_stand_still_where_a_command_is_not_for_them() -> None:
    rows = opened(num_envs=3)
    rows.reset()
    before = rows.board["observation/piston"].copy()
    rows.board["active"][:] = [True, False, True]
    rows.step(auto_reset=True)
    after = rows.board["observation/piston"]
    assert rows.board["length"].tolist() == [1, 0, 1]
    assert np.array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0])


def test_part_of_a_board_is_stepped_as_in_the_whole() -> None:
    whole = opened(num_envs=4, mask="info")
    whole.reset()
    first, form = open_to_train(TOY, {"mask": "info"})
    board = Board(form.groups, 4)
    board["restart"][:] = True
    part = Rows(TOY, {"mask": "info"}, form, board, max_steps=None, start=2, stop=4, first=first)
    part.reset()
    for _ in range(20):
        whole.step(auto_reset=True)
        part.step(auto_reset=True)
        for name, array in board.arrays.items():
            assert np.array_equal(array[2:], whole.board[name][2:]), name
    assert not board["observation/piston"][:2].any()


def test_large_numbers_are_no_fault() -> None:
    rows = opened()
    rows.reset()
    rows.board["observation/piston"][...] = 3e38  # their sum is infinite
    rows._check_finite()


def test_seeds_differ_between_rows_episodes_and_seeds() -> None:
    seeds = {episode_seed(seed, row, episode) for seed in range(8) for row in range(8) for episode in range(8)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**31 for seed in seeds)
