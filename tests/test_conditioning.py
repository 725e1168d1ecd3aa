"""Who an agent is: ids, learned embeddings, features."""

from __future__ import annotations

import pytest
import torch
from small import close, rng

from hypermarl.conditioning import AgentTable, Features, Nobody, OneHot, make_conditioner
from hypermarl.errors import UserError
from hypermarl.stacking import stacked

ROWS = [[1.0, 5.0, 2.0], [3.0, 5.0, 8.0], [8.0, 5.0, -1.0], [0.0, 5.0, 0.0]]


def test_ids_are_all_agents_or_those_asked_for() -> None:
    assert OneHot(3)() is None  # everybody, in order
    assert OneHot(3)(torch.tensor([2, 2])).tolist() == [2, 2]
    assert OneHot(3).dim == 3


def test_nobody_is_told_apart() -> None:
    assert Nobody()().shape == (1, 0)
    assert not list(Nobody().parameters())


@pytest.mark.parametrize("agents, dim", [(3, 3), (2, 5), (6, 2), (1, 4), (3, 1)])
def test_embeddings_start_orthogonal(agents: int, dim: int) -> None:
    table = AgentTable(agents, dim, rng())()
    assert table.shape == (agents, dim)
    close(torch.linalg.svdvals(table), torch.full((min(agents, dim),), 2.0).sqrt())


def test_embeddings_of_ids() -> None:
    table = AgentTable(4, 3, rng())
    assert torch.equal(table(torch.tensor([2, 0])), table.weight[[2, 0]])


def test_newcomers_leave_the_others_alone() -> None:
    table = AgentTable(4, 3, rng())
    before = table().detach().clone()
    mixture = (before[0] + before[2]) / 2
    assert table.add(mixture) == 4
    assert table.add(torch.ones(2, 3)) == 5
    assert torch.equal(table()[:4], before)
    assert torch.equal(table(torch.tensor([4, 6])), torch.stack([mixture, torch.ones(3)]))
    assert table.weight.requires_grad


def test_newcomers_of_several_seeds() -> None:
    table = stacked([AgentTable(4, 3, rng(seed)) for seed in range(2)])
    assert table.add(torch.arange(3.0)) == 4
    assert table.add(torch.stack([torch.zeros(1, 3), torch.ones(1, 3)])) == 5
    assert table().shape == (2, 6, 3)
    assert table()[:, 4].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert table()[:, 5].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_features_are_standardised_over_the_training_agents() -> None:
    features = Features(ROWS)
    rows = features()
    close(rows.mean(0), torch.zeros(3))
    close(rows.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]))  # a constant column tells nothing, and is no NaN
    # newcomers are put on the same scale, and change it for nobody
    close(features(torch.tensor([ROWS[1]])), rows[1:2])
    close(features(), rows)


def test_features_of_several_seeds() -> None:
    features = Features(ROWS)
    both = stacked([Features(ROWS), Features(ROWS)])
    close(both(), torch.stack([features(), features()]))
    close(both(torch.tensor([ROWS[2]])), torch.stack([features()[2:3]] * 2))


def test_what_cannot_be_features() -> None:
    for rows in ([], [[]]):
        with pytest.raises(UserError, match=r"sharing\.features"):
            Features(rows)
    with pytest.raises(UserError, match="4 rows for 3 agents"):
        make_conditioner("features", 3, 2, ROWS, rng())


@pytest.mark.parametrize(
    "kind, cls, dim", [("none", Nobody, 0), ("one_hot", OneHot, 4), ("table", AgentTable, 2), ("features", Features, 3)]
)
def test_conditioners_by_name(kind: str, cls: type, dim: int) -> None:
    made = make_conditioner(kind, 4, 2, ROWS, rng())
    assert isinstance(made, cls)
    assert made.dim == dim
