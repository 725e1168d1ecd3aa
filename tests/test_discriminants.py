"""Directions that tell things apart, and the axes they are laid along."""

from __future__ import annotations

import torch
from small import close, factors, rng

from hypermarl.conditioning import Described
from hypermarl.discriminants import clear_directions, sparse


def test_directions_are_those_told_clearly_and_no_more_than_wanted() -> None:
    _, seen = factors()
    centre, directions = clear_directions(seen, 9, rng(), clear=2.0, ridge=1e-3)
    assert directions.shape == (24, 6)  # two facts of four differ in three directions each
    close(centre, seen.double().mean((0, 1)))
    codes = (seen.double().mean(1) - centre) @ directions
    close(codes.mT @ codes / 16, torch.eye(6).double(), atol=1e-4)
    few = clear_directions(seen, 4, rng(), clear=2.0, ridge=1e-3)[1]
    assert few.shape == (24, 4)
    noise = torch.randn(16, 9, 24, generator=rng(5))
    assert clear_directions(noise, 9, rng(), clear=2.0, ridge=1e-3)[1].shape == (24, 0)


def test_what_is_the_same_in_all_looks_is_not_infinitely_clear() -> None:
    """Two things that differ in the last digits of a feature that no look changes are not told apart by it."""
    _, seen = factors()
    seen = torch.cat([seen, 1e-5 * torch.randn(16, 1, 1, generator=rng(7)).expand(16, 9, 1)], -1)
    directions = clear_directions(seen, 9, rng(), clear=2.0, ridge=1e-3)[1]
    assert directions.shape == (25, 6)


def test_descriptions_count_evenly_what_is_told_clearly() -> None:
    """However loud one fact is, and whatever the units of the features."""
    _, seen = factors()
    loud = seen.clone()
    loud[..., 0] += 1000.0 + 100.0 * (torch.arange(16) // 4 % 2).unsqueeze(-1)
    one = Described(loud[:, 0], 9, rng(), wordings=loud, evenly=True)
    codes = torch.stack([one(loud[:, i]) for i in range(loud.shape[1])], 1)
    close(codes.mean((0, 1)), torch.zeros(9), atol=1e-4)
    between = codes.mean(1)
    close(between.mT @ between / 16, torch.diag(torch.tensor([1.0] * 6 + [0.0] * 3)), atol=1e-3)
    assert float((codes - between.unsqueeze(1)).square().mean()) < 0.25 * float(between.square().mean())
    close(one(torch.tensor([3, 1])), one(loud[[3, 1], 0]))


def test_axes_are_turned_so_that_few_tell_an_agent() -> None:
    plain = torch.nn.functional.one_hot(torch.arange(64) % 8, 8).double()
    plain = (plain - plain.mean(0)) @ torch.linalg.svd(plain - plain.mean(0)).Vh[:7].mT
    even = plain / plain.square().mean(0).sqrt()
    turn = sparse(even, rng())
    close(turn.mT @ turn, torch.eye(7).double())
    most = [sparse(even @ torch.linalg.qr(torch.randn(7, 7, generator=rng(i)).double()).Q, rng()) for i in range(2)]
    found = [float((even @ turn).pow(4).mean())]
    found += [
        float((even @ torch.linalg.qr(torch.randn(7, 7, generator=rng(i)).double()).Q @ each).pow(4).mean())
        for i, each in enumerate(most)
    ]
    assert found[0] > 1.3 * float(even.pow(4).mean()) and max(found) < 1.05 * min(found), found


def test_a_text_like_no_other_has_a_code_of_a_size_that_is_known() -> None:
    _, seen = factors()
    one = Described(seen[:, 0], 9, rng(), wordings=seen, evenly=True)
    plain = ((seen[:, 0] - one.mean) / one.scale) @ one.map
    longest = plain.norm(dim=-1).max()
    close(one(seen[:, 0]), plain)
    odd = seen[3:5, 0] + 50.0 * torch.randn(2, 24, generator=rng(8))
    far = ((odd - one.mean) / one.scale) @ one.map
    assert bool((far.norm(dim=-1) > 2 * longest).all())
    close(one(odd), far / far.norm(dim=-1, keepdim=True) * longest)
    other = Described(0 * seen[:, 0], 9, rng(), evenly=True)
    assert not torch.allclose(other.reach, longest)
    other.load_state_dict(one.state_dict())
    close(other(odd), one(odd))
    free = Described(seen[:, 0], 9, rng(), wordings=seen)
    close(free(odd), ((odd - free.mean) / free.scale) @ free.map)


def test_agents_that_are_described_alike_have_a_code_all_the_same() -> None:
    """Nothing tells them apart: no direction, a reach of zero, and no division by it."""
    alike = torch.ones(3, 2, 24)
    one = Described(alike[:, 0], 9, rng(), wordings=alike, evenly=True)
    assert one(alike[:, 0]).isfinite().all() and one(torch.randn(2, 24, generator=rng(9))).isfinite().all()
