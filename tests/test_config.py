"""Settings: what is typed wins, what is wrong is named, and every preset is valid."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypermarl import config as settings
from hypermarl import envs
from hypermarl.config import build, compose, to_dict
from hypermarl.envs.interface import Continuous, Discrete, EnvironmentFault
from hypermarl.errors import UserError
from hypermarl.marl.settings import ExperimentConfig, TrainConfig
from hypermarl.typed import arguments

DISPERSION = "env=vmas/dispersion"


def experiment(*words: str) -> ExperimentConfig:
    return build(ExperimentConfig, compose(words, envs.parse))


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5
    kind: Literal["a", "bc"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool = False
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "x")
    rows: tuple[tuple[float, ...], ...] = ()
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


# ------------------------------------------------------------------------------------------------ presets


@pytest.mark.parametrize("name", settings.presets("env", "train"))
def test_every_environment_preset_builds_and_means_its_own_name(name: str) -> None:
    env = experiment(f"env={name}").env
    assert name.startswith(f"{env.kind}/") and name.removeprefix(f"{env.kind}/").startswith(env.name)


@pytest.mark.parametrize("group", ["sharing", "algorithm"])
def test_every_other_preset_builds_under_its_own_name(group: str) -> None:
    for name in settings.presets(group, "train"):
        assert getattr(experiment(DISPERSION, f"{group}={name}"), group).name == name


@pytest.mark.parametrize("group", sorted({group for root in settings.ROOTS for group in settings.groups(root)}))
def test_every_preset_has_a_line_to_list(group: str) -> None:
    lines = settings.presets(group)
    assert lines and all(0 < len(line) < 120 and "@" not in line for line in lines.values())


def test_the_presets_asked_for_exist() -> None:
    assert set(settings.groups()) == {"env", "sharing", "algorithm", "model", "speed"}
    assert {
        "shared",
        "shared_id",
        "independent",
        "hyper_linear",
        "hyper_mlp",
        "hyper_low_rank",
        "hyper_chunked",
    } <= set(settings.presets("sharing"))
    assert experiment(DISPERSION, "model=gru").model.recurrent
    assert experiment(DISPERSION, "algorithm=mappo").algorithm.centralised
    fast = experiment("env=vmas/dispersion", "speed=fast", "train.steps=7")
    assert (fast.train.precision, fast.model.activation, fast.train.steps) == ("bf16", "relu", 7)


def test_dispersion_is_the_papers() -> None:
    config = experiment(DISPERSION)
    env = envs.make(
        config.env.kind, config.env.name, num_envs=2, max_steps=config.env.max_steps, options=config.env.options
    )
    (group,) = env.groups.values()
    assert (len(group.agents), group.observation, group.action) == (4, 16, Discrete(9))
    assert env.max_steps == 100
    assert (config.env.num_envs, config.train.steps, config.algorithm.epochs, config.algorithm.minibatches) == (
        16,
        128,
        4,
        2,
    )


@pytest.mark.parametrize(
    "name, agents, goals, clip",
    [
        ("2_shared", 2, 1, 0.1),
        ("2_unique", 2, 2, 0.1),
        ("4_shared", 4, 1, 0.1),
        ("4_unique", 4, 4, 0.1),
        ("4_mixed", 4, 3, 0.1),
        ("8_shared", 8, 1, 0.2),
        ("8_unique", 8, 8, 0.1),
        ("8_mixed", 8, 5, 0.1),
    ],
)
def test_navigation_is_the_papers(name: str, agents: int, goals: int, clip: float) -> None:
    config = experiment(f"env=vmas/navigation_{name}")
    env = envs.make(
        config.env.kind, config.env.name, num_envs=2, max_steps=config.env.max_steps, options=config.env.options
    )
    (group,) = env.groups.values()
    assert len(group.agents) == agents and isinstance(group.action, Continuous)
    assert group.observation == 4 + 2 * agents  # no lidar: collisions are off; every agent's goal is seen
    assert agents - int(config.env.options["agents_with_same_goal"]) + 1 == goals
    assert (config.algorithm.clip, config.algorithm.epochs, config.algorithm.minibatches) == (clip, 45, 30)
    assert (config.env.num_envs, config.train.steps, config.train.frames) == (600, 100, 10_000_000)
    assert config.model.actor == (256, 256) and config.model.activation == "tanh"


# ------------------------------------------------------------------------------------------------ compose


@pytest.fixture
def own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of presets in which every layer sets `x.<layers below it>` to its own name."""
    package = tmp_path / "own_presets"
    for folder in ("algorithm", "env/kind"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "train.yaml").write_text(
        "defaults: [_self_, {algorithm: one}, {env: null}]\n"
        "algorithm: {default: default, algorithm: default, env: default}\n"
    )
    (package / "algorithm/one.yaml").write_text("# one\nalgorithm: algorithm\nenv: algorithm\n")
    (package / "env/kind/two.yaml").write_text("# @package _global_\n# two\nalgorithm: {env: env, word: env}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(settings, "PRESETS", "own_presets")


@pytest.mark.usefixtures("own_presets")
@pytest.mark.parametrize("words", [["env=kind/two", "algorithm.word=word"], ["algorithm.word=word", "env=kind/two"]])
def test_words_beat_environment_beats_algorithm_beats_defaults(words: list[str]) -> None:
    assert compose(words)["algorithm"] == {"default": "default", "algorithm": "algorithm", "env": "env", "word": "word"}


def test_an_environment_without_preset_is_parsed() -> None:
    assert experiment("env=vmas/balance", "env.num_envs=3").env.name == "balance"
    env = experiment("env=my_pkg.module:make", "env.options.size=2").env
    assert (env.kind, env.name, dict(env.options)) == ("pettingzoo", "my_pkg.module:make", {"size": 2})
    assert experiment("env=pettingzoo/mpe2.simple_spread_v3", "env.options.N=5").env.options["N"] == 5


def test_values_keep_their_types() -> None:
    config = experiment(
        DISPERSION, "train.frames=1e6", "model.actor=[32,16]", "algorithm.lr=1", "train.run=7", "env.max_steps=null"
    )
    assert config.train.frames == 1_000_000 and isinstance(config.train.frames, int)
    assert config.model.actor == (32, 16)
    assert config.algorithm.lr == 1.0 and isinstance(config.algorithm.lr, float)
    assert config.train.run == "7" and config.env.max_steps is None


@pytest.mark.parametrize(
    "word, parts",
    [
        ("algorithm.lrr=1", ["'algorithm.lrr'", "'algorithm.lr'"]),
        ("algorithm.learning_rate=1", ["'algorithm.lr'"]),
        ("+algorithm.foo=1", ["'algorithm.foo'", "mean 'algorithm."]),
        ("lr=1", ["'lr'", "'algorithm.lr'"]),
        ("+seeed=1", ["'seeed'", "'seed'"]),
        ("sharing.generator.trunc=[8]", ["'sharing.generator.trunk'"]),
        ("sharing=hyper_mpl", ["'hyper_mpl'", "'hyper_mlp'"]),
        ("algorithm=mapo", ["'mapo'", "'mappo'"]),
        ("sharring=shared", ["'sharring'", "'sharing'"]),
        ("hydra.run.dir=x", ["'hydra.run.dir'"]),
        ("env=vmas/dispersion", ["twice"]),
        ("seed=abc", ["seed", "a whole number", "'abc'"]),
        ("train.frames=1.5", ["train.frames", "a whole number", "1.5"]),
        ("train.progress=1", ["train.progress", "true or false"]),
        ("model.actor=64", ["model.actor", "a list", "64"]),
        ("model.actor=[64,x]", ["model.actor[1]", "'x'"]),
        ("model.activation=rleu", ["model.activation", "'relu'"]),
        ("model=relu", ["'relu'", "preset"]),
        ("env.options=3", ["env.options"]),
        ("env.kind.deep=3", ["env.kind"]),
        ("algorithm.lr=nan", ["algorithm.lr", "a number"]),
        ("seed=null", ["seed", "a whole number"]),
        ("seed=1,2", ["seed=1,2", "seeds=N"]),
        ("seed", ["'seed'", "key=value"]),
        ("=3", ["key=value"]),
        ("a b=3", ["key=value"]),
        ("sharing=", ["sharing="]),
        ("model.actor=[64", ["model.actor=[64"]),
        ("seed=${nowhere}", ["nowhere"]),
        ("~train.nowhere", ["train.nowhere"]),
        ("env.num_envs=0", ["env.num_envs", "at least 1"]),
        ("sharing.generator.rank=0", ["rank"]),
    ],
)
def test_a_bad_word_gets_one_sentence_that_names_it(word: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        experiment(DISPERSION, word)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


@pytest.mark.parametrize("words", [[], ["sharing=shared"]])
def test_no_environment_is_asked_for(words: list[str]) -> None:
    with pytest.raises(UserError, match="env="):
        experiment(*words)


def test_an_unknown_environment_names_the_nearest() -> None:
    with pytest.raises(EnvironmentFault, match="'games'"):
        experiment("env=gmaes/specialisation")
    with pytest.raises(UserError, match="'games/specialisation'"):
        compose(["env=games/specialization"])  # without a parser only presets are known


def test_composing_leaves_the_process_and_another_hydra_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra import compose as outer_compose
    from hydra import initialize_config_dir

    (tmp_path / "app.yaml").write_text("mine: 1\n")
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        experiment(DISPERSION)
        assert outer_compose("app")["mine"] == 1
    assert Path(os.getcwd()) == tmp_path and os.listdir(tmp_path) == ["app.yaml"]
    assert logging.getLogger().handlers == handlers


# ------------------------------------------------------------------------------------------------ build


def test_defaults_fill_in_and_nested_groups_are_built() -> None:
    assert build(Outer, {"name": "x", "inner": {"size": 3}}) == Outer("x", inner=Inner(size=3))


def test_missing_and_misplaced_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"^name is missing"):
        build(Outer, {})
    with pytest.raises(UserError, match=r"^here\.name is missing"):
        build(Outer, {}, where="here")
    with pytest.raises(UserError, match=r"'inner\.sise'; did you mean 'inner\.size'"):
        build(Outer, {"name": "x", "inner": {"sise": 3}})
    with pytest.raises(UserError, match=r"'rate'; did you mean 'inner\.rate'"):
        build(Outer, {"name": "x", "rate": 3})


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("flag", 1, "true or false"),
        ("sizes", [1, 2.5], "a whole number"),
        ("sizes", "12", "a list"),
        ("pair", [1], "a list of a whole number, text"),
        ("pair", ["x", 1], r"pair\[0\]"),
        ("rows", [1.0], "a list"),
        ("limit", "x", "a whole number or null"),
        ("limit", True, "a whole number or null"),
        ("options", [1], "a group of settings"),
        ("inner", None, "a group of settings"),
        ("name", 1.5, "text"),
        ("name", None, "text"),
    ],
)
def test_wrong_types_are_refused_with_what_was_expected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        build(Outer, {"name": "x", key: value})
    assert str(caught.value).startswith(key)


def test_arguments_of_a_function_are_read_as_it_annotates_them() -> None:
    def make(size: int, limits: int | tuple[int, int] = 3, name: str = "x") -> None: ...

    assert arguments(make, {"size": 1e3, "limits": [2, 4]}) == {"size": 1000, "limits": (2, 4)}
    for options, sentence in (
        ({"size": "many"}, "^here.size must be a whole number, not 'many'"),
        ({"limits": [1]}, r"^here.limits must be a whole number or a list of 2, each a whole number, not \[1\]"),
        ({"nam": "y"}, "^Unknown key 'here.nam'; did you mean 'here.name'"),
        ({"return": 1}, "^Unknown key 'here.return'; did you mean"),
    ):
        with pytest.raises(UserError, match=sentence):
            arguments(make, options, "here")
    with pytest.raises(UserError, match="^Unknown key 'here.size'; there are none here"):
        arguments(lambda: None, {"size": 1}, "here")


def test_an_error_of_the_dataclass_itself_names_the_group() -> None:
    @dataclass(frozen=True)
    class Picky:
        size: int = 1

        def __post_init__(self) -> None:
            if self.size > 3:
                raise ValueError("size is too large.")

    with pytest.raises(UserError, match=r"^model: size is too large"):
        build(Picky, {"size": 4}, where="model")


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Outer,
        name=st.text(),
        flag=st.booleans(),
        sizes=st.lists(st.integers(-(2**53), 2**53)).map(tuple),
        pair=st.tuples(st.integers(-9, 9), st.text()),
        rows=st.lists(st.lists(numbers).map(tuple)).map(tuple),
        limit=st.none() | st.integers(0, 9),
        options=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.lists(numbers)),
        inner=st.builds(Inner, size=st.integers(0, 9), rate=numbers, kind=st.sampled_from(["a", "bc"])),
    )
)
def test_what_is_written_as_json_is_built_again(config: Outer) -> None:
    assert build(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_an_experiment_goes_through_json_unchanged() -> None:
    config = experiment(
        "env=vmas/navigation_8_mixed", "sharing=hyper_mlp_paper", "algorithm=mappo", "seeds=3", "train.run=a"
    )
    assert build(ExperimentConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_settings_that_no_preset_names_are_the_defaults_of_the_code() -> None:
    assert experiment("env=vmas/balance").train == TrainConfig()


def test_config_needs_no_torch() -> None:
    import subprocess

    script = "import sys; from hypermarl import config; config.presets('env'); config.compose(['env=vmas/dispersion'])"
    script += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
