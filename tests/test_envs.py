"""Every environment by its string: it keeps what TorchRL and PettingZoo ask, and wrong names are told.

One row in `ENVIRONMENTS` for each environment; one test for each promise.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test
from torchrl.envs.utils import check_env_specs

from hypermarl.envs import ENVS, EnvironmentFault, catalogue, make, make_parallel, parse
from hypermarl.envs.interface import Discrete, VectorEnv
from hypermarl.envs.options import nearest
from hypermarl.envs.torchrl import TorchRLEnv

STEPS, E = 12, 3
ENVIRONMENTS: list[tuple[str, str | None, dict[str, object]]] = [  # string, package it needs, options
    ("games/specialisation", None, {"n_agents": 5}),
    ("games/specialisation", None, {"n_agents": 2, "temporal": False}),
    ("games/synchronisation", None, {"n_agents": 16}),
    ("spread/bps_1", None, {}),
    ("spread/bps_2", None, {}),
    ("spread/bps_3", None, {}),
    ("spread/bps_4", None, {}),
    ("vmas/dispersion", "vmas", {"n_agents": 2, "n_food": 5, "continuous_actions": False}),
    ("vmas/navigation", "vmas", {"n_agents": 4}),
    ("vmas/simple_tag", "vmas", {}),
    ("vmas/balance", "vmas", {}),
    ("pettingzoo/mpe2.simple_spread_v3", "mpe2", {}),
    ("pettingzoo/mpe2.simple_tag_v3", "mpe2", {}),
    ("pettingzoo/mpe2.simple_speaker_listener_v4", "mpe2", {}),
    ("pettingzoo/butterfly.knights_archers_zombies_v11", "pymunk", {"max_arrows": 2}),
    ("pettingzoo/classic.rps_v2", "pettingzoo", {}),
]

KAZ = "pettingzoo/butterfly.knights_archers_zombies_v11"


def table(**faults: str) -> pytest.MarkDecorator:
    """A row for each environment; `faults` says by string why the promise cannot be kept, which is then expected."""
    params = []
    for text, needs, options in ENVIRONMENTS:
        marks = [pytest.mark.skipif(bool(needs) and not find_spec(str(needs)), reason=f"needs {needs}")]
        if text in faults:
            marks.append(pytest.mark.xfail(reason=faults[text], strict=True))
        params.append(pytest.param(text, options, id=text, marks=marks))
    return pytest.mark.parametrize(("text", "options"), params)


rows = table()


def vector(text: str, options: dict[str, object], num_envs: int = E) -> VectorEnv:
    return make(*parse(text), num_envs=num_envs, max_steps=STEPS, options=options)


def parallel(text: str, options: dict[str, object]):
    return make_parallel(*parse(text), max_steps=STEPS, options=options)


def random_actions(env: VectorEnv, generator: torch.Generator) -> dict[str, torch.Tensor]:
    actions = {}
    for name, group in env.groups.items():
        shape = (env.num_envs, len(group.agents))
        if isinstance(group.action, Discrete):
            actions[name] = torch.randint(group.action.n, shape, generator=generator)
        else:
            low, high = torch.tensor(group.action.low), torch.tensor(group.action.high)
            actions[name] = low + (high - low) * torch.rand((*shape, group.action.size), generator=generator)
    return actions


@rows
def test_torchrl_specs(text: str, options: dict[str, object]) -> None:
    env = TorchRLEnv(vector(text, options))
    check_env_specs(env, seed=0)
    check_env_specs(env, break_when_any_done="both")
    env.close()


@rows
def test_pettingzoo_api_and_seed(text: str, options: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(parallel(text, options), num_cycles=2 * STEPS)
    parallel_seed_test(lambda: parallel(text, options), num_cycles=STEPS)


@rows
def test_keeps_the_word_of_the_interface(text: str, options: dict[str, object]) -> None:
    env = vector(text, options)
    assert isinstance(env, VectorEnv)
    assert env.num_envs == E
    view, random = env.reset(0), torch.Generator().manual_seed(0)
    ended = 0
    for _ in range(2 * STEPS + 1):
        step = env.step(random_actions(env, random))
        assert step.done.shape == (E,)
        assert step.done.dtype == torch.bool
        for name, group in env.groups.items():
            n = len(group.agents)
            for seen in (view.observation[name], step.view.observation[name], step.final[name]):
                assert seen.shape == (E, n, group.observation)
                assert seen.dtype == torch.float32
                assert seen.isfinite().all()
            assert step.reward[name].shape == (E, n)
            assert step.reward[name].dtype == torch.float32
            assert step.reward[name].isfinite().all()
            terminated, truncated = step.terminated[name], step.truncated[name]
            assert terminated.shape == truncated.shape == (E, n)
            assert terminated.dtype == truncated.dtype == torch.bool
            assert not (terminated & truncated).any()
            going = ~step.done
            assert torch.equal(step.view.observation[name][going], step.final[name][going])
        ended += int(step.done.sum())
        view = step.view
    assert ended >= 2 * E, "the clock ends every episode and the next begins"
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.std() > 0
    env.close()
    env.close()


@rows
def test_same_seed_same_episodes(text: str, options: dict[str, object]) -> None:
    runs = []
    for _ in range(2):
        env, random = vector(text, options), torch.Generator().manual_seed(0)
        view = env.reset(3)
        run = [each.clone() for each in view.observation.values()]
        for _ in range(STEPS + 3):
            step = env.step(random_actions(env, random))
            run += [each.clone() for each in (*step.view.observation.values(), *step.reward.values(), step.done)]
        runs.append(run)
        env.close()
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@rows
def test_a_row_does_not_know_of_others(text: str, options: dict[str, object]) -> None:
    mine, random, runs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1), []
    for _ in range(2):
        env, run = vector(text, options), []
        env.reset(3)
        mine.manual_seed(0)
        for _ in range(STEPS + 3):
            actions, kept = random_actions(env, random), random_actions(env, mine)
            for name, each in actions.items():
                each[1] = kept[name][1]
            step = env.step(actions)
            run += [each[1].clone() for each in (*step.view.observation.values(), *step.reward.values(), step.done)]
            begin = torch.rand(E, generator=random) < 0.4
            begin[1] = False
            view = env.reset_rows(begin)
            run += [each[1].clone() for each in view.observation.values()]
        runs.append(run)
        env.close()
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@table(**{KAZ: "its counter to the next zombie lives through reset, so an episode depends on those before it"})
def test_state_continues_bit_for_bit(text: str, options: dict[str, object]) -> None:
    env, random = vector(text, options), torch.Generator().manual_seed(0)
    env.reset(3)
    for _ in range(STEPS // 2):
        env.step(random_actions(env, random))
    env.reset_rows(torch.tensor([False, True, False]))
    state = env.state_dict()
    assert state is not None
    assert all(isinstance(each, torch.Tensor) for each in state.values())
    actions = [random_actions(env, random) for _ in range(STEPS + 3)]
    expected = [env.step(each) for each in actions]
    env.close()
    other = vector(text, options)
    other.reset(99)
    other.load_state_dict(state)
    for each, there in zip(actions, expected, strict=True):
        here = other.step(each)
        for name in other.groups:
            assert torch.equal(here.view.observation[name], there.view.observation[name])
            assert torch.equal(here.final[name], there.final[name])
            assert torch.equal(here.reward[name], there.reward[name])
            assert torch.equal(here.truncated[name], there.truncated[name])
        assert torch.equal(here.done, there.done)
    other.close()


@rows
def test_both_forms_name_the_same_agents_and_spaces(text: str, options: dict[str, object]) -> None:
    env, one = vector(text, options, 1), parallel(text, options)
    one.reset(seed=0)
    named = [agent for group in env.groups.values() for agent in group.agents]
    assert sorted(one.possible_agents) == sorted(named)
    for group in env.groups.values():
        for agent in group.agents:
            size = one.action_space(agent)
            if isinstance(group.action, Discrete):
                assert int(size.n) == group.action.n
            else:
                assert size.shape == (group.action.size,)
                assert np.allclose(size.low, group.action.low)
                assert np.allclose(size.high, group.action.high)
    env.close()
    one.close()


def test_strings() -> None:
    assert parse("games/specialisation") == ("games", "specialisation")
    assert parse("pettingzoo/mpe2.simple_spread_v3") == ("pettingzoo", "mpe2.simple_spread_v3")
    assert parse("my_pkg.module:make") == ("pettingzoo", "my_pkg.module:make")
    assert parse("pettingzoo/my_pkg.module:make") == ("pettingzoo", "my_pkg.module:make")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("game/specialisation", "unknown kind 'game'; did you mean 'games'"),
        ("specialisation", "not of the form 'kind/name'; did you mean 'games/specialisation'"),
        ("games", "write 'games/<name>'"),
        ("games/", "write 'games/<name>'"),
        ("", "not of the form 'kind/name'"),
        ("qqqq/x", "there is 'games', 'pettingzoo', 'spread', 'vmas'"),
    ],
)
def test_wrong_strings_are_told(text: str, words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words) as fault:
        parse(text)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"num_envs": 0}, "'num_envs' must be a whole number of at least 1, not 0"),
        ({"workers": 0}, "'workers' must"),
        ({"max_steps": 0}, "'max_steps' must"),
        ({"max_steps": 2.5}, "not 2.5"),
        ({"num_envs": True}, "not True"),
    ],
)
def test_wrong_numbers_are_told(numbers: dict[str, object], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        make("games", "specialisation", **numbers)
    with pytest.raises(EnvironmentFault, match="'max_steps' must"):
        make_parallel("games", "specialisation", max_steps=-1)


def test_unknown_kinds_are_told_where_they_are_made() -> None:
    for maker in (make, make_parallel):
        with pytest.raises(EnvironmentFault, match="did you mean 'vmas'"):
            maker("vma", "dispersion")


def test_catalogue_can_be_made() -> None:
    listed = catalogue()
    assert {text.partition("/")[0] for text, _ in listed} == set(ENVS)
    assert all(line and "\n" not in line for _, line in listed)
    named = [text for text, _ in listed]
    assert len(named) == len(set(named))
    ours = [text for text in named if parse(text)[0] in ("games", "spread")]
    assert len(ours) >= 6
    for text in ours:
        assert make(*parse(text)).num_envs == 1


def test_importing_the_package_imports_no_environment() -> None:
    import subprocess
    import sys

    code = (
        "import sys, hypermarl.envs as envs; envs.make('games', 'specialisation');"
        "print([name for name in ('vmas', 'pettingzoo', 'torchrl', 'mpe2', 'pygame') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nearest_names_one_or_all() -> None:
    assert nearest("n_agent", ["n_agents", "seed"]) == "did you mean 'n_agents'?"
    assert nearest("zzz", ["b", "a"]) == "there is 'a', 'b'."
    assert nearest("zzz", []) == "there is none to choose from."
