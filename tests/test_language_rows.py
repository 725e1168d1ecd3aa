"""Rows of many agents as one batch, and how the next token is chosen."""

from __future__ import annotations

import math

import pytest
import torch
from small import close, rng

from hypermarl.language.rows import Rows, Sampling, choose, positions

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def shares(sampling: Sampling, draws: int = 4000) -> list[float]:
    drawn = choose(LOGITS.expand(draws, -1), sampling, rng())
    return (torch.bincount(drawn, minlength=4) / draws).tolist()


def test_rows_of_an_agent_stand_together_padded_on_the_left() -> None:
    rows = Rows.of([[[5, 6, 7]], [[8], [9, 4]]], padding=1)
    assert rows.ids.tolist() == [[5, 6, 7], [1, 1, 1], [1, 1, 8], [1, 9, 4]]
    assert rows.mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]]
    assert rows.real.tolist() == [True, False, True, True]
    assert positions(rows.mask).tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_what_an_owner_is_asked_twice_stands_once() -> None:
    rows = Rows.of([[[5, 6], [7], [5, 6], [5, 6]], [[7], [5, 6], [7]], [[8]]], padding=1)
    once, which = rows.distinct(3)
    assert once.texts() == [[5, 6], [7], [7], [5, 6], [8], [5]] and which is not None
    assert once.real.tolist() == [True] * 5 + [False]
    assert [once.texts()[place] for place in which[rows.real]] == [
        text for text, real in zip(rows.texts(), rows.real, strict=True) if real
    ]
    assert which.tolist()[4:7] == [2, 3, 2], "each owner's own rows, though another has the same"
    for apart in (Rows.of([[[5, 6], [7]], [[7], [8]]], padding=1), Rows.of([[[5]], [[5]], [[5]]], padding=1)):
        found, which = apart.distinct(len(apart.ids) // 2 if len(apart.ids) == 4 else 3)
        assert found is apart and which is None


def test_tokens_are_drawn_as_often_as_their_share_says() -> None:
    for found, wanted in zip(shares(Sampling(temperature=1.0)), (0.5, 0.3, 0.15, 0.05), strict=True):
        assert abs(found - wanted) < 5 * math.sqrt(wanted / 4000)
    hot = torch.softmax(LOGITS / 3.0, -1)
    for found, wanted in zip(shares(Sampling(temperature=3.0)), hot.tolist(), strict=True):
        assert abs(found - wanted) < 5 * math.sqrt(wanted / 4000)


def test_top_p_keeps_the_fewest_tokens_that_make_up_the_share() -> None:
    for top_p, kept in ((0.4, 1), (0.6, 2), (0.79, 2), (0.9, 3), (0.99, 4)):
        found = shares(Sampling(temperature=1.0, top_p=top_p))
        assert [share > 0 for share in found] == [i < kept for i in range(4)]
        assert abs(found[0] - 0.5 / sum((0.5, 0.3, 0.15, 0.05)[:kept])) < 0.05


def test_a_large_vocabulary_is_searched_as_far_as_the_share_needs() -> None:
    flat = torch.zeros(7, 3000)
    drawn = torch.cat([choose(flat, Sampling(temperature=1.0, top_p=0.5), rng(seed)) for seed in range(300)])
    assert 1000 < len(drawn.unique()) <= 1501


def test_the_luck_of_a_row_is_its_own() -> None:
    """A row draws the same whatever the others hold."""
    logits = torch.randn(5, 40, generator=rng(1))
    other = logits.clone()
    other[[0, 1, 3, 4]] = torch.randn(4, 40, generator=rng(2)) * 9
    for top_p in (1.0, 0.7):
        sampling = Sampling(temperature=2.0, top_p=top_p)
        for seed in range(20):
            assert choose(logits, sampling, rng(seed))[2] == choose(other, sampling, rng(seed))[2]


@pytest.mark.parametrize("luck", [0.0, 1.0])
def test_the_ends_of_luck_draw_possible_tokens(luck: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, luck))
    logits = torch.tensor([[-math.inf, 0.0, 2.0, 0.0, -math.inf]])
    for top_p in (1.0, 0.999):  # by number, and by share
        assert 1 <= choose(logits, Sampling(temperature=1.0, top_p=top_p)).item() <= 3


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(2000, -1)
    for top_p in (1.0, 0.999):
        drawn = choose(logits, Sampling(temperature=1.0, top_p=top_p), rng())
        assert sorted(drawn.unique().tolist()) == [1, 3]
        close(drawn.eq(1).float().mean(), torch.tensor(0.5), atol=0.06)
