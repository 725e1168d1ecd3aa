"""Diversity measures against independent computations, and against the wrong-axis formula they replace."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

from hypermarl.diversity import (
    DIVERGENCES,
    gradient_cosine,
    pairwise_cosine,
    same_observations,
    system_neural_diversity,
    weight_spread,
)

KINDS = sorted(DIVERGENCES)
# PyTorch's own comparison imports its compiler first, for seconds.
assert_close = np.testing.assert_allclose


def draw(kind: str, *shape: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    if kind == "categorical":
        return {"logits": 2 * torch.randn(shape, generator=rng)}
    return {"loc": torch.randn(shape, generator=rng), "scale": torch.rand(shape, generator=rng) + 0.2}


def along(parameters: dict[str, torch.Tensor], axis: int, index: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: tensor.index_select(axis, index) for name, tensor in parameters.items()}


def brute_force(probabilities: np.ndarray) -> float:
    """`[B, N, A]` -> mean over observations and pairs of SciPy's distance between single distributions."""
    agents = range(probabilities.shape[1])
    return float(
        np.mean(
            [
                jensenshannon(row[i], row[j], base=2)
                for row in probabilities
                for i, j in itertools.combinations(agents, 2)
            ]
        )
    )


# Behaviour


def test_categorical_is_the_mean_distance_over_observations_and_pairs() -> None:
    logits = draw("categorical", 7, 3, 4, 5)["logits"]
    probabilities = logits.double().softmax(dim=-1).numpy()
    expected = [brute_force(probabilities[:, s]) for s in range(3)]
    found = system_neural_diversity({"logits": logits}, "categorical")
    assert found.shape == (3,)
    assert_close(found.numpy(), expected, rtol=1e-9)


def test_normal_agrees_with_quadrature() -> None:
    cases = [(0.0, 1.0, 0.01, 1.0), (0.0, 1.0, 0.5, 1.0), (0.3, 0.5, -0.4, 2.0), (0.0, 0.1, 4.0, 0.1)]
    for loc_p, scale_p, loc_q, scale_q in cases:
        p, q = norm(loc_p, scale_p), norm(loc_q, scale_q)

        def excess(x: float, p=p, q=q) -> float:
            middle = (p.pdf(x) + q.pdf(x)) / 2
            return sum(f.pdf(x) * math.log2(f.pdf(x) / middle) for f in (p, q) if f.pdf(x) > 1e-300) / 2

        low, high = min(loc_p - 9 * scale_p, loc_q - 9 * scale_q), max(loc_p + 9 * scale_p, loc_q + 9 * scale_q)
        expected = math.sqrt(quad(excess, low, high, points=[loc_p, loc_q], limit=400, epsabs=1e-14)[0])
        loc = torch.tensor([[loc_p], [loc_q]]).expand(500, 2, 1)
        scale = torch.tensor([[scale_p], [scale_q]]).expand(500, 2, 1)
        found = system_neural_diversity({"loc": loc, "scale": scale}, "normal")
        assert found.item() == pytest.approx(expected, rel=5e-3)


def test_normal_of_several_actions_is_joint() -> None:
    # With equal scales only the distance of the means counts, however it is split between the actions.
    split = torch.zeros(2000, 2, 3)
    split[:, 1] = torch.tensor([1.0, -2.0, 2.0])
    one = torch.zeros(2000, 2, 1)
    one[:, 1] = 3.0
    found = [
        system_neural_diversity({"loc": loc, "scale": torch.ones_like(loc)}, "normal").item() for loc in (split, one)
    ]
    assert found[0] == pytest.approx(found[1], rel=3e-3)


def test_squashing_by_tanh_changes_nothing() -> None:
    parameters = draw("normal", 6, 2, 3, 2)
    assert torch.equal(
        system_neural_diversity(parameters, "normal"), system_neural_diversity(parameters, "tanh_normal")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_equal_agents_score_exactly_zero(kind: str) -> None:
    parameters = {name: tensor.expand(-1, -1, 5, -1) for name, tensor in draw(kind, 9, 2, 1, 7).items()}
    assert system_neural_diversity(parameters, kind).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_agents_that_never_act_alike_score_one(kind: str) -> None:
    if kind == "categorical":
        parameters = {"logits": (1e4 * torch.eye(5)).expand(9, 2, 5, 5)}
    else:
        parameters = {"loc": 1e3 * torch.arange(5.0).view(5, 1).expand(9, 2, 5, 3), "scale": torch.ones(9, 2, 5, 3)}
    assert system_neural_diversity(parameters, kind).tolist() == [1.0, 1.0]


def test_the_wrong_axis_scores_constant_different_agents_as_equal() -> None:
    """The twin: SciPy on `[observations, actions]` without an axis, as in the published code, sees no difference."""
    observations, actions = 50, 4
    constant = np.stack([np.tile(np.eye(actions)[agent], (observations, 1)) for agent in range(actions)], axis=1)
    constant = (constant + 1e-9) / (1 + actions * 1e-9)
    wrong = [
        np.sum(jensenshannon(constant[:, i], constant[:, j])) / observations
        for i, j in itertools.combinations(range(actions), 2)
    ]
    assert max(wrong) < 1e-6
    found = system_neural_diversity({"logits": torch.from_numpy(constant).log()}, "categorical")
    assert found.item() == pytest.approx(1.0, abs=1e-6)


def test_an_agent_that_copies_another_over_observations_is_still_told_apart() -> None:
    # Both agents play every action equally often, but never the same one on the same observation.
    logits = torch.zeros(4, 2, 2)
    logits[0::2, 0, 0] = logits[1::2, 0, 1] = logits[0::2, 1, 1] = logits[1::2, 1, 0] = 1e4
    assert system_neural_diversity({"logits": logits}, "categorical").item() == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_agents_does_not_matter(kind: str) -> None:
    parameters = draw(kind, 8, 2, 5, 3)
    shuffled = along(parameters, 2, torch.tensor([3, 0, 4, 2, 1]))
    expected = system_neural_diversity(parameters, kind)
    assert_close(system_neural_diversity(shuffled, kind), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_do_not_mix(kind: str) -> None:
    parameters = draw(kind, 8, 3, 4, 3)
    together = system_neural_diversity(parameters, kind)
    alone = [system_neural_diversity({k: v[:, s] for k, v in parameters.items()}, kind) for s in range(3)]
    assert together.shape == (3,)
    assert alone[0].shape == ()
    assert_close(together, torch.stack(alone), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_pairs_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = draw(kind, 5, 2, 6, 3)
    whole = system_neural_diversity(parameters, kind)
    monkeypatch.setattr("hypermarl.diversity.CHUNK_ELEMENTS", 1)
    assert_close(system_neural_diversity(parameters, kind), whole, rtol=1e-12)


def test_many_agents_are_scored_on_a_sample_of_pairs() -> None:
    parameters = draw("categorical", 4, 1, 70, 3)
    every = system_neural_diversity(parameters, "categorical", pairs=10_000)
    some = system_neural_diversity(parameters, "categorical")
    assert some.item() != every.item()
    assert some.item() == pytest.approx(every.item(), rel=0.02)
    assert torch.equal(some, system_neural_diversity(parameters, "categorical"))
    few = [system_neural_diversity(parameters, "categorical", pairs=20, seed=seed).item() for seed in (1, 2)]
    assert few[0] != few[1]


def test_masked_actions_do_not_count() -> None:
    logits = torch.tensor([[[9.0, 1.0, 0.0], [-9.0, 1.0, 0.0]]])
    mask = torch.tensor([[[False, True, True]] * 2])
    assert system_neural_diversity({"logits": logits}, "categorical").item() > 0.9
    assert system_neural_diversity({"logits": logits}, "categorical", mask=mask).item() == 0.0
    apart = torch.tensor([[[True, False, False], [False, True, True]]])
    assert system_neural_diversity({"logits": logits}, "categorical", mask=apart).item() == 1.0
    nothing_allowed = torch.zeros(1, 2, 3, dtype=torch.bool)
    unmasked = system_neural_diversity({"logits": logits}, "categorical")
    assert torch.equal(system_neural_diversity({"logits": logits}, "categorical", mask=nothing_allowed), unmasked)


def test_a_team_of_one_is_not_diverse() -> None:
    assert system_neural_diversity(draw("categorical", 4, 2, 1, 3), "categorical").tolist() == [0.0, 0.0]


def test_nan_stays_in_its_seed() -> None:
    parameters = draw("categorical", 4, 2, 3, 3)
    parameters["logits"][0, 1, 0, 0] = math.nan
    found = system_neural_diversity(parameters, "categorical")
    assert found[0].isfinite()
    assert found[1].isnan()


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    system_neural_diversity(draw("normal", 4, 2, 3, 2), "normal")
    same_observations(torch.zeros(4, 1, 2, 3), 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_kind_and_a_mask_for_normals_are_refused() -> None:
    with pytest.raises(ValueError, match="categorical"):
        system_neural_diversity(draw("normal", 4, 2, 2), "beta")
    with pytest.raises(ValueError, match="mask"):
        system_neural_diversity(draw("normal", 4, 2, 2), "normal", mask=torch.ones(4, 2, 2))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(*(st.integers(1, 4) for _ in range(4))),
    reach=st.floats(0.0, 50.0),
    seed=st.integers(0, 99),
)
def test_any_shape_gives_one_number_per_seed_from_zero_to_one(
    kind: str, sizes: tuple[int, ...], reach: float, seed: int
) -> None:
    parameters = draw(kind, *sizes, seed=seed)
    first = next(iter(parameters))
    parameters[first] = parameters[first] * reach
    found = system_neural_diversity(parameters, kind, samples=8)
    assert found.shape == sizes[1:2]
    assert bool(((found >= 0) & (found <= 1)).all())


# Observations


def test_every_agent_sees_the_same_observations_of_its_own_seed() -> None:
    time, environments, seeds, agents = 3, 4, 2, 5
    own = torch.arange(time * environments * agents).view(time, environments, 1, agents) * seeds
    ids = (own + torch.arange(seeds).view(seeds, 1)).unsqueeze(-1)  # [T, E, S, N, 1], a number of its own for each
    chosen = same_observations(ids, 400)
    assert chosen.shape == (400, seeds, agents, 1)
    assert bool((chosen == chosen[:, :, :1]).all())
    for s in range(seeds):
        seen = set(chosen[:, s].flatten().tolist())
        assert all(number % seeds == s for number in seen)
        assert len(seen) == time * environments * agents  # of any agent, at any time
    masks = same_observations(ids.expand(-1, -1, -1, -1, 6) * 10, 400)
    assert torch.equal(masks[..., :1], chosen * 10)


# Weights


def test_weight_spread_agrees_with_loops() -> None:
    rng = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(3, 5, 4, 2, generator=rng), "b": torch.randn(3, 5, 2, generator=rng) + 1}
    found = weight_spread(weights)
    for s in range(3):
        squares, norms = 0.0, 0.0
        for name, tensor in weights.items():
            mean = tensor[s].mean(dim=0)
            square = np.mean([float((agent - mean).square().sum()) for agent in tensor[s]])
            assert found.tensors[name][s].item() == pytest.approx(math.sqrt(square) / float(mean.norm()), rel=1e-5)
            squares, norms = squares + square, norms + float(mean.square().sum())
        assert found.overall[s].item() == pytest.approx(math.sqrt(squares / norms), rel=1e-5)


def test_weight_spread_of_equal_shared_and_centred_agents() -> None:
    one = torch.randn(2, 1, 3, 4)
    equal = weight_spread({"equal": one.expand(-1, 7, -1, -1), "shared": one, "zero": torch.zeros(2, 7, 3)})
    assert [value.tolist() for value in (equal.overall, *equal.tensors.values())] == [[0.0, 0.0]] * 4
    opposite = weight_spread({"w": torch.tensor([[[1.0], [-1.0]]])})
    assert opposite.overall.tolist() == [math.inf]


def test_weight_spread_without_a_seed_axis() -> None:
    tensor = torch.randn(2, 5, 4, 3)
    both = weight_spread({"w": tensor}).overall
    alone = torch.stack([weight_spread({"w": tensor[s]}, lead=0).overall for s in range(2)])
    assert_close(alone, both, rtol=1e-12)


# Gradients


def test_pairwise_cosine_agrees_with_loops() -> None:
    vectors = torch.randn(2, 4, 6)
    found = pairwise_cosine(vectors)
    for s, i, j in itertools.product(range(2), range(4), range(4)):
        expected = torch.nn.functional.cosine_similarity(vectors[s, i], vectors[s, j], dim=0)
        assert found[s, i, j].item() == pytest.approx(expected.item(), abs=1e-6)
    mean = [np.mean([found[s, i, j] for i, j in itertools.combinations(range(4), 2)]) for s in range(2)]
    assert_close(gradient_cosine(vectors).numpy(), mean, rtol=1e-9)


def test_gradient_cosine_has_its_true_sign() -> None:
    step = torch.randn(6)
    agree, oppose = torch.stack([step, 3 * step]), torch.stack([step, -2 * step])
    apart = torch.eye(2, 6)
    assert_close(gradient_cosine(torch.stack([agree, oppose, apart])), [1.0, -1.0, 0.0], atol=1e-12)


def test_gradient_cosine_of_tiny_and_of_zero_gradients() -> None:
    tiny = torch.tensor([[1e-30, 0.0], [1e-30, 1e-30], [0.0, 0.0]])
    assert gradient_cosine(tiny).item() == pytest.approx(math.sqrt(0.5))
    assert gradient_cosine(torch.zeros(3, 2)).isnan()
    assert gradient_cosine(torch.ones(1, 2)).isnan()
