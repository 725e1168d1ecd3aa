"""Numbers drawn by row: known values, spread evenly, and each row's own."""

from __future__ import annotations

import torch

from hypermarl.envs.chance import _mix, row_keys, uniform

CPU = torch.device("cpu")


def test_hash_is_splitmix64() -> None:
    # the first two outputs of the published generator started at 0
    outputs = [_mix(torch.tensor(0)), _mix(torch.tensor(0x9E3779B97F4A7C15 - (1 << 64)))]
    assert [int(each) % (1 << 64) for each in outputs] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_rows_and_episodes_draw_their_own() -> None:
    keys = row_keys(3, 5, CPU)
    episode = torch.tensor([0, 1, 2, 3, 4])
    drawn = uniform(keys, episode, 7)
    assert drawn.shape == (5, 7)
    for row in range(5):  # alone or among others, with more rows or more numbers, row i draws the same
        assert torch.equal(uniform(keys[row : row + 1], episode[row : row + 1], 7)[0], drawn[row])
    assert torch.equal(row_keys(3, 9, CPU)[:5], keys)
    assert torch.equal(uniform(keys, episode, 11)[:, :7], drawn)
    assert not torch.equal(uniform(keys, episode + 1, 7), drawn)
    assert not set(row_keys(4, 5, CPU).tolist()) & set(keys.tolist())


def test_any_whole_number_is_a_seed() -> None:
    seeds = [0, -1, 1, 2**31, 2**63, 2**64 - 2, -(2**63) + 7]
    assert len({int(row_keys(seed, 1, CPU)[0]) for seed in seeds}) == len(seeds)


def test_numbers_are_even_and_unrelated() -> None:
    keys = row_keys(0, 4000, CPU)
    drawn = uniform(keys, torch.zeros_like(keys), 8)
    again = uniform(keys, torch.ones_like(keys), 8)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    share = torch.histc(drawn, bins=16, min=0, max=1) / drawn.numel()
    assert (share - 1 / 16).abs().max() < 0.006  # four standard deviations
    together = torch.corrcoef(torch.cat([drawn, again], dim=1).T).fill_diagonal_(0)
    assert together.abs().max() < 0.08
    rows = torch.corrcoef(torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()]))[0, 1]
    assert abs(float(rows)) < 0.03
