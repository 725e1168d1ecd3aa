"""The two games pay what the paper says, show what was played, and keep the interface's word."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypermarl.envs import EnvironmentFault, make

G = "agents"
joint_actions = st.integers(2, 64).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n))


def game(name="specialisation", num_envs=3, max_steps=None, **options):
    return make("games", name, num_envs=num_envs, max_steps=max_steps, options=options)


def play(env, *rows):
    return env.step({G: torch.tensor(rows)})


@settings(max_examples=60, deadline=None)
@given(joint_actions, st.booleans())
def test_pays_by_how_many_chose_alike(chosen: list[int], temporal: bool) -> None:
    n = len(chosen)
    alike = Counter(chosen)
    for name, pay in (("specialisation", lambda k: 1 / k), ("synchronisation", lambda k: 1 / (n - k + 1))):
        env = game(name, num_envs=2, n_agents=n, temporal=temporal)
        env.reset()
        reward = play(env, [0] * n, chosen).reward[G]
        assert reward.shape == (2, n)
        assert reward.dtype == torch.float32
        assert reward[1].tolist() == pytest.approx([pay(alike[each]) for each in chosen], rel=1e-6)
        assert reward[0].tolist() == pytest.approx([pay(n)] * n, rel=1e-6)


@pytest.mark.parametrize(("name", "alike", "apart"), [("specialisation", 0.5, 1.0), ("synchronisation", 1.0, 0.5)])
def test_two_player_matrix_of_the_paper(name: str, alike: float, apart: float) -> None:
    env = game(name, num_envs=4, n_agents=2)
    env.reset()
    reward = play(env, [0, 0], [0, 1], [1, 0], [1, 1]).reward[G]
    assert reward.tolist() == [[alike] * 2, [apart] * 2, [apart] * 2, [alike] * 2]


def test_shows_everyone_the_last_joint_action() -> None:
    env = game(num_envs=2, n_agents=3)
    first = env.reset().observation[G]
    assert first.shape == (2, 3, 9)
    assert (first == -1).all()
    seen = play(env, [2, 0, 1], [1, 1, 0]).view.observation[G]
    assert seen.dtype == torch.float32
    for agent in range(3):
        assert seen[0, agent].tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 0]
        assert seen[1, agent].tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 0]
    seen = play(env, [0, 0, 0], [1, 1, 0]).view.observation[G]  # the step before is forgotten
    assert seen[0, 0].tolist() == [1, 0, 0] * 3


@pytest.mark.parametrize("terminate", [False, True])
def test_episode_ends_after_ten_steps_and_the_next_begins(terminate: bool) -> None:
    env = game(n_agents=5, terminate=terminate)
    env.reset()
    assert env.max_steps == (None if terminate else 10)
    for episode in range(2):
        for clock in range(1, 11):
            step = play(env, *[[(clock + i) % 5 for i in range(5)]] * 3)
            over = clock == 10
            assert step.done.tolist() == [over] * 3, (episode, clock)
            assert (step.terminated[G] == (over and terminate)).all()
            assert (step.truncated[G] == (over and not terminate)).all()
            assert step.terminated[G].shape == step.truncated[G].shape == (3, 5)
            last = step.final[G].reshape(3, 5, 5, 5)
            assert (last.argmax(-1)[:, 0] == torch.tensor([(clock + i) % 5 for i in range(5)])).all()
            assert (last.sum(-1) == 1).all()
            assert (step.view.observation[G] == -1).all() == over
            if not over:
                assert torch.equal(step.view.observation[G], step.final[G])


def test_clock_of_the_user_cuts_earlier_but_not_later() -> None:
    env = game(max_steps=4, n_agents=5)
    env.reset()
    ends = [bool(play(env, *[[0] * 5] * 3).truncated[G].all()) for _ in range(8)]
    assert ends == [False, False, False, True] * 2
    assert game(max_steps=40).max_steps == 10
    env = game(max_steps=4, terminate=True, episode_steps=7)
    env.reset()
    step = [play(env, *[[0] * 4] * 3) for _ in range(4)][-1]
    assert step.truncated[G].all()
    assert not step.terminated[G].any()
    assert env.max_steps == 4
    env = game(max_steps=7, terminate=True, episode_steps=7)
    env.reset()
    step = [play(env, *[[0] * 4] * 3) for _ in range(7)][-1]
    assert step.terminated[G].all()
    assert not step.truncated[G].any(), "never both"


def test_one_choice_game_is_blind_and_over_at_once() -> None:
    env = game("synchronisation", n_agents=5, temporal=False)
    assert env.groups[G].observation == 1
    assert torch.equal(env.reset().observation[G], torch.ones(3, 5, 1))
    for _ in range(2):
        step = play(env, *[[0, 1, 2, 3, 4]] * 3)
        assert step.done.all()
        assert step.terminated[G].all()
        assert not step.truncated[G].any()
        assert torch.equal(step.view.observation[G], torch.ones(3, 5, 1))
    env = game(temporal=False, terminate=False)
    env.reset()
    assert play(env, *[[0, 1, 2, 3]] * 3).truncated[G].all()


def test_state_continues_bit_for_bit() -> None:
    env, actions = game(n_agents=4), torch.randint(4, (14, 3, 4), generator=torch.Generator().manual_seed(0))
    env.reset(0)
    for each in actions[:7]:
        env.step({G: each})
    env.reset_rows(torch.tensor([False, True, False]))  # rows of different age
    state = env.state_dict()
    kept = {name: each.clone() for name, each in state.items()}
    after = [env.step({G: each}) for each in actions[7:]]
    assert all(torch.equal(state[name], kept[name]) for name in kept), "a state taken must not change later"
    other = game(n_agents=4)
    other.load_state_dict(state)
    for each, expected in zip(actions[7:], after, strict=True):
        step = other.step({G: each})
        assert torch.equal(step.view.observation[G], expected.view.observation[G])
        assert torch.equal(step.done, expected.done)
        assert torch.equal(step.truncated[G], expected.truncated[G])
    assert [int(step.done.sum()) for step in after] == [0, 0, 2, 0, 0, 0, 0]
    assert all(torch.equal(state[name], kept[name]) for name in kept), "nor when it has been loaded"


def test_rows_begin_anew_alone() -> None:
    env = game(n_agents=4)
    env.reset()
    play(env, *[[0, 1, 2, 3]] * 3)
    before = env.load_state_dict(env.state_dict()).observation[G]
    view = env.reset_rows(torch.tensor([True, False, True]))
    assert (view.observation[G][[0, 2]] == -1).all()
    assert torch.equal(view.observation[G][1], before[1])


def test_without_auto_reset_the_last_view_stays() -> None:
    env = game(n_agents=4, temporal=True, episode_steps=1)
    env.auto_reset = False
    env.reset()
    step = play(env, *[[0, 1, 2, 3]] * 3)
    assert step.done.all()
    assert torch.equal(step.view.observation[G], step.final[G])


def test_a_row_does_not_know_of_others() -> None:
    random = torch.Generator().manual_seed(1)
    mine = torch.randint(4, (25, 4), generator=random)
    runs = []
    for _ in range(2):
        env = game(n_agents=4, num_envs=6)
        env.reset(0)
        run = []
        for each in mine:
            actions = torch.randint(4, (6, 4), generator=random)
            actions[2] = each
            step = env.step({G: actions})
            begin = torch.rand(6, generator=random) < 0.3
            begin[2] = False
            env.reset_rows(begin)
            run.append((step.view.observation[G][2], step.final[G][2], step.reward[G][2], step.truncated[G][2]))
        runs.append(run)
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("auto_reset", [True, False])
def test_what_was_handed_out_stays_as_it_was(auto_reset: bool) -> None:
    env = game(n_agents=3, num_envs=1)
    env.auto_reset = auto_reset
    env.reset()
    actions = torch.tensor([[0, 1, 2]])
    step = env.step({G: actions})
    kept = step.view.observation[G].clone()
    actions.zero_()  # the caller's own buffer
    assert torch.equal(env.load_state_dict(env.state_dict()).observation[G], kept)
    play(env, [2, 2, 2])
    assert torch.equal(step.view.observation[G], kept)


def test_picture_shows_who_chose_what() -> None:
    env = game(n_agents=3, num_envs=2)
    env.reset()
    empty = env.render()
    assert empty.dtype.name == "uint8"
    assert empty.ndim == 3
    assert empty.shape[2] == 3
    play(env, [0, 1, 2], [0, 0, 0])
    one = env.render()
    env.reset()
    play(env, [0, 1, 1], [0, 0, 0])
    two = env.render()
    assert one.shape == two.shape == empty.shape
    rows = [(one[y] != two[y]).any() for y in range(one.shape[0])]
    assert any(rows)
    assert not any(rows[: len(rows) // 3]), "nothing changed for the first agent"
    assert (one != empty).any()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("specialization", {}, "did you mean 'specialisation'"),
        ("specialisation", {"n_agent": 3}, "no option 'n_agent'; did you mean 'n_agents'"),
        ("specialisation", {"n_agents": 1}, "'n_agents' must be a whole number from 2 to 64, not 1"),
        ("specialisation", {"n_agents": 65}, "not 65"),
        ("specialisation", {"n_agents": 4097, "temporal": False}, "from 2 to 4096, not 4097"),
        ("specialisation", {"n_agents": "4"}, "not '4'"),
        ("specialisation", {"episode_steps": 0}, "of at least 1, not 0"),
        ("specialisation", {"temporal": "yes"}, "'temporal' must be true or false"),
        ("specialisation", {"temporal": None}, "'temporal' must be true or false"),
    ],
)
def test_bad_names_and_options_are_told(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words) as fault:
        make("games", name, options=options)
    assert "\n" not in str(fault.value)
    assert "games/" in str(fault.value)


def test_many_agents_need_no_table_of_pairs() -> None:
    """1,024 agents of 64 copies in one choice: 256 MB, were every choice compared with every action."""
    env = game(num_envs=64, n_agents=1024, temporal=False)
    env.reset()
    chosen = torch.randint(1024, (64, 1024), generator=torch.Generator().manual_seed(0))
    with torch.profiler.profile(profile_memory=True) as seen:
        reward = env.step({G: chosen}).reward[G]
    assert max(event.cpu_memory_usage for event in seen.events()) < 2**22
    alike = Counter(chosen[5].tolist())
    assert reward[5].tolist() == pytest.approx([1 / alike[each] for each in chosen[5].tolist()], rel=1e-6)
