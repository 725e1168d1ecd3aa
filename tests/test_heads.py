"""Heads that language agents brought along: factors that are mixed, and a mixer of features and places."""

from __future__ import annotations

import pytest
import torch
from small import close, rng, stirred
from torch import nn

from hypermarl.errors import UserError
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.heads import FullHead, ModulatedHead
from hypermarl.spec import TargetSpec, WeightSpec

K, N, D, WIDE, RANK, W = 4, 3, 5, 11, 2, 6  # no two alike
SPEC = TargetSpec(
    (
        *(WeightSpec(f"l{k}.A", (WIDE, RANK), "A", std=0.5) for k in range(K)),
        *(WeightSpec(f"l{k}.B", (RANK, WIDE), "B") for k in range(K)),
    )
)
MODULATED = GeneratorConfig(head="modulated", rank=3)
MIXED = GeneratorConfig(trunk=(W,), mixer=(7, 9), activation="silu", normalise=True)


def generator(config: GeneratorConfig) -> Generator:
    return Generator(SPEC, D, config=config, rng=rng())


@pytest.mark.parametrize("config", [MODULATED, MIXED])
def test_agents_start_as_the_base_to_the_bit(config: GeneratorConfig) -> None:
    made = generator(config)(torch.randn(N, D))
    for k in range(K):
        left, right = made[f"l{k}.A"], made[f"l{k}.B"]
        assert left.shape == (N, WIDE, RANK) and right.shape == (N, RANK, WIDE)
        assert right.count_nonzero() == 0
        assert torch.equal(left, left[:1].expand_as(left)) and left.count_nonzero()


def test_modulated_tensors_are_base_plus_mixed_factors() -> None:
    one = stirred(generator(MODULATED))
    cond = torch.randn(N, D)
    made = one(cond)
    for slot, shape in (("A", (WIDE, RANK)), ("B", (RANK, WIDE))):
        head = one.heads[slot]
        assert isinstance(head, ModulatedHead)
        mixes = (cond @ head.mix.weight).reshape(N, K, *head.mix.shape)
        for k in range(K):
            for n in range(N):
                product = head.factor[k] @ mixes[n, k] if shape[0] > shape[1] else mixes[n, k] @ head.factor[k]
                close(made[f"l{k}.{slot}"][n], one.base[slot][k] + product)


def test_modulation_takes_far_fewer_parameters_than_whole_matrices() -> None:
    layers, width, code = 30, 576, 32
    spec = TargetSpec(tuple(WeightSpec(f"{k}", (8, width), "B") for k in range(layers)))
    sizes = {}
    for head in ("full", "modulated"):
        config = GeneratorConfig(head=head, rank=8)
        built = Generator(spec, code, config=config, rng=rng())
        sizes[head] = sum(p.numel() for name, p in built.named_parameters() if not name.startswith("base"))
    assert sizes["full"] == code * layers * 8 * width
    assert sizes["full"] > 20 * sizes["modulated"]


def test_a_mixer_is_residual_blocks_over_features_and_places() -> None:
    one = stirred(generator(MIXED))
    cond = torch.randn(N, D)
    made = one(cond)
    features = nn.functional.silu(cond @ one.trunk[0][0] + one.trunk_bias[0][0])
    features = nn.functional.rms_norm(features, (W,), eps=1e-8)
    assert one.mixer is not None
    for slot in ("A", "B"):
        head = one.heads[slot]
        assert isinstance(head, FullHead) and head.places is not None
        for k in range(K):
            x = features * (1.0 + head.places[k])
            for up, down in zip(one.mixer.up, one.mixer.down, strict=True):
                x = x + nn.functional.silu(nn.functional.rms_norm(x, (W,), eps=1e-8) @ up) @ down
            flat = nn.functional.rms_norm(x, (W,), eps=1e-8) @ head.weight
            close(made[f"l{k}.{slot}"], flat.reshape(N, *SPEC.slots()[slot][0].shape) + one.base[slot][k], atol=1e-4)


@pytest.mark.parametrize("config", [MODULATED, MIXED])
def test_leading_axes_are_seeds_of_their_own(config: GeneratorConfig) -> None:
    from hypermarl.stacking import stacked

    ones = [stirred(generator(config), seed=s) for s in (1, 2)]
    cond = torch.randn(2, N, D)
    both = stacked(ones)(cond)
    for s, one in enumerate(ones):
        for name, tensor in one(cond[s]).items():
            close(both[name][s], tensor, atol=1e-4)


@pytest.mark.parametrize("config", [MODULATED, MIXED])
def test_every_parameter_learns(config: GeneratorConfig) -> None:
    one = stirred(generator(config))
    sum((tensor.square() * torch.randn_like(tensor)).sum() for tensor in one(torch.randn(N, D)).values()).backward()
    for name, parameter in one.named_parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero(), name


def test_scale_counts_without_a_trunk_too() -> None:
    cond = torch.randn(N, D)
    made = {}
    for scale in (1.0, 0.25):
        one = stirred(generator(GeneratorConfig(scale=scale)))
        made[scale] = one(cond)["l0.A"] - one.base["A"][0]
    close(made[0.25], made[1.0] / 4)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="A mixer stands between a trunk and full heads"):
        GeneratorConfig(mixer=(4,))
    with pytest.raises(UserError, match="A generator without a base must start distinct"):
        GeneratorConfig(head="modulated", base=False)
