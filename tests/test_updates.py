"""Minibatches and one descent step, in which no seed touches another."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from small import close, rng
from torch import Tensor, nn

from hypermarl.updates import descend, minibatches, seed_norms, take

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows, count", [(12, 3), (13, 4), (5, 5), (7, 1)])
def test_every_row_is_seen_once_by_every_seed(rows: int, count: int) -> None:
    parts = list(minibatches(rows, count, [rng(0), rng(1)], CPU))
    assert len(parts) == count
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for column in torch.cat(parts).T:
        assert sorted(column.tolist()) == list(range(rows))


def test_the_order_of_a_seed_is_its_own() -> None:
    both = torch.cat(list(minibatches(50, 2, [rng(0), rng(1)], CPU)))
    alone = torch.cat(list(minibatches(50, 2, [rng(1)], CPU)))
    assert both[:, 1].tolist() == alone[:, 0].tolist()
    assert both[:, 0].tolist() != both[:, 1].tolist()
    source = rng(0)
    first, second = (torch.cat(list(minibatches(50, 2, [source], CPU))) for _ in range(2))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("seeds", [1, 3])
def test_take_picks_each_seeds_rows(seeds: int) -> None:
    rows = torch.randn(7, seeds, 4, 2)
    index = torch.randint(7, (5, seeds))
    found = take(rows, index)
    assert found.shape == (5, seeds, 4, 2)
    for b in range(5):
        for s in range(seeds):
            assert torch.equal(found[b, s], rows[index[b, s], s])


def test_take_of_expanded_and_transposed_rows() -> None:
    rows = torch.randn(4, 7, 3).permute(1, 2, 0).unsqueeze(-1).expand(7, 3, 4, 2)
    index = torch.randint(7, (5, 3))
    expected = torch.stack([rows[index[:, s], s] for s in range(3)], 1)
    assert torch.equal(take(rows, index), expected)


# ------------------------------------------------------------------------------------------------ descent


def parameters(seeds: int = 3) -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.randn(seeds, *shape, generator=rng(i))) for i, shape in enumerate([(4, 2), (5,), (2, 3, 2)])
    ]


def loss(ps: list[nn.Parameter], scale: Tensor) -> Tensor:
    return sum(((p.flatten(1).square() + p.flatten(1)).sum(1) * scale).sum() for p in ps)  # type: ignore[return-value]


def adam(ps: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(ps, lr=0.1, fused=True)


def sgd(ps: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(ps, lr=0.1)


def slices(ps: list[nn.Parameter], s: int) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach()[s : s + 1].clone()) for p in ps]


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("make", [adam, sgd])
def test_seeds_descend_as_if_alone(make: Callable[..., torch.optim.Optimizer], steps: int) -> None:
    """Seeds with gradients of very different sizes: each is clipped by its own norm, as PyTorch would."""
    together = parameters()
    scale = torch.tensor([1e-3, 1.0, 1e3])
    alone = [slices(together, s) for s in range(3)]
    optimizer, healthy = make(together), torch.ones(3, dtype=torch.bool)
    for _ in range(steps):
        torch.autograd.backward(loss(together, scale))
        norms = descend(optimizer, [together], 0.5, healthy)
    assert all(p.grad is None for p in together)
    assert healthy.all()
    for s, ps in enumerate(alone):
        own = make(ps)
        for _ in range(steps):
            torch.autograd.backward(loss(ps, scale[s : s + 1]))
            expected = nn.utils.clip_grad_norm_(ps, 0.5)
            own.step()
            own.zero_grad()
        close(norms[s], expected)
        for whole, p in zip(together, ps, strict=True):
            close(whole[s], p[0])


def test_each_list_of_parameters_is_clipped_by_itself() -> None:
    ps = parameters()
    optimizer = torch.optim.SGD(ps, lr=1.0)
    before = [p.detach().clone() for p in ps]
    torch.autograd.backward(loss(ps, torch.ones(3)) * 100)
    own = [seed_norms(ps[:1]), seed_norms(ps[1:])]
    worst = descend(optimizer, [ps[:1], ps[1:]], 0.5, torch.ones(3, dtype=torch.bool))
    close(worst, torch.maximum(*own))
    moved = [(p - b).flatten(1).norm(dim=1) for p, b in zip(ps, before, strict=True)]
    close(moved[0], torch.full((3,), 0.5))
    close((moved[1].square() + moved[2].square()).sqrt(), torch.full((3,), 0.5))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("lists", [1, 2])
def test_a_seed_that_fails_stays_and_the_others_go_on(poison: float, lists: int) -> None:
    together = parameters()
    control = copy.deepcopy(together)
    runs = []
    for ps, at in ((together, 2), (control, None)):
        optimizer, healthy = adam(ps), torch.ones(3, dtype=torch.bool)
        groups = [ps] if lists == 1 else [ps[:2], ps[2:]]
        trace = []
        for step in range(5):
            torch.autograd.backward(loss(ps, torch.ones(3)))
            if step == at:
                assert ps[2].grad is not None
                ps[2].grad[1] = poison
            descend(optimizer, groups, 0.5, healthy)
            trace.append([p.detach().clone() for p in ps])
        runs.append((trace, healthy))
        assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())
    (trace, healthy), (untouched, _) = runs
    assert healthy.tolist() == [True, False, True]
    for step in range(5):
        for p, q in zip(trace[step], untouched[step], strict=True):
            assert torch.equal(p[0], q[0])
            assert torch.equal(p[2], q[2])
    for p, q in zip(trace[4], trace[1], strict=True):
        assert torch.equal(p[1], q[1]), "momentum must not move a stopped seed"
        assert p.isfinite().all()


def test_parameters_without_gradient_are_left_out() -> None:
    ps = parameters()
    unused = nn.Parameter(torch.ones(3, 2))
    torch.autograd.backward(loss(ps, torch.ones(3)))
    descend(adam([*ps, unused]), [[*ps, unused]], 0.5, torch.ones(3, dtype=torch.bool))
    assert torch.equal(unused, torch.ones(3, 2))
