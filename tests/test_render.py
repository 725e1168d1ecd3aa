"""Films have every step of every episode, a caption, and a size that players can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained_run as runs
from scripted_env import CLOCK, ScriptedEnv

from hypermarl.envs.parallel import ParallelView
from hypermarl.errors import UserError
from hypermarl.marl import render as rendering
from hypermarl.marl.render import captioned, film, render_run, save
from hypermarl.marl.settings import EnvConfig

iio = pytest.importorskip("imageio.v3")


class Still:
    """Plays the first thing."""

    def reset(self, agents: list[str], seed: int | None = None) -> None: ...

    def act(self, observations: Any, masks: Any = None) -> dict[str, Any]:
        return {a: int(masks[a].argmax()) if a in masks else np.zeros(2, np.float32) for a in observations}


def scripted() -> ParallelView:
    return ParallelView(ScriptedEnv(1), render_mode="rgb_array")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    runs.make_run(tmp_path / "run", runs.experiment("env=games/specialisation"))
    return tmp_path / "run"


def test_every_step_is_seen_the_first_and_last_too() -> None:
    made = film(Still(), scripted, episodes=2, caption=False)
    assert [int(frame[0, 0, 0]) for frame in made.frames] == [*range(CLOCK + 1)] * 2  # the picture shows its age
    assert made.episodes.lengths.tolist() == [CLOCK, CLOCK]


def test_some_steps_can_be_left_out_but_not_the_ends() -> None:
    made = film(Still(), scripted, caption=False, every=2)
    assert [int(frame[0, 0, 0]) for frame in made.frames] == [0, 2, 4, 5]


def test_the_caption_is_under_the_picture_and_changes() -> None:
    plain = film(Still(), scripted, caption=False).frames
    told = film(Still(), scripted).frames
    assert told[0].shape == (16 + 20, 32, 3)
    for bare, full in zip(plain, told, strict=True):
        np.testing.assert_array_equal(full[:16], bare)
    strips = [captioned(np.zeros((4, 200, 3), np.uint8), f"step {k}")[4:] for k in range(2)]
    assert strips[0].max() > 200  # there is something to read
    assert not np.array_equal(*strips)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_run_is_filmed(run: Path, suffix: str) -> None:
    made = render_run(run, run / "out" / f"team.{suffix}", episodes=2, fps=5)
    frames = iio.imread(made)
    assert made == run / "out" / f"team.{suffix}"
    if suffix == "mp4":
        assert frames.shape[0] == 2 * (10 + 1)
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert frames.std() > 10


def test_a_team_is_filmed_in_the_terms_of_its_film(tmp_path: Path) -> None:
    """The user's own environment numbers actions from 3, the one we film from 0."""
    words = ("env=pettingzoo_toys:Pistons", "env.options.act=shifted")
    runs.make_run(tmp_path / "run", runs.experiment(*words))
    assert render_run(tmp_path / "run", tmp_path / "x.gif").exists()


def test_the_default_place_is_the_runs_own(run: Path) -> None:
    assert render_run(run) == run / "videos" / "000000000640.mp4"


def test_odd_sizes_are_made_even_and_changing_ones_equal(tmp_path: Path) -> None:
    path = save([np.full((31, 45, 3), 200, np.uint8)] * 3, tmp_path / "odd.mp4")
    assert iio.imread(path).shape == (3, 32, 46, 3)
    grown = rendering._of_one_size([np.ones((4, 4, 3), np.uint8), np.ones((6, 5, 3), np.uint8)])
    assert [frame.shape for frame in grown] == [(6, 5, 3)] * 2


def test_a_gif_shows_as_many_frames_a_second_as_asked(tmp_path: Path) -> None:
    frames = [np.full((8, 8, 3), 20 * k, np.uint8) for k in range(4)]
    path = save(frames, tmp_path / "x.gif", fps=5)
    assert iio.imread(path).shape == (4, 8, 8, 3)
    assert iio.immeta(path)["duration"] == 200


@pytest.mark.parametrize(
    ("name", "fps", "words"),
    [("x.avi", 15, "as .mp4 or .gif, not as 'x.avi'"), ("x", 15, "not as 'x'"), ("x.gif", 0, "not 0")],
)
def test_what_cannot_be_written_is_refused_before_playing(run: Path, name: str, fps: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        render_run(run, run / name, fps=fps)
    assert not (run / name).exists()


@pytest.mark.parametrize(("missing", "name"), [("imageio", "x.gif"), ("imageio_ffmpeg", "x.mp4")])
def test_a_missing_package_is_named(run: Path, monkeypatch: pytest.MonkeyPatch, missing: str, name: str) -> None:
    monkeypatch.setattr(rendering, "find_spec", lambda package: None if package == missing else object())
    with pytest.raises(UserError, match=rf"needs {missing}: pip install 'hypermarl\[video\]'"):
        render_run(run, run / name)


def test_a_run_of_another_environment_is_not_filmed(run: Path) -> None:
    with pytest.raises(UserError, match="cannot play games/specialisation"):
        render_run(run, env=EnvConfig("games", "specialisation", options={"n_agents": 3}))


def test_environments_without_pictures_are_named() -> None:
    with pytest.raises(UserError, match="gives no pictures"):
        film(Still(), lambda: ParallelView(ScriptedEnv(1)))

    class Sketch(ScriptedEnv):
        def render(self) -> np.ndarray:
            return np.zeros((4, 4))

    with pytest.raises(UserError, match=r"uint8 \[H, W, 3\], not float64 \[4, 4\]"):
        film(Still(), lambda: ParallelView(Sketch(1), render_mode="rgb_array"))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        save([np.zeros((4, 4, 3), np.uint8)], tmp_path / "file" / "x.gif")
    with pytest.raises(UserError, match="nothing to see"):
        save([], tmp_path / "x.gif")
