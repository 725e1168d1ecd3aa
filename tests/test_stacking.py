"""Seeds as an axis: modules that become one, and one that becomes modules again."""

from __future__ import annotations

import torch
from small import config, group, policies, policy, rng, stirred
from torch import Tensor, nn

from hypermarl.marl.policy import build_policy
from hypermarl.stacking import join, slice_of, stacked


class Part(nn.Module):
    saved: Tensor
    constant: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)
        self.again = self.inner  # used twice, owned once
        self.number = nn.Parameter(torch.tensor(float(seed)))
        self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("saved", torch.arange(4.0) + seed)
        self.register_buffer("counted", torch.tensor(seed))
        self.register_buffer("constant", torch.arange(5.0), persistent=False)
        stirred(self, seed=seed)


def test_every_parameter_and_saved_buffer_gets_the_axis() -> None:
    parts = [Part(seed) for seed in range(3)]
    whole = stacked(parts)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, torch.stack([dict(p.named_parameters())[name] for p in parts]))
    assert whole.saved.shape == (3, 4)
    assert whole.counted.tolist() == [0, 1, 2]
    assert torch.equal(whole.constant, torch.arange(5.0)), "constants stay as they are"
    assert not whole.fixed.requires_grad
    assert whole.number.requires_grad
    assert whole.again is whole.inner
    assert len(list(whole.parameters())) == len(list(parts[0].parameters()))


def test_the_originals_are_left_alone() -> None:
    part = Part(0)
    before = [p.clone() for p in part.parameters()]
    whole = stacked([part, Part(1)])
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert all(torch.equal(x, y) for x, y in zip(part.parameters(), before, strict=True))


def test_slices_are_plain_state_dicts_and_join_again() -> None:
    parts = [Part(seed) for seed in range(3)]
    whole = stacked(parts)
    state = whole.state_dict()
    for s, part in enumerate(parts):
        mine = slice_of(state, s)
        assert mine.keys() == part.state_dict().keys()
        assert all(torch.equal(mine[name], tensor) for name, tensor in part.state_dict().items())
        mine["number"].zero_()
    assert whole.number.tolist() == [p.number.item() for p in parts], "a slice is a copy"
    joined = join([slice_of(state, s) for s in range(3)])
    assert all(torch.equal(joined[name], tensor) for name, tensor in state.items())


def test_a_policy_of_several_seeds_holds_each_of_them() -> None:
    """Including what is not a parameter: memories of returns, features; and loading goes both ways."""
    agents = group(3, 5, (1.0, 2.0))
    words = ("sharing.conditioning=features", "sharing.features=[[1,2],[3,4],[5,7]]")
    both = policy(agents, *words, seeds=(4, 9))
    both.value_norm.update(torch.randn(6, 2, 2, 3, generator=rng()))
    for s, seed in enumerate((4, 9)):
        alone = build_policy(config(*words), {"agents": agents}, "agents", seed)
        alone.load_state_dict(slice_of(both.state_dict(), s))
        x = torch.randn(8, 2, 3, 5, generator=rng(2))
        values = both.value_norm.restore(both.values(x)[0])[:, s]
        torch.testing.assert_close(alone.value_norm.restore(alone.values(x[:, s])[0]), values)
        loc = both.parameters_of(x)[0]["loc"][:, s]
        torch.testing.assert_close(alone.parameters_of(x[:, s])[0]["loc"], loc)
        assert torch.equal(alone.low, both.low)
        assert both.low.shape == (2,)


def test_one_seed_is_the_plain_module() -> None:
    agents = group(3, 5, 4)
    one = policies({"agents": agents}, stir=0.0)["agents"]
    alone = build_policy(config(), {"agents": agents}, "agents", 0)
    x = torch.randn(8, 3, 5, generator=rng(2))
    assert torch.equal(one.parameters_of(x.unsqueeze(1))[0]["logits"].squeeze(1), alone.parameters_of(x)[0]["logits"])
    assert torch.equal(one.values(x.unsqueeze(1))[0].squeeze(1), alone.values(x)[0])
