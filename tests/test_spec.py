"""What is to be generated, as data: names, slots, shapes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hypermarl.spec import TargetSpec, WeightSpec

A, B, C = (
    WeightSpec("a", (3, 2), "matrix", gain=1.0),
    WeightSpec("b", (3, 2), "matrix", gain=1.0),
    WeightSpec("c", (4,), "bias"),
)


def test_slots_keep_the_order_and_hold_all() -> None:
    spec = TargetSpec((C, A, B))
    assert list(spec.slots()) == ["bias", "matrix"]
    assert spec.slots() == {"bias": (C,), "matrix": (A, B)}
    assert spec.numel() == 16


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="repeat.*'a'"):
        TargetSpec((A, C, dataclasses.replace(A, slot="other")))


@pytest.mark.parametrize("change", [{"shape": (2, 3)}, {"gain": 2.0}, {"gain": None, "std": 1.0}, {"shared": True}])
def test_tensors_of_a_slot_agree(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="slot 'matrix': 'b' differs from 'a'"):
        TargetSpec((A, dataclasses.replace(B, **change)))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (0,), (3, -1)])
def test_sizes_are_positive(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'w' needs positive sizes"):
        WeightSpec("w", shape, "w")


def test_only_matrices_start_orthogonal() -> None:
    with pytest.raises(ValueError, match="'w' is not a matrix"):
        WeightSpec("w", (3,), "w", gain=1.0)


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"a": torch.zeros(5, 3, 2)}, r"missing \['c'\], unexpected \[\]"),
        ({"a": torch.zeros(5, 3, 2), "c": torch.zeros(5, 4), "d": torch.zeros(5, 1)}, r"unexpected \['d'\]"),
        ({"a": torch.zeros(5, 2, 3), "c": torch.zeros(5, 4)}, r"'a' should be .*\(3, 2\).*, not \(5, 2, 3\)"),
        ({"a": torch.zeros(3, 2), "c": torch.zeros(5, 4)}, r"'a' should be"),
    ],
)
def test_check_says_what_is_wrong(weights: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetSpec((A, C)).check(weights)


def test_check_lets_any_leading_axes_pass() -> None:
    TargetSpec((A, C)).check({"a": torch.zeros(7, 5, 3, 2), "c": torch.zeros(7, 1, 4)})
