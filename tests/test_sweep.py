"""Sweeps until something starts: what words mean, what is refused, how cells are called, which may join a folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import made, plans

from hypermarl import cli
from hypermarl import config as settings
from hypermarl.completion import complete_sweep
from hypermarl.errors import UserError
from hypermarl.sweep import grid
from hypermarl.sweep.folder import SweepFolder, default_path

GAME = ("env=games/specialisation", "train.frames=320")
FOUR = (*GAME, "sharing=hyper_mlp,shared_id", "seed=0,1")


# --------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "word, values",
    [
        ("seed=0,1,2", ("0", "1", "2")),
        ("seed=range(0,3)", ("0", "1", "2")),
        ("env=games/specialisation,vmas/dispersion", ("games/specialisation", "vmas/dispersion")),
        ("env=my_package.my_module:make,vmas/dispersion", ("my_package.my_module:make", "vmas/dispersion")),
        ("model.actor=[64,64]", ("[64,64]",)),
        ("model.actor=[64,64],[128]", ("[64,64]", "[128]")),
        ("env.options={a:1,b:2}", ("{a:1,b:2}",)),
        ("train.folder='a,b'", ("'a,b'",)),
        ("env.options.name='a,b',c", ("'a,b'", "c")),
        ("train.frames=100_000", ("100_000",)),
        ("algorithm.lr=1e-3,5e-4", ("0.001", "0.0005")),
    ],
)
def test_a_word_is_split_at_the_commas_between_values(word: str, values: tuple[str, ...]) -> None:
    key = word.partition("=")[0]
    found = grid.read([word]).grid
    assert {**{k: (v,) for k, v in found.fixed.items()}, **found.axes} == {key: values}
    assert (key in found.axes) == (len(values) > 1)


def test_the_grid_is_the_product_and_every_cell_has_its_own_settings() -> None:
    _, cells = plans(*GAME, "sharing=hyper_mlp,shared_id", "model.actor=[4],[8,4]", "seed=0,1,2", "train.steps=8")
    seen = {(each.config.sharing.name, each.config.model.actor, each.config.seed) for each in cells}
    assert len(cells) == len(seen) == 12
    assert {("shared_id", (8, 4), 2), ("hyper_mlp", (4,), 0)} <= seen
    assert all(each.config.train.steps == 8 and each.config.train.frames == 320 for each in cells)


def test_seeds_do_not_cost_a_composition_each(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compose = settings.compose
    monkeypatch.setattr(settings, "compose", lambda words, parse: calls.append(words) or compose(words, parse))
    spanned = grid.read([*GAME, "seed=range(0,50)", "sharing=hyper_mlp,shared_id"]).grid
    assert {each.config.seed for each in grid.plans(spanned)} == set(range(50))
    assert len(calls) == 2


def test_words_of_the_sweep_itself_are_no_settings() -> None:
    order = grid.read([*FOUR, "launcher=ray", "jobs=3", "retries=0", "sweep.folder=here"])
    assert order.own == {"launcher": "ray", "jobs": "3", "retries": "0", "sweep.folder": "here"}
    assert len(grid.plans(order.grid)) == 4


def test_completion_goes_on_after_a_comma() -> None:
    assert complete_sweep("sharing=shared_id,hyper_li") == ["sharing=shared_id,hyper_linear"]
    assert complete_sweep("laun") == ["launcher=local", "launcher=ray"]
    assert complete_sweep("sh") == ["sharing="]


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`hypermarl sweep` in an empty folder, in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hypermarl", "sweep", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    "words, parts",
    [
        (["seed=0,1"], ["env="]),
        (["env=games/specialisation,games/specialization", "seed=0,1"], ["specialization", "specialisation"]),
        (["env=games/specialisation,vmas/dispersoin", "seed=0,1"], ["Cell", "vmas/dispersoin", "dispersion"]),
        ([*GAME, "sharing=hyper_mlp,hyper_mpl"], ["Cell sharing=hyper_mpl", "hyper_mlp"]),
        ([*GAME, "algorithm.minibatches=2,99_999"], ["Cell algorithm.minibatches=99999", "rows"]),
        ([*GAME, "env.options.n_agents=4,nine"], ["Cell env.options.n_agents=nine", "n_agents"]),
        ([*GAME, "algorithm.lrr=1,2"], ["Cell algorithm.lrr=1", "algorithm.lr"]),
        ([*GAME, "seed=0,one"], ["seed=one", "whole number"]),
        ([*GAME, "seed=0,0"], ["seed", "0 twice"]),
        ([*GAME, "seed=0,1", "seed=2"], ["seed is given twice"]),
        ([*GAME, "seed=0,1", "seeds=2"], ["seed=0 and seed=1", "seed 1"]),
        ([*GAME, "algorithm.lr=0.001,1e-3"], ["algorithm.lr", "twice"]),
        ([*GAME, "algorithm.lr=1,1.0"], ["algorithm.lr=1 and algorithm.lr=1.0", "same"]),
        ([*GAME, "seed=0,"], ["seed=0,"]),
        ([*GAME, "seed=range(0,20_000)"], ["20,000", "10,000"]),
        ([*GAME, "seed"], ["seed"]),
        ([*GAME, "train.run=x"], ["train.run"]),
        ([*GAME, "train.folder=a,b"], ["train.folder"]),
        ([*GAME, "lancher=ray"], ["lancher", "launcher"]),
        ([*GAME, "launcher=slurm"], ["slurm"]),
        ([*GAME, "jobs=none"], ["jobs", "none"]),
        ([*GAME, "jobs=2", "--jobs", "3"], ["jobs is given twice"]),
        ([*GAME, "device=cuda:99"], ["cuda:99"]),
        ([*GAME, "device=cpu,cuda:1", "launcher=ray"], ["cuda:1", "device=cuda"]),
        (["--resume", "nowhere"], ["nowhere"]),
        ([*GAME, "--resume", "nowhere"], ["nowhere", "leave out"]),
    ],
)
def test_a_mistake_is_named_before_anything_starts(
    say: Callable[..., Any], tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    code, out, err = say(*words)
    assert code == 2 and out == ""
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert all(part in err for part in parts), err
    assert not list(tmp_path.iterdir())


def test_dry_run_lists_the_cells_and_does_nothing(say: Callable[..., Any], tmp_path: Path) -> None:
    code, out, _ = say(*FOUR, "--dry-run")
    assert code == 0 and "specialisation-shared_id-ippo-s1" in out and "4 cells, 1,280 frames" in out
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- folders


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME, "sharing=hyper_mlp,shared_id", "model.actor=[4],[8,4]")
    again = SweepFolder.open(tmp_path / "s")
    assert (again.grid, again.cells, again.token) == (folder.grid, folder.cells, folder.token)
    one = "specialisation-hyper_mlp-ippo-actor_4-s0"
    assert [cell.name for cell in SweepFolder.open(tmp_path / "s", [one]).cells] == [one]


def test_names_tell_cells_apart(tmp_path: Path) -> None:
    words = (*GAME, "algorithm.lr=1e-3,1e-4", "train.steps=8,9", "env.options.n_agents=2,3")
    names = [cell.name for cell in made(tmp_path / "s", *words).cells]
    assert len(set(names)) == 8 and all(re.fullmatch(r"[A-Za-z0-9._-]{1,110}", name) for name in names)
    twins = made(tmp_path / "t", *GAME, "model.actor=[6],[7]", "model.critic=[6],[7]").cells
    assert len({cell.name for cell in twins}) == 4
    folder = made(tmp_path / "v", *GAME, "algorithm.lr=1e-3,1e-4")
    for lr in ("0.1", "0.2"):  # a single value is not in a name
        folder.add(*plans(*GAME, f"algorithm.lr={lr}"))
    assert [cell.name for cell in folder.cells][2:] == [f"specialisation-hyper_mlp-ippo-s0{end}" for end in ("", "-2")]
    odd = made(tmp_path / "u", *GAME, "env.options.n_agents=2,3", "model.activation=relu,tanh").cells[0]
    assert odd.name == "specialisation-hyper_mlp-ippo-n_agents_2-activation_relu-s0"


def test_presets_of_one_environment_are_different_tasks(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", "env=vmas/navigation_2_unique,vmas/navigation_4_unique", "seed=0")
    assert [cell.task for cell in folder.cells] == ["vmas/navigation_2_unique", "vmas/navigation_4_unique"]


def test_the_same_command_finds_the_same_folder_and_another_grid_another() -> None:
    same = default_path(plans(*FOUR)[1])
    assert same == default_path(plans(*reversed(FOUR))[1])
    assert same != default_path(plans(*FOUR, "train.steps=16")[1])
    assert default_path(plans(*FOUR, "train.folder=there")[1]).parent == Path("there")


def test_new_cells_join_and_old_ones_keep_their_names(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *FOUR)
    before = folder.cells.copy()
    assert folder.add(*plans(*GAME, "sharing=shared_id,independent", "seed=1,2")) == 3
    again = SweepFolder.open(tmp_path / "s")
    assert again.cells[:4] == before and len({cell.name for cell in again.cells}) == 7
    assert again.grid.axes == {"sharing": ("hyper_mlp", "shared_id", "independent"), "seed": ("0", "1", "2")}
    assert again.add(*plans(*FOUR)) == 0
    assert again.add(*plans(*FOUR, "algorithm.lr=1e-3,2e-3")) == 4  # 1e-3 is what the preset says: those are known


@pytest.mark.parametrize(
    "words, parts",
    [
        (["train.frames=640"], ["train.frames=320", "train.frames=640"]),
        (["train.frames=320", "algorithm.lr=0.1"], ["without algorithm.lr", "algorithm.lr=0.1"]),
        ([], ["train.frames=320", "not given"]),
    ],
)
def test_cells_with_other_settings_may_not_join(tmp_path: Path, words: list[str], parts: list[str]) -> None:
    folder = made(tmp_path / "s", "env=games/specialisation", "train.frames=320", "seed=0,1")
    before = (tmp_path / "s/sweep.json").read_bytes()
    with pytest.raises(UserError) as caught:
        folder.add(*plans("env=games/specialisation", *words, "seed=0,1,2"))
    assert all(part in str(caught.value) for part in [*parts, "--out"])
    assert (tmp_path / "s/sweep.json").read_bytes() == before
    assert folder.add(*plans("env=games/specialisation", "train.frames=3_2_0", "seed=2")) == 1


@pytest.mark.parametrize(
    "damage, part",
    [
        (lambda text: text[:-40], "cut short"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "newer"),
        (lambda text: "{}", "not written by HyperMARL"),
        (lambda text: "[]", "not written by HyperMARL"),
        (lambda text: text.replace('"grid"', '"grit"'), "damaged"),
    ],
)
def test_a_damaged_sweep_is_refused(tmp_path: Path, damage: Callable[[str], str], part: str) -> None:
    made(tmp_path / "s", *FOUR)
    file = tmp_path / "s/sweep.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=part):
        SweepFolder.open(tmp_path / "s")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/precious").touch()
    with pytest.raises(UserError, match="no sweep of ours"):
        made(tmp_path / "s", *FOUR)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["precious"]


def test_one_process_has_the_lock_and_the_system_takes_it_back(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *FOUR)
    with folder.locked() as ours, folder.locked() as theirs, folder.locked(folder.cells[0].name) as another:
        assert (ours, theirs, another) == (True, False, True)
    with folder.locked() as ours:
        assert ours
