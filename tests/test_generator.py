"""The generator core by itself: starts, heads, places, tables, seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import close, rng, stirred
from torch import Tensor

from hypermarl.conditioning import AgentTable
from hypermarl.errors import UserError
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.spec import TargetSpec, Weights, WeightSpec, whole
from hypermarl.stacking import stacked
from hypermarl.targets.mlp import linear_spec

SPEC = TargetSpec(
    (
        WeightSpec("w", (6, 7), "w", gain=1.5),
        WeightSpec("b", (7,), "b"),
        WeightSpec("noisy", (11, 3), "noisy", std=0.2),
        WeightSpec("all", (2,), "all", std=1.0, shared=True),
    )
)
LORA = TargetSpec(  # as a language model will ask: many tensors in a slot, told apart by places
    (
        *(WeightSpec(f"{i}.A", (8, 2), "A", std=0.5) for i in range(5)),
        *(WeightSpec(f"{i}.B", (2, 8), "B") for i in range(5)),
    )
)
HEADS: dict[str, dict[str, Any]] = {
    "none": {"head": "none"},
    "full": {"trunk": (5,)},
    "full without trunk": {},
    "a trunk per slot": {"trunk": (5, 4), "trunk_per": "slot", "activation": "relu"},
    "no bias, normalised": {"trunk": (5,), "trunk_bias": False, "normalise": True, "scale": 0.5},
    "low rank": {"head": "low_rank", "rank": 2, "trunk": (5,)},
    "low rank without trunk": {"head": "low_rank", "rank": 2},
    "chunked": {"head": "chunked", "chunk": 4, "trunk": (5,)},
    "chunked without trunk": {"head": "chunked", "chunk": 4},
}


def made(spec: TargetSpec = SPEC, dim: int = 3, seed: int = 0, **options: Any) -> Generator:
    return Generator(spec, dim, config=GeneratorConfig(**options), rng=rng(seed))


def cond(agents: int = 4, dim: int = 3) -> Tensor:
    return torch.randn(agents, dim, generator=rng(9))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("spec", [SPEC, LORA], ids=["mlp", "lora"])
def test_generated_tensors_fit_the_specification(spec: TargetSpec, head: str) -> None:
    generator = stirred(made(spec, **HEADS[head]))
    weights = generator(cond())
    spec.check(weights)
    assert list(weights) == [weight.name for weight in spec.weights]
    for weight in spec.weights:
        agents = 1 if weight.shared or head == "none" else 4
        assert weights[weight.name].shape == (agents, *weight.shape)
        apart = weights[weight.name].std(0).max() > 1e-3 if agents > 1 else True
        assert apart, f"{weight.name} does not tell agents apart"


@pytest.mark.parametrize("head", HEADS)
def test_agents_start_equal_and_exact(head: str) -> None:
    weights = made(**HEADS[head])(cond())
    for tensor in weights.values():
        close(tensor, tensor[:1].expand_as(tensor), atol=0)
    close(torch.linalg.svdvals(weights["w"][0]), torch.full((6,), 1.5))
    assert weights["b"].count_nonzero() == 0
    assert 0.1 < weights["noisy"].std() < 0.3


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("spec", [SPEC, LORA], ids=["mlp", "lora"])
def test_two_steps_reach_every_parameter(spec: TargetSpec, head: str) -> None:
    """A zero head hides the trunk from the first step only; nothing is left out for good."""
    generator = made(spec, **HEADS[head])
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    aim = {name: torch.randn(4, *tensor.shape[1:], generator=rng(3)) for name, tensor in generator(cond()).items()}
    start = [p.detach().clone() for p in generator.parameters()]
    for _ in range(2):
        loss = sum((tensor - aim[name]).square().sum() for name, tensor in generator(cond()).items())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    for (name, parameter), before in zip(generator.named_parameters(), start, strict=True):
        assert not torch.equal(parameter, before), name


def test_places_tell_tensors_of_a_slot_apart() -> None:
    generator = stirred(made(LORA, trunk=(5,)), 1.0)
    weights = generator(cond())
    base = generator.base["A"]
    parts = torch.stack([weights[f"{i}.A"] - base[i] for i in range(5)])  # what the head adds, [K, N, in, out]
    between = parts - parts.mean(1, keepdim=True)
    assert between.std(0).min() > 1e-3, "how agents differ is another thing in every tensor"
    places = generator.heads["A"].places
    with torch.no_grad():
        places.copy_(places[:1].expand_as(places))
    weights = generator(cond())
    close(weights["0.A"] - base[0], weights["3.A"] - base[3])


def test_a_tensor_is_generated_from_its_own_agent_alone() -> None:
    generator = stirred(made(trunk=(5,)))
    some = cond()
    other = some.clone()
    other[2] += 1.0
    before, after = generator(some), generator(other)
    for name in ("w", "b", "noisy"):
        same = [torch.equal(x, y) for x, y in zip(before[name], after[name], strict=True)]
        assert same == [True, True, False, True], name
    close(generator(some[1:2])["w"], before["w"][1:2], atol=1e-6)  # and does not depend on who else is there


@pytest.mark.parametrize("head", ["full without trunk", "low rank without trunk", "full", "a trunk per slot"])
def test_ids_are_one_hot_vectors_read_as_a_table(head: str) -> None:
    generator = stirred(made(dim=4, **HEADS[head]))
    ids = torch.tensor([3, 0, 0])
    picked, multiplied = generator(ids), generator(torch.eye(4)[ids])
    for name in picked:
        close(picked[name], multiplied[name], atol=1e-6)


def test_low_rank_is_of_low_rank() -> None:
    generator = stirred(made(head="low_rank", rank=2, trunk=(5,)), 1.0)
    added = generator(cond())["w"] - generator.base["w"]
    assert (torch.linalg.matrix_rank(added, rtol=1e-5) == 2).all()
    # vectors and matrices too small for the rank get a full head
    full = stirred(made(head="low_rank", rank=3, trunk=(5,)), 1.0)
    assert sum(p.numel() for p in full.heads["noisy"].parameters()) == 5 * 33


def test_chunks_share_one_map() -> None:
    generator = stirred(made(head="chunked", chunk=4, trunk=(5,)), 1.0)
    head = generator.heads["w"]
    assert head.weight.shape == (5, 4)
    assert head.chunks == 11  # 42 numbers in chunks of 4, the last cut off
    added = (generator(cond())["w"] - generator.base["w"]).flatten(1)
    pieces = added[:, :40].unflatten(1, (10, 4))
    assert pieces.std(1).min() > 1e-3, "chunks are told apart"
    centred = pieces - pieces.mean(0)
    assert centred.std(1).min() > 1e-4, "how agents differ is another thing in every chunk"


def test_a_trunk_per_slot_serves_its_slot_alone() -> None:
    generator = stirred(made(trunk=(5, 4), trunk_per="slot"), 1.0)
    assert generator.trunk[0].shape == (3, 3, 5)  # of w, b and noisy; the shared tensor has no head
    before = generator(cond())
    with torch.no_grad():
        generator.trunk[0][1] += 1.0
        generator.trunk_bias[1][1] += 1.0
    after = generator(cond())
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"b"}


def test_normalised_features_have_size_one() -> None:
    generator = made(trunk=(5,), normalise=True, scale=0.5)
    (features,) = generator._features(10 * cond())
    close(features.square().mean(-1).sqrt(), torch.full((4,), 0.5))


# ------------------------------------------------------------------------------------------------ low rank in factors

THIN = TargetSpec(tuple(linear_spec("big", 8, 9, 1.0) + linear_spec("small", 2, 9, 1.0) + [SPEC.weights[2]]))


def low_rank(apply: str, spec: TargetSpec = THIN, seed: int = 0, **options: Any) -> Generator:
    return stirred(made(spec, seed=seed, head="low_rank", rank=2, trunk=(5,), apply=apply, **options), seed=seed + 1)


def multiplied_out(generator: Generator, who: Tensor) -> Weights:
    """What the parameters say, computed one agent and one tensor at a time in double precision."""
    parameters = {name: p.detach().double() for name, p in generator.named_parameters()}
    found: dict[str, list[Tensor]] = {w.name: [] for w in generator.spec.weights}
    for row in who.double():
        features = torch.tanh(row @ parameters["trunk.0"][0] + parameters["trunk_bias.0"][0])
        for weight in generator.spec.weights:
            key = weight.slot.replace(".", "_")
            if f"heads.{key}.left.weight" in parameters:
                rows, columns = weight.shape
                left = (features @ parameters[f"heads.{key}.left.weight"]).reshape(rows, 2)
                right = (features @ parameters[f"heads.{key}.right.weight"]).reshape(2, columns)
                own = left @ right
            else:
                own = (features @ parameters[f"heads.{key}.weight"]).reshape(weight.shape)
            found[weight.name].append(parameters[f"base.{key}"][0] + own)
    return {name: torch.stack(each).float() for name, each in found.items()}


@pytest.mark.parametrize("apply", ["whole", "factored"])
def test_a_low_rank_is_what_its_factors_multiply_to(apply: str) -> None:
    generator = low_rank(apply)
    weights = generator(cond())
    in_factors = {name for name in weights if "#" in name}
    assert in_factors == ({"big.weight#left", "big.weight#right"} if apply == "factored" else set())
    THIN.check(weights)
    for name, expected in multiplied_out(generator, cond()).items():
        close(whole(weights)[name], expected)
    if apply == "factored":
        assert weights["big.weight"].shape == (1, 8, 9), "what all agents share is there once"
        assert weights["big.weight#left"].shape == (4, 8, 2)
        assert weights["big.weight#right"].shape == (4, 2, 9)


def test_factors_teach_what_the_whole_teaches() -> None:
    cotangent = {w.name: torch.randn(4, *w.shape, generator=rng(3)) for w in THIN.weights}
    found = []
    for apply in ("whole", "factored"):
        generator = low_rank(apply)
        loss = sum((tensor * cotangent[name]).sum() for name, tensor in whole(generator(cond())).items())
        torch.autograd.backward(loss)
        found.append([p.grad for p in generator.parameters()])
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_factors_of_many_tensors_in_a_slot_and_of_many_seeds() -> None:
    spec = TargetSpec(tuple(WeightSpec(f"m{i}", (6, 7), "m", gain=1.0, factors=True) for i in range(3)))
    alone = [low_rank("factored", spec, seed) for seed in range(2)]
    together = stacked(alone)(torch.stack([cond(), cond() + 1]))
    for s, generator in enumerate(alone):
        plain = made(spec, head="low_rank", rank=2, trunk=(5,), apply="whole")
        plain.load_state_dict(generator.state_dict())
        for name, expected in plain(cond() + s).items():
            close(whole(together)[name][s], expected)
    assert list(together)[:3] == ["m0", "m0#left", "m0#right"]


def test_factors_are_left_where_few_rows_are_applied_to_many_numbers() -> None:
    """Of 128 x 128 the crossover is at 48 rows, and eight networks are enough; unknown means many rows."""
    spec = TargetSpec(tuple(linear_spec("big", 128, 128, 1.0) + linear_spec("small", 2, 9, 1.0)))
    generator = low_rank("auto", spec)
    for agents, rows, factored in ((8, 1, True), (8, 47, True), (8, 48, False), (8, None, False), (7, 1, False)):
        assert ("big.weight#left" in generator(cond(agents), rows)) == factored, (agents, rows)
    seeds = stacked([low_rank("auto", spec, seed) for seed in range(2)])
    assert "big.weight#left" in seeds(torch.stack([cond(4)] * 2), 1), "seeds are networks too"
    table = made(spec, dim=8, head="low_rank", rank=2)
    assert "big.weight#left" in table(None, 1)
    assert "big.weight#left" not in table(torch.arange(7), 1)
    assert "big.weight#left" in low_rank("factored")(cond(), 1000)
    assert "big.weight#left" not in low_rank("whole", spec)(cond(8), 1)
    ignorant = TargetSpec((WeightSpec("big.weight", (8, 9), "big", gain=1.0),))
    assert list(low_rank("factored", ignorant)(cond())) == ["big.weight"], "only targets that can get factors"


def test_names_of_factors_are_taken() -> None:
    with pytest.raises(ValueError, match="name of a factor"):
        WeightSpec("w#left", (2, 3), "w")


def test_everybody_is_read_from_a_table_without_a_copy() -> None:
    """In value as ids in order; the generated tensors are views of the table, and so are their gradients."""
    for options in ({}, {"trunk": (5,)}, {"trunk": (5, 4), "trunk_per": "slot"}):
        generator = stirred(made(dim=4, **options))
        for name, expected in generator(torch.arange(4)).items():
            close(generator(None)[name], expected)
    plain = made(dim=6, start="distinct", base=False)
    plain.start_distinct(None, rng(1))
    assert plain(None)["w"].data_ptr() == plain.heads["w"].weight.data_ptr()
    assert torch.equal(plain(None)["w"], plain(torch.arange(6))["w"])


# ------------------------------------------------------------------------------------------------ distinct starts


def distinct(dim: int, agents: int, spec: TargetSpec = SPEC, **options: Any) -> tuple[Generator, Tensor]:
    generator = made(spec, dim=dim, start="distinct", **options)
    who = AgentTable(agents, dim, rng(5))().detach()
    generator.start_distinct(who, rng(6))
    return generator, who


@pytest.mark.parametrize(
    "options",
    [{}, {"base": False}, {"trunk": (16,)}, {"trunk": (16,), "trunk_per": "slot", "base": False, "activation": "relu"}],
)
def test_each_agent_starts_with_its_own_exact_matrix(options: dict[str, Any]) -> None:
    generator, who = distinct(8, 6, **options)
    weights = generator(who)
    singular = torch.linalg.svdvals(weights["w"])
    torch.testing.assert_close(singular, torch.full_like(singular, 1.5), rtol=1e-2, atol=0)
    flat = weights["w"].flatten(1)
    alike = torch.corrcoef(flat) - torch.eye(6)
    assert alike.abs().max() < 0.7
    assert weights["b"].abs().max() < 1e-5


def test_tables_start_distinct_exactly() -> None:
    generator = made(dim=6, start="distinct", base=False)
    generator.start_distinct(torch.arange(6), rng(1))
    weights = generator(torch.arange(6))
    close(torch.linalg.svdvals(weights["w"]), torch.full((6, 6), 1.5))
    assert not torch.equal(weights["w"][0], weights["w"][1])
    assert weights["all"].shape == (1, 2)  # a shared tensor has a base even where nothing else has


def test_distinct_starts_cover_all_places() -> None:
    generator, who = distinct(12, 2, LORA, trunk=(12,))
    weights = generator(who)
    found = torch.stack([weights[f"{i}.A"] for i in range(5)]).flatten(2)
    assert 0.3 < found.std() < 0.7
    assert torch.stack([weights[f"{i}.B"] for i in range(5)]).abs().max() < 1e-4


@pytest.mark.parametrize(
    "dim, agents, spec, options",
    [
        (3, 4, SPEC, {}),  # fewer numbers than agents
        (8, 6, SPEC, {"trunk": (5,)}),  # fewer features than agents
        (12, 3, LORA, {"trunk": (12,)}),  # fewer features than agents times places
    ],
)
def test_below_full_rank_a_distinct_start_is_refused(
    dim: int, agents: int, spec: TargetSpec, options: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="start=distinct needs independent features"):
        distinct(dim, agents, spec, **options)


def test_equal_agents_cannot_start_distinct() -> None:
    generator = made(dim=8, start="distinct")
    with pytest.raises(UserError, match="start=distinct"):
        generator.start_distinct(torch.ones(3, 8), rng())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head": "none", "base": False}, "generates nothing"),
        ({"base": False}, "must start distinct"),
        ({"head": "chunked", "start": "distinct"}, "head=full only"),
        ({"apply": "factored"}, "head=full has no factors"),
        ({"rank": 0}, "at least 1"),
        ({"trunk": (4, 0)}, "at least 1"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GeneratorConfig(**options)


def test_ids_cannot_be_placed_in_chunks() -> None:
    with pytest.raises(UserError, match="chunked needs"):
        made(dim=4, head="chunked", chunk=4)(torch.arange(4))


# ------------------------------------------------------------------------------------------------ seeds and shapes


@pytest.mark.parametrize("head", HEADS)
def test_stacked_generators_are_each_by_itself(head: str) -> None:
    alone = [stirred(made(LORA, seed=seed, **HEADS[head]), 1.0, seed) for seed in range(3)]
    together = stacked(alone)
    conds = torch.stack([cond() + seed for seed in range(3)])
    whole = together(conds)
    for s, generator in enumerate(alone):
        for name, tensor in generator(conds[s]).items():
            close(whole[name][s], tensor, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(HEADS)),
    st.permutations([2, 3, 4, 5, 6, 7]),
    st.booleans(),
)
def test_any_shapes(head: str, sizes: list[int], lead: bool) -> None:
    """All axes of different length, so that an axis taken for another one is an error."""
    agents, dim, rows, columns, places, seeds = sizes
    spec = TargetSpec(
        (
            *(WeightSpec(f"m{i}", (rows, columns), "m", gain=1.0) for i in range(places)),
            WeightSpec("v", (columns,), "v", std=1.0),
        )
    )
    options = {**HEADS[head], "trunk": (8,) if HEADS[head].get("trunk") else ()}
    generators = [made(spec, dim, seed, **options) for seed in range(seeds)]
    who = torch.randn(agents, dim, generator=rng(1))
    generator = stacked(generators) if lead else generators[0]
    weights = generator(who.expand(seeds, agents, dim) if lead else who)
    shared = 1 if head == "none" else agents
    before = (seeds, shared) if lead else (shared,)
    assert weights["v"].shape == (*before, columns)
    assert all(weights[f"m{i}"].shape == (*before, rows, columns) for i in range(places))
    close(torch.linalg.svdvals(weights["m0"]), torch.ones(*before, min(rows, columns)))


def test_parameters_of_each_head() -> None:
    """Counts of a matrix 6 x 7 from 5 features, as the formulas in the documentation say."""
    spec = TargetSpec((SPEC.weights[0],))
    base = 42
    assert sum(p.numel() for p in made(spec, head="none").parameters()) == base
    assert sum(p.numel() for p in made(spec).parameters()) == base + 3 * 42
    assert sum(p.numel() for p in made(spec, trunk=(5,)).parameters()) == base + 3 * 5 + 5 + 5 * 42
    low = made(spec, trunk=(5,), head="low_rank", rank=2)
    assert sum(p.numel() for p in low.parameters()) == base + 20 + 5 * 2 * (6 + 7)
    chunked = made(spec, trunk=(5,), head="chunked", chunk=4)
    assert sum(p.numel() for p in chunked.parameters()) == base + 20 + 5 * 4 + math.ceil(42 / 4) * 5


def test_the_start_depends_on_the_stream_only() -> None:
    one, same, other = made(trunk=(5,)), made(trunk=(5,)), made(trunk=(5,), seed=1)
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.base["w"], other.base["w"])
    assert not torch.equal(one.trunk[0], other.trunk[0])
    assert replace(one.config, rank=1) != one.config
