"""PettingZoo environments by name, and what a wrong name gets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hypermarl.envs.bridge import open_environment, survey
from hypermarl.envs.interface import EnvironmentFault
from hypermarl.envs.pettingzoo import make


@pytest.mark.parametrize(
    ("name", "options", "agents"),
    [
        ("mpe2.simple_spread_v3", {"N": 2}, ["agent_0", "agent_1"]),
        ("butterfly.knights_archers_zombies_v11", {"num_archers": 1, "num_knights": 1}, ["archer_0", "knight_0"]),
        ("pettingzoo.classic.rps_v2", {}, ["player_0", "player_1"]),
        ("classic.tictactoe_v3", {}, ["player_1", "player_2"]),  # has no parallel_env
        ("pettingzoo_toys:Pistons", {"n": 1}, ["piston_0"]),
    ],
)
def test_names_find_their_environment(name: str, options: dict[str, Any], agents: list[str]) -> None:
    assert list(open_environment(name, options).possible_agents) == agents


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mpe2.simple_sprad_v3", {}, "no module 'simple_sprad_v3' in 'mpe2'; did you mean 'simple_spread_v3'?"),
        ("butterfly.pistonball_v5", {}, "did you mean 'pistonball_v6'?"),
        (
            "mpe.simple_spread_v3",
            {},
            "MPE moved to a package of its own: pip install mpe2, and name it 'mpe2.simple_spread_v3'",
        ),
        ("no_such_package.thing:make", {}, "no module 'no_such_package', installed or in the current directory"),
        ("no_such_module", {}, "no module 'no_such_module', installed or in the current directory"),
        ("pettingzoo_toys:Piston", {}, "has no function 'Piston'; did you mean 'Pistons'?"),
        ("pettingzoo_toys", {}, "neither 'parallel_env' nor 'env'; name the function, as in 'pettingzoo_toys:make'"),
        ("pettingzoo_toys:Alone", {}, "a Gymnasium environment for one agent, not a PettingZoo"),
        ("pettingzoo_toys:nothing", {}, "made a NoneType, not a PettingZoo"),
        ("pettingzoo_toys:Pistons", {"m": 3}, "has no option 'm'"),
        ("mpe2.simple_spread_v3", {"max_cycle": 3}, "has no option 'max_cycle'; did you mean 'max_cycles'?"),
        ("mpe2.simple_spread_v3", {"local_ratio": 7}, "making it raised AssertionError: local_ratio is a proportion"),
    ],
)
def test_a_wrong_name_or_option_is_one_sentence(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        open_environment(name, options)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"Environment {name!r}: ")
    assert "\n" not in str(caught.value)


def test_a_module_in_the_current_directory_is_found_by_workers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = Path(__file__).with_name("pettingzoo_toys.py").read_text()
    (tmp_path / "my_own_world.py").write_text(toys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    env = make("my_own_world:Pistons", num_envs=2, workers=2)
    env.reset(0)
    env.close()
    sys.modules.pop("my_own_world")


def test_what_a_module_lacks_is_told_from_a_module_that_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_a_world.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "bad_world.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        EnvironmentFault, match="needs the package 'a_package_nobody_has': pip install a_package_nobody"
    ):
        open_environment("half_a_world:make", {})
    with pytest.raises(EnvironmentFault, match=r"importing it raised ZeroDivisionError: .* \(bad_world.py, line 1\)"):
        open_environment("bad_world:make", {})


def test_masks_in_infos_are_found_and_agents_must_have_names() -> None:
    env = open_environment("pettingzoo_toys:Pistons", {"mask": "info"})
    assert survey(env, "toy").groups["piston"].masked
    env.possible_agents = [0, 1]
    with pytest.raises(EnvironmentFault, match="named by strings, not by 0"):
        survey(env, "toy")
