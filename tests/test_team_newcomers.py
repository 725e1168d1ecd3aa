"""Who joins a loaded team: twins, mixtures and newcomers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trained_run as runs
from small_team import AGENTS, SIDES, seen, team_of

from hypermarl.errors import UserError


@pytest.mark.parametrize("sharing", runs.SHARINGS)
def test_a_twin_plays_like_its_model(sharing: str) -> None:
    team = team_of(f"sharing={sharing}")
    before = team.parameters(seen())
    team.add("twin", like="b")
    x = seen()["b"]
    given = team.parameters(seen() | {"twin": x})
    np.testing.assert_allclose(given["twin"]["logits"], given["b"]["logits"], atol=1e-5)
    for agent in AGENTS:
        np.testing.assert_allclose(given[agent]["logits"], before[agent]["logits"], atol=1e-6)
    assert team.agents == (*AGENTS, "twin")


def test_a_mixture_is_generated_from_the_mixed_embedding() -> None:
    team = team_of("sharing=hyper_mlp")
    policy = team.squads["team"].policy
    embedding = 0.5 * policy.actor.conditioner.weight[0] + 0.5 * policy.actor.conditioner.weight[2]
    team.add("mixed", like={"a": 0.5, "c": 0.5})
    team.add("given", embedding=embedding.detach())
    wanted = policy.actor.generator(embedding[None])
    for name, tensor in team.weights("mixed").items():
        torch.testing.assert_close(tensor, wanted[name][0].detach())
        torch.testing.assert_close(team.weights("given")[name], tensor)
    assert not torch.allclose(team.weights("mixed")["layers.0.weight"], team.weights("a")["layers.0.weight"])


def test_features_describe_a_newcomer() -> None:
    told = ["sharing.conditioning=features", "sharing.features=[[0,1],[1,0],[2,2]]"]
    team = team_of(*told)
    team.add("like_b", features=[1, 0])
    team.add("between", features=[1.5, 1.0])
    team.add("mixed", like={"b": 0.5, "c": 0.5})
    for name, tensor in team.weights("like_b").items():
        torch.testing.assert_close(tensor, team.weights("b")[name])
    for name, tensor in team.weights("mixed").items():
        torch.testing.assert_close(tensor, team.weights("between")[name])
    with pytest.raises(UserError, match="by their features"):
        team.add("x", embedding=torch.zeros(2))
    with pytest.raises(UserError, match="features of 'x' should be 2 numbers, not 3"):
        team.add("x", features=[1, 2, 3])


def test_anybody_may_join_where_all_share_one_policy() -> None:
    team = team_of("sharing=shared")
    team.add("x")
    given = team.parameters({"x": seen()["a"], "a": seen()["a"]})
    np.testing.assert_allclose(given["x"]["logits"], given["a"]["logits"], atol=1e-6)
    with pytest.raises(UserError, match="share one policy"):
        team.add("y", embedding=torch.zeros(4))


def test_recurrent_newcomers_remember_too() -> None:
    team = team_of("model=gru")
    team.add("twin", like="a")
    x = seen()["a"]
    for _ in range(3):
        given = team.parameters({"twin": x, "a": x})
        np.testing.assert_allclose(given["twin"]["logits"], given["a"]["logits"], atol=1e-6)


def test_a_newcomer_joins_the_group_of_its_model() -> None:
    team = team_of(groups=SIDES)
    team.add("h_2", like={"h_0": 1.0})
    assert team.squad_of("h_2").group.name == "hunter"
    with pytest.raises(UserError, match="Say which group 'x' joins: hunter, prey"):
        team.add("x", embedding=torch.zeros(4))
    team.add("x", embedding=torch.zeros(4), group="prey")
    assert team.act({"x": np.zeros(3)})["x"].shape == (1,)


@pytest.mark.parametrize(
    ("sharing", "arguments", "words"),
    [
        ("hyper_mlp", {"agent": "a", "like": "b"}, "already is an agent 'a'"),
        ("hyper_mlp", {"agent": "x"}, "Say who 'x' is"),
        ("hyper_mlp", {"agent": "x", "like": "ghost"}, "cannot be like ghost; trained were a, b, c"),
        ("hyper_mlp", {"agent": "x", "like": {}}, "cannot be like nobody"),
        ("hyper_mlp", {"agent": "x", "like": {"a": float("nan")}}, "likeness of 'x' must be finite"),
        ("hyper_mlp", {"agent": "x", "embedding": torch.zeros(3)}, "embedding of 'x' should be 4 numbers, not 3"),
        ("hyper_mlp", {"agent": "x", "features": [1.0]}, "by identity, not by features"),
        (
            "hyper_mlp",
            {"agent": "x", "like": "a", "embedding": torch.zeros(4)},
            "by one of like, embedding or features",
        ),
        ("hyper_mlp", {"agent": "x", "like": "a", "group": "side"}, "no group 'side'; it has team"),
        ("shared_id", {"agent": "x"}, "told apart by their input; say whom 'x' is like"),
    ],
)
def test_what_cannot_join_is_told_why(sharing: str, arguments: dict[str, Any], words: str) -> None:
    team = team_of(f"sharing={sharing}")
    with pytest.raises(UserError, match=words):
        team.add(**arguments)
    assert team.agents == AGENTS
    assert team.act(seen())  # and nothing was half added
