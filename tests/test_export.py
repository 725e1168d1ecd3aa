"""Exported files hold one agent's plain network each, and play as the team does."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_run as runs

from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.errors import UserError
from hypermarl.marl import export as exporting
from hypermarl.marl.export import export, plain
from hypermarl.marl.policy import build_policy
from hypermarl.marl.team import Team, load

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CHOICE = {"team": Group("team", ("a", "b/c"), 5, Discrete(4))}
BOX = {"team": Group("team", ("a", "b/c"), 5, Continuous((-1.0, 0.0), (1.0, 10.0)))}
Run = Callable[..., list[np.ndarray]]
ROWS = [
    pytest.param((CHOICE, ("sharing=hyper_mlp", "model.activation=tanh")), id="hyper_mlp"),
    pytest.param((CHOICE, ("sharing=shared_id",)), id="shared_id"),
    pytest.param((CHOICE, ("sharing=independent", "model.activation=elu")), id="independent"),
    pytest.param((BOX, ("sharing=hyper_low_rank", "model.activation=gelu")), id="normal"),
    pytest.param((BOX, ("sharing=hyper_linear", "model.distribution=tanh_normal", "model.activation=silu")), id="tanh"),
    pytest.param((CHOICE, ("sharing=hyper_mlp", "model=gru")), id="gru"),
    pytest.param((CHOICE, ("sharing=shared_id", "model=gru", "model.body=generated")), id="gru shared_id"),
]


def team_of(*words: str, groups: dict[str, Group] = CHOICE) -> Team:
    config = runs.experiment("env=games/specialisation", *words)
    return Team(config, {name: runs.stirred(build_policy(config, groups, name, 0), 3) for name in groups})


def run_pt2(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    found = torch.export.load(path).module()(*(torch.from_numpy(x) for x in inputs))
    return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]


def run_onnx(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([place.name for place in session.get_inputs()], inputs, strict=True)))


@dataclass
class Exported:
    team: Team
    folder: Path
    groups: dict[str, Group]
    recurrent: bool


@pytest.fixture(scope="module", params=ROWS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    groups, words = request.param
    folder = tmp_path_factory.mktemp("exported")
    team = team_of(*words, groups=groups)
    export(team, folder, output="logits")
    return Exported(team, folder, groups, "model=gru" in words)


@pytest.mark.parametrize("suffix, run", [("pt2", run_pt2), ("onnx", run_onnx)])
def test_exported_networks_play_as_the_team(exported: Exported, suffix: str, run: Run) -> None:
    rng = np.random.default_rng(0)
    for agent, stem in (("a", "a"), ("b/c", "b_c")):
        exported.team.reset()
        memory = [np.zeros((1, 6), np.float32)] * exported.recurrent
        for _ in range(3):
            x = rng.normal(size=(1, 5)).astype(np.float32)
            given = exported.team.parameters({agent: x[0]})[agent]
            logits, *memory = run(exported.folder / f"{stem}.{suffix}", x, *memory)
            np.testing.assert_allclose(logits[0], given.get("logits", given.get("loc")), atol=1e-6, rtol=1e-6)


def test_no_hypernetwork_is_left(exported: Exported) -> None:
    """Every number in the files is a weight of the plain network."""
    last = [(8, 8), (8, 4 if exported.groups is CHOICE else 2)]
    sizes = [(5, 6), (6, 18), (6, 18), (6, 8), *last] if exported.recurrent else [(5, 8), *last]
    wanted = sum(i * o + o for i, o in sizes)
    assert sum(p.numel() for p in plain(exported.team, "a").parameters()) == wanted
    model = onnx.load(exported.folder / "a.onnx")
    assert sum(int(np.prod(place.dims)) for place in model.graph.initializer) == wanted
    state = torch.export.load(exported.folder / "a.pt2").state_dict
    assert sum(tensor.numel() for tensor in state.values()) == wanted
    assert json.loads((exported.folder / "a.json").read_text())["parameters"] == wanted


@pytest.mark.parametrize("suffix, run", [("pt2", run_pt2), ("onnx", run_onnx)])
def test_any_batch_size_runs(exported: Exported, suffix: str, run: Run) -> None:
    x = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    memory = [np.ones((7, 6), np.float32)] * exported.recurrent
    whole = run(exported.folder / f"a.{suffix}", x, *memory)
    one = run(exported.folder / f"a.{suffix}", x[4:5], *(part[4:5] for part in memory))
    for part, single in zip(whole, one, strict=True):
        np.testing.assert_allclose(part[4], single[0], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("words", [("sharing=shared_id",), ("sharing=hyper_mlp", "model=gru")], ids=["mlp", "gru"])
@pytest.mark.parametrize("groups", [CHOICE, BOX], ids=["discrete", "continuous"])
def test_greedy_actions_are_the_teams(tmp_path: Path, groups: dict[str, Group], words: tuple[str, ...]) -> None:
    team = team_of(*words, groups=groups)
    export(team, tmp_path, formats=["onnx"], agents=["b/c"])
    memory = [np.zeros((1, 6), np.float32)] * ("model=gru" in words)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.normal(size=(1, 5)).astype(np.float32)
        action, *memory = run_onnx(tmp_path / "b_c.onnx", x, *memory)
        np.testing.assert_allclose(action[0], team.act({"b/c": x[0]})["b/c"], atol=1e-5)


def test_actions_are_inside_the_box(tmp_path: Path) -> None:
    export(team_of(groups=BOX), tmp_path, formats=["onnx"])
    x = np.random.default_rng(1).normal(scale=50, size=(200, 5)).astype(np.float32)
    (actions,) = run_onnx(tmp_path / "a.onnx", x)
    assert actions.min(0).tolist() == [-1.0, 0.0]
    assert actions.max(0).tolist() == [1.0, 10.0]


def test_the_description_tells_what_a_user_needs(tmp_path: Path) -> None:
    config = runs.experiment("env=games/specialisation", "model=gru")
    runs.make_run(tmp_path / "run", config, BOX)
    written = export(load(tmp_path / "run"), tmp_path / "out", output="action")
    assert sorted(path.name for path in written) == sorted(
        f"{stem}.{s}" for stem in ("a", "b_c") for s in ("pt2", "onnx", "json")
    )
    told = json.loads((tmp_path / "out" / "b_c.json").read_text())
    assert (told["agent"], told["group"], told["environment"]) == ("b/c", "team", "games/specialisation")
    assert (told["inputs"], told["outputs"]) == (["observation", "memory"], ["action", "memory_after"])
    assert (told["observation"], told["memory"]) == (5, 6)
    assert told["action"]["kind"] == "continuous"
    assert (told["action"]["low"], told["action"]["high"]) == ([-1.0, 0.0], [1.0, 10.0])
    log_std = load(tmp_path / "run").weights("b/c")["log_std"]
    np.testing.assert_allclose(told["action"]["log_std"], log_std.numpy())
    checkpoint = tmp_path / "run" / "checkpoints" / "000000000640" / "policy.safetensors"
    assert told["checkpoint"] == {"frame": 640, "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    for entry in told["files"].values():
        assert hashlib.sha256((tmp_path / "out" / entry["name"]).read_bytes()).hexdigest() == entry["sha256"]
    model = onnx.load(tmp_path / "out" / "b_c.onnx")
    assert [place.name for place in model.graph.input] == told["inputs"]
    assert [place.name for place in model.graph.output] == told["outputs"]


def test_files_tell_nothing_of_this_machine(tmp_path: Path) -> None:
    export(team_of("model=gru"), tmp_path, agents=["a"])
    here = str(Path(exporting.__file__).parent).encode()
    assert here not in (tmp_path / "a.onnx").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        assert not any(here in archive.read(name) for name in archive.namelist())


def test_newcomers_are_exported_too(tmp_path: Path) -> None:
    team = team_of("sharing=shared_id")
    team.add("new", like={"a": 0.3, "b/c": 0.7})
    export(team, tmp_path, agents=["new"], formats=["onnx"], output="logits")
    x = np.random.default_rng(2).normal(size=(1, 5)).astype(np.float32)
    np.testing.assert_allclose(
        run_onnx(tmp_path / "new.onnx", x)[0][0], team.parameters({"new": x[0]})["new"]["logits"], atol=1e-6
    )


def test_names_that_look_alike_get_files_of_their_own(tmp_path: Path) -> None:
    groups = {"team": Group("team", ("x/1", "x.1"), 5, Discrete(4))}
    written = export(team_of(groups=groups), tmp_path, formats=["pt2"])
    assert len({path.name for path in written}) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"formats": ["torchscript"]}, "no export format 'torchscript', only pt2 and onnx"),
        ({"agents": ["ghost"]}, "no agent ghost"),
        ({"output": "value"}, "'action' or 'logits', not 'value'"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        export(team_of(), tmp_path / "out", **arguments)


def test_a_missing_package_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'hypermarl\[export\]'"):
        export(team_of(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        export(team_of(), tmp_path / "file" / "out", formats=["pt2"])
