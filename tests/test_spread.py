"""Blind-Particle Spread moves and pays as written down, and no row knows of another."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypermarl.envs import EnvironmentFault, make

G = "agents"
PUSH = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}


def spread(name="bps_1", num_envs=3, max_steps=None, **options):
    return make("spread", name, num_envs=num_envs, max_steps=max_steps, options=options)


def random_actions(env, steps, seed=0):
    n = len(env.groups[G].agents)
    return torch.randint(5, (steps, env.num_envs, n), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "n", "colours"), [("bps_1", 15, 3), ("bps_2", 30, 3), ("bps_3", 30, 5), ("bps_4", 30, 5)]
)
def test_scenarios_have_the_sizes_of_the_paper(name: str, n: int, colours: int) -> None:
    env = spread(name)
    group = env.groups[G]
    assert len(group.agents) == n
    assert group.observation == 4 + 2 * colours
    assert group.action.n == 5
    assert env.max_steps == 50
    seen = env.reset(0).observation[G]
    assert seen.shape == (3, n, 4 + 2 * colours)
    assert seen.dtype == torch.float32
    landmarks = seen[..., 4:].reshape(3, n, colours, 2) + seen[:, :, None, 2:4]
    assert (landmarks - landmarks[:, :1]).abs().max() < 1e-6, "all agents see the same landmarks"
    assert (seen[..., :2] == 0).all()
    assert 0.9 < seen[..., 2:4].abs().max() <= 1
    assert 1 < landmarks.abs().max() <= 3


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.integers(0, 2**40),
)
def test_moves_and_pays_as_in_plain_python(sizes: list[int], pushes: list[int], seed: int) -> None:
    env = spread(num_envs=2, groups=tuple(sizes))
    n = sum(sizes)
    start = env.reset(seed).observation[G][1].tolist()
    position = [each[2:4] for each in start]
    velocity = [[0.0, 0.0] for _ in range(n)]
    landmark = [[start[0][2 + axis] + start[0][4 + 2 * g + axis] for axis in (0, 1)] for g in range(len(sizes))]
    colour = [g for g, size in enumerate(sizes) for _ in range(size)]
    for clock, first in enumerate(pushes):
        chosen = [(first + 3 * i + clock) % 5 for i in range(n)]
        step = env.step({G: torch.tensor([[0] * n, chosen])})
        for i in range(n):
            for axis in (0, 1):
                velocity[i][axis] = velocity[i][axis] * 0.75 + 5.0 * PUSH[chosen[i]][axis] * 0.1
                position[i][axis] += velocity[i][axis] * 0.1
            seen = step.view.observation[G][1, i].tolist()
            offsets = [landmark[g][axis] - position[i][axis] for g in range(len(sizes)) for axis in (0, 1)]
            assert seen == pytest.approx([*velocity[i], *position[i], *offsets], abs=1e-4)
            distance = math.dist(position[i], landmark[colour[i]])
            assert float(step.reward[G][1, i]) == pytest.approx(-0.5 * distance, abs=1e-4)
        assert (step.view.observation[G][0, :, :2] == 0).all(), "who is not pushed does not move"


def test_time_limit_truncates_and_a_new_episode_begins() -> None:
    env = spread(max_steps=4)
    env.reset(0)
    for clock, actions in enumerate(random_actions(env, 12), start=1):
        step = env.step({G: actions})
        over = clock % 4 == 0
        assert step.done.shape == (3,)
        assert (step.done == over).all()
        assert step.truncated[G].shape == (3, 15)
        assert (step.truncated[G] == over).all()
        assert not step.terminated[G].any()
        seen, last = step.view.observation[G], step.final[G]
        assert torch.equal(seen, last) != over
        assert (seen[..., :2] == 0).all() == over, "a new episode begins at rest"
        own = last[..., 4:].reshape(3, 15, 3, 2)[:, range(15), [i // 5 for i in range(15)]].norm(dim=-1)
        assert torch.allclose(step.reward[G], -0.5 * own), "the reward belongs to the last step, not to the new episode"


def test_a_seed_fixes_all_that_follows() -> None:
    def run(seed: int, episodes: int = 2) -> torch.Tensor:
        env = spread(max_steps=3)
        views = [env.reset(seed).observation[G]]
        views += [env.step({G: each}).view.observation[G] for each in random_actions(env, 3 * episodes)]
        return torch.stack(views)

    one = run(7)
    assert torch.equal(one, run(7))
    starts = [*one[0], *one[3], *one[6], *run(8)[0]]
    for i, here in enumerate(starts):  # rows, episodes and seeds each begin in a place of their own
        for there in starts[:i]:
            assert not torch.equal(here, there)
    env = spread()
    assert torch.equal(env.reset(7).observation[G], one[0])
    assert not torch.equal(env.reset().observation[G], one[0]), "without a seed the next episode begins"
    assert not torch.equal(spread().reset().observation[G], spread().reset().observation[G])
    assert torch.equal(spread(num_envs=1).reset(7).observation[G][0], one[0][0])


def test_state_continues_bit_for_bit() -> None:
    env = spread(max_steps=4)
    env.reset(0)
    actions = random_actions(env, 12)
    for each in actions[:3]:
        env.step({G: each})
    env.reset_rows(torch.tensor([False, True, False]))
    state = env.state_dict()
    kept = {name: each.clone() for name, each in state.items()}
    after = [env.step({G: each}) for each in actions[3:]]
    other = spread(max_steps=4)
    other.reset(99)
    other.load_state_dict(state)
    for each, expected in zip(actions[3:], after, strict=True):
        step = other.step({G: each})
        assert torch.equal(step.view.observation[G], expected.view.observation[G])
        assert torch.equal(step.reward[G], expected.reward[G])
        assert torch.equal(step.done, expected.done)
    assert {tuple(step.done.tolist()) for step in after} >= {(True, False, True), (False, True, False)}
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_a_row_does_not_know_of_others() -> None:
    random = torch.Generator().manual_seed(5)
    runs = []
    for _ in range(2):
        env = spread(num_envs=6, max_steps=5)
        env.reset(0)
        run = []
        for each in random_actions(env, 20):
            actions = torch.randint(5, each.shape, generator=random)
            actions[2] = each[2]
            step = env.step({G: actions})
            begin = torch.rand(6, generator=random) < 0.4
            begin[2] = False
            view = env.reset_rows(begin)
            run.append((view.observation[G][2], step.final[G][2], step.reward[G][2], step.truncated[G][2]))
        runs.append(run)
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({float(seen[0].sum()) for seen, *_ in runs[0]}) == 20


def test_without_auto_reset_the_last_view_stays() -> None:
    env = spread(max_steps=1)
    env.auto_reset = False
    env.reset(0)
    step = env.step({G: random_actions(env, 1)[0]})
    assert step.done.all()
    assert torch.equal(step.view.observation[G], step.final[G])
    view = env.reset_rows(torch.tensor([True, False, False]))
    assert (view.observation[G][0, :, :2] == 0).all()
    assert torch.equal(view.observation[G][1:], step.final[G][1:])


def test_what_was_handed_out_stays_as_it_was() -> None:
    env = spread()
    view = env.reset(0)
    kept = view.observation[G].clone()
    for each in random_actions(env, 3):
        env.step({G: each})
    assert torch.equal(view.observation[G], kept)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"groups": [2, 1]}, [2, 1]),
        ({"n_agents": 7}, [3, 2, 2]),
        ({"n_agents": 1024}, [342, 341, 341]),
        ({"groups": (4,), "n_agents": 4}, [4]),
    ],
)
def test_any_number_of_agents_and_colours(options: dict[str, object], sizes: list[int]) -> None:
    env = spread(num_envs=2, **options)
    env.reset(0)
    step = env.step({G: random_actions(env, 1)[0]})
    n = sum(sizes)
    assert step.reward[G].shape == (2, n)
    offsets = step.final[G][..., 4:].reshape(2, n, len(sizes), 2)
    colour = [g for g, size in enumerate(sizes) for _ in range(size)]
    assert torch.allclose(step.reward[G], -0.5 * offsets[:, range(n), colour].norm(dim=-1))


def test_picture_shows_agents_and_landmarks_in_colour() -> None:
    env = spread("bps_4", num_envs=2)
    env.reset(0)
    before = env.render()
    assert before.dtype.name == "uint8"
    assert before.ndim == 3
    assert before.shape[2] == 3
    for _ in range(40):
        env.step({G: torch.full((2, 30), 2)})  # far out to the right: they stay in the picture
    after = env.render()
    assert after.shape == before.shape
    assert (after != before).any()
    middle = after.shape[1] // 2
    for shade in {tuple(each) for each in before.reshape(-1, 3).tolist() if max(each) - min(each) > 60}:
        found = (after[:, middle:] == shade).all(-1).sum()
        if (before == shade).all(-1).sum() > 800:  # a colour of many agents
            assert found > 100


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bps_5", {}, "did you mean 'bps_"),
        ("bps_1", {"group": [3]}, "no option 'group'; did you mean 'groups'"),
        ("bps_1", {"groups": []}, "must be a list of sizes"),
        ("bps_1", {"groups": 3}, "must be a list of sizes"),
        ("bps_1", {"groups": [3, 0]}, "not 0"),
        ("bps_1", {"n_agents": 2}, "at least 3, one for each colour"),
        ("bps_1", {"groups": [3, 1], "n_agents": 5}, "groups hold 4 agents, n_agents is 5"),
    ],
)
def test_bad_names_and_options_are_told(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words) as fault:
        make("spread", name, options=options)
    assert "\n" not in str(fault.value)
    assert f"spread/{name}" in str(fault.value)
