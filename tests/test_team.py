"""A loaded team plays exactly what was trained, forgets when told, and takes newcomers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_run as runs
from gymnasium import spaces
from pettingzoo_toys import Pistons
from small_team import AGENTS, BOX, CHOICE, SIDES, seen, stack, team_of

from hypermarl import envs
from hypermarl.envs.interface import Discrete, Group, View
from hypermarl.errors import UserError
from hypermarl.evaluation import pettingzoo
from hypermarl.marl.team import load

# -- what it plays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", runs.SHARINGS)
@pytest.mark.parametrize("groups", [CHOICE, BOX], ids=["discrete", "continuous"])
def test_it_plays_what_the_policy_says(sharing: str, groups: dict[str, Group]) -> None:
    team = team_of(f"sharing={sharing}", groups=groups)
    policy = team.squads["team"].policy
    observations = seen()
    with torch.no_grad():
        wanted, _ = policy.parameters_of(stack(observations))
    given = team.parameters(observations)
    for i, agent in enumerate(AGENTS):
        for key, value in wanted.items():
            np.testing.assert_allclose(given[agent][key], value[i].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("sharing", runs.SHARINGS)
def test_weights_are_a_plain_network(sharing: str) -> None:
    team = team_of(f"sharing={sharing}", "model.activation=tanh")
    observations = seen()
    for agent, given in team.parameters(observations).items():
        own = {name: tensor.numpy() for name, tensor in team.weights(agent).items()}
        x = observations[agent]
        if sharing == "shared_id":
            x = np.concatenate([x, np.eye(3, dtype=np.float32)[AGENTS.index(agent)]])
        for layer in range(3):
            x = x @ own[f"layers.{layer}.weight"] + own[f"layers.{layer}.bias"]
            x = np.tanh(x) if layer < 2 else x
        np.testing.assert_allclose(given["logits"], x, atol=1e-5)


def test_agents_differ_where_they_are_told_apart() -> None:
    same = {agent: np.ones(5, np.float32) for agent in AGENTS}
    for sharing in runs.SHARINGS:
        logits = [value["logits"] for value in team_of(f"sharing={sharing}").parameters(same).values()]
        assert np.allclose(logits[0], logits[1]) == (sharing == "shared")


def test_greedy_is_the_most_likely_action() -> None:
    team, observations = team_of(), seen()
    given = team.parameters(observations)
    assert team.act(observations) == {agent: int(given[agent]["logits"].argmax()) for agent in AGENTS}
    assert all(type(action) is int for action in team.act(observations).values())


@pytest.mark.parametrize("kind", ["normal", "tanh_normal"])
def test_continuous_actions_stay_in_the_box(kind: str) -> None:
    team = team_of(f"model.distribution={kind}", groups=BOX, greedy=False)
    drawn = np.array([list(team.act(seen(seed=k)).values()) for k in range(200)])
    assert drawn.dtype == np.float32
    assert drawn.shape == (200, 3, 2)
    assert (drawn >= [-1.0, 0.0]).all()
    assert (drawn <= [1.0, 10.0]).all()
    assert drawn[..., 1].std() > 0.5
    assert drawn[..., 1].max() > 6


@pytest.mark.parametrize("sharing", runs.SHARINGS)
def test_missing_agents_change_nothing_for_the_others(sharing: str) -> None:
    team, observations = team_of(f"sharing={sharing}"), seen()
    everybody = team.parameters(observations)
    some = team.parameters({agent: observations[agent] for agent in ("c", "a")})
    assert list(some) == ["c", "a"]
    for agent in some:
        np.testing.assert_allclose(some[agent]["logits"], everybody[agent]["logits"], atol=1e-6)
    assert team.act({}) == {}


def test_groups_play_side_by_side() -> None:
    team = team_of(groups=SIDES)
    observations = seen(("h_0", "h_1")) | {"p_0": np.ones(3, np.float32)}
    actions = team.act({agent: observations[agent] for agent in ("p_0", "h_1")})
    assert list(actions) == ["p_0", "h_1"]
    assert isinstance(actions["h_1"], int)
    assert actions["p_0"].shape == (1,)
    assert team.agents == ("h_0", "h_1", "p_0")


def test_sampling_is_seeded_and_follows_the_distribution() -> None:
    team, observations = team_of(greedy=False), seen()

    def draw(seed: int, count: int) -> list[dict[str, Any]]:
        team.reset(seed=seed)
        return [team.act(observations) for _ in range(count)]

    assert draw(1, 20) == draw(1, 20) != draw(2, 20)
    logits = team.parameters(observations)["b"]["logits"].astype(np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum()
    found = np.bincount([actions["b"] for actions in draw(3, 4000)], minlength=4) / 4000
    np.testing.assert_allclose(found, wanted, atol=0.03)
    assert wanted.max() < 0.9  # or a greedy player would pass


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_illegal_actions_are_never_chosen(greedy: bool, inside: bool) -> None:
    team, plain = team_of(greedy=greedy), seen()
    favourite = team_of().act(plain)["a"]
    legal = np.array([k == (favourite + 1) % 4 for k in range(4)])
    for _ in range(30):
        if inside:
            action = team.act(plain | {"a": {"observation": plain["a"], "action_mask": legal.astype(np.int8)}})["a"]
        else:
            action = team.act(plain, {"a": legal})["a"]
        assert action == (favourite + 1) % 4
    assert team.act(plain, {"a": np.zeros(4, bool)})["a"] in range(4)  # waiting for its turn


@pytest.mark.parametrize("sharing", runs.SHARINGS)
def test_weights_are_frozen_at_load(sharing: str) -> None:
    team, observations = team_of(f"sharing={sharing}"), seen()
    before = team.parameters(observations)
    with torch.no_grad():
        for parameter in team.squads["team"].policy.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(team.parameters(observations)["a"]["logits"], before["a"]["logits"])
    team.weights("a")["layers.0.weight"].zero_()
    np.testing.assert_array_equal(team.parameters(observations)["a"]["logits"], before["a"]["logits"])


@pytest.mark.parametrize(
    ("observations", "masks", "words"),
    [
        ({"a": np.zeros(5), "ghost": np.zeros(5)}, None, "no agent ghost, only a, b, c"),
        ({"a": np.zeros(6)}, None, "agent 'a' has 6 numbers, but its policy reads 5"),
        ({"a": np.full(5, np.nan)}, None, "agent 'a' is not finite"),
        ({"a": np.zeros(5, np.uint8)}, None, "agent 'a' is of bytes; .*attach"),
        ({"a": {"eyes": np.zeros(5)}}, None, "agent 'a' is no array of numbers but dict"),
        ({"a": np.zeros(5)}, {"a": np.ones(3)}, "mask of agent 'a' has 3 places for 4 actions"),
    ],
)
def test_bad_observations_are_named(observations: dict[str, Any], masks: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        team_of().act(observations, masks)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["hyper_mlp", "shared_id"])
@pytest.mark.parametrize("body", ["shared", "generated"])
def test_recurrent_agents_remember_as_in_training(sharing: str, body: str) -> None:
    team = team_of("model=gru", f"model.body={body}", f"sharing={sharing}")
    policy = team.squads["team"].policy
    steps = [seen(seed=k) for k in range(4)]
    history = torch.stack([stack(step) for step in steps])
    fresh = torch.zeros(4, 3, dtype=torch.bool)
    with torch.no_grad():
        wanted, _ = policy.parameters_of(history, memory=torch.zeros(3, 6), fresh=fresh)
    for t, step in enumerate(steps):
        for i, (_, given) in enumerate(team.parameters(step).items()):
            np.testing.assert_allclose(given["logits"], wanted["logits"][t, i].numpy(), atol=1e-6)


def test_reset_forgets_and_absence_does_not() -> None:
    team, observations = team_of("model=gru"), seen()
    first = team.parameters(observations)
    team.parameters({"b": observations["b"]})
    third = team.parameters(observations)
    assert not np.allclose(third["a"]["logits"], first["a"]["logits"])
    team.reset()
    again = team.parameters(observations)
    np.testing.assert_array_equal(again["a"]["logits"], first["a"]["logits"])
    second = team.parameters(observations)  # as the third was for a, who had missed one
    np.testing.assert_allclose(second["a"]["logits"], third["a"]["logits"], atol=1e-6)


@pytest.mark.parametrize("model", ["mlp", "gru"])
def test_many_environments_at_once_play_as_one(model: str) -> None:
    """Environment 1 begins a new episode at step 2, as a player of its own that is reset then."""
    team = team_of(f"model={model}", groups=SIDES)
    act = team.acting(team.groups)
    singles = [team_of(f"model={model}", groups=SIDES) for _ in range(3)]
    for t in range(4):
        hunters, prey = torch.randn(3, 2, 5), torch.randn(3, 1, 3)
        fresh = torch.tensor([t == 0, t in (0, 2), t == 0])
        actions = act(View({"hunter": hunters, "prey": prey}), fresh)
        for e, single in enumerate(singles):
            if fresh[e]:
                single.reset()
            alone = single.act({"h_0": hunters[e, 0], "h_1": hunters[e, 1], "p_0": prey[e, 0]})
            assert [alone["h_0"], alone["h_1"]] == actions["hunter"][e].tolist()
            np.testing.assert_allclose(alone["p_0"], actions["prey"][e, 0].numpy(), atol=1e-6)


def test_many_environments_heed_masks_and_subsets() -> None:
    team = team_of()
    act = team.acting({"team": Group("team", ("c", "a"), 5, Discrete(4))})
    observation = torch.randn(6, 2, 5)
    mask = torch.nn.functional.one_hot(torch.arange(12) % 4, 4).bool().reshape(6, 2, 4)
    fresh = torch.zeros(6, dtype=torch.bool)
    assert (act(View({"team": observation}, {"team": mask}), fresh)["team"] == mask.int().argmax(-1)).all()
    free = act(View({"team": observation}), fresh)["team"]
    assert free[0].tolist() == list(team.act({"c": observation[0, 0], "a": observation[0, 1]}).values())


def test_sampled_play_of_many_environments_is_seeded() -> None:
    team = team_of(greedy=False)
    view, fresh = View({"team": torch.randn(50, 3, 5)}), torch.zeros(50, dtype=torch.bool)
    first, same, other = (team.acting(team.groups, seed)(view, fresh)["team"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# -- spaces ------------------------------------------------------------------------------------------------------------


class Spaces:
    """No more of an environment than its spaces."""

    possible_agents = AGENTS

    def __init__(self, seen: spaces.Space, done: spaces.Space) -> None:
        self.seen, self.done = seen, done

    def observation_space(self, agent: str) -> spaces.Space:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space:
        return self.done


def test_attached_spaces_translate_both_ways() -> None:
    plain, attached = team_of(), team_of()
    attached.attach(Spaces(spaces.Discrete(5, start=2), spaces.Discrete(4, start=1)))
    chosen = attached.act(dict.fromkeys(AGENTS, 3))
    hot = np.eye(5, dtype=np.float32)[1]
    assert chosen == {agent: action + 1 for agent, action in plain.act(dict.fromkeys(AGENTS, hot)).items()}


def test_attached_images_and_boxes() -> None:
    plain, attached = team_of(groups=BOX), team_of(groups=BOX)
    low, high = np.array([[-1.0], [0.0]]), np.array([[1.0], [10.0]])
    attached.attach(Spaces(spaces.Box(0, 255, (5, 1), np.uint8), spaces.Box(low, high, dtype=np.float64)))
    pixels = np.arange(5, dtype=np.uint8)[:, None] * 50
    action = attached.act({"a": pixels})["a"]
    assert (action.shape, action.dtype) == ((2, 1), np.float64)
    np.testing.assert_allclose(action[:, 0], plain.act({"a": pixels[:, 0] / 255.0})["a"], atol=1e-5)


SEEN_AND_DONE = [("image", "shifted"), ("choice", "shifted"), ("numbers", "discrete")]
WAYS = [(*pair, mask) for pair in SEEN_AND_DONE for mask in ("no", "info", "observation")]


@pytest.mark.parametrize("see, act, mask", [*WAYS, ("image", "box", "no"), ("choice", "box", "no")])
def test_a_pettingzoo_team_takes_its_own_environment_as_it_is(tmp_path: Path, see: str, act: str, mask: str) -> None:
    """Raw images, choices that start at -1, actions that start at 3: as training saw them, without a word."""
    options = {"see": see, "act": act, "mask": mask}
    words = ["env=pettingzoo_toys:Pistons", *(f"env.options.{key}={value}" for key, value in options.items())]
    runs.make_run(tmp_path / "run", runs.experiment(*words))
    raw, flat = load(tmp_path / "run"), load(tmp_path / "run")
    env = Pistons(**options)
    parallel = envs.make_parallel("pettingzoo", "pettingzoo_toys:Pistons", options=options)
    flat.attach(parallel)
    seen, infos = env.reset(seed=1)
    shown, told = parallel.reset(seed=1)
    for _ in range(3):
        chosen = raw.act(seen, pettingzoo.split_masks(seen, infos)[1])
        numbered = flat.act(shown, pettingzoo.split_masks(shown, told)[1])
        assert all(env.action_space(agent).contains(action) for agent, action in chosen.items())
        seen, *_, infos = env.step(chosen)
        shown, *_, told = parallel.step(numbered)
        assert [str(each) for each in env.actions] == [str(each) for each in parallel.unwrapped.actions]
        env.agents = [agent for agent in env.agents if agent in shown]
        if not env.agents or not parallel.agents:
            break
        seen = {agent: seen[agent] for agent in parallel.agents}
        shown = {agent: shown[agent] for agent in parallel.agents}
    lazily = load(tmp_path / "run")
    shown, told = parallel.reset(seed=1)
    lazily.act(shown, pettingzoo.split_masks(shown, told)[1])  # what is flat already is taken too


def test_attaching_another_environment_is_refused() -> None:
    with pytest.raises(UserError, match="'a' sees or does other things"):
        team_of().attach(Spaces(spaces.Box(-1, 1, (5,)), spaces.Discrete(3)))
    with pytest.raises(UserError, match="agent 'a' is a MultiDiscrete space"):
        team_of().attach(Spaces(spaces.Box(-1, 1, (5,)), spaces.MultiDiscrete([2, 2])))
