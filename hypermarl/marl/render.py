"""Watch a team: episodes as mp4 or gif, with a strip that tells the step and the team return.

Letters: `F` frames, `H` and `W` height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermarl import envs
from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import Episodes
from hypermarl.evaluation.pettingzoo import Player, evaluate
from hypermarl.marl.settings import EnvConfig
from hypermarl.marl.team import Team, load

SUFFIXES = (".mp4", ".gif")
_STRIP = 20  # pixels
_PACKAGES = {".mp4": ("imageio", "imageio_ffmpeg"), ".gif": ("imageio",)}

Frame = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Film:
    """All frames of some episodes, one after another, and how the episodes went."""

    frames: list[Frame]
    episodes: Episodes


def film(
    player: Player,
    make_env: Callable[[], Any],
    episodes: int = 1,
    seed: int = 0,
    *,
    caption: bool = True,
    every: int = 1,
) -> Film:
    """Play and look: `make_env` gives a ParallelEnv whose `render()` returns `[H, W, 3]` pictures.

    `every` keeps only each so many-th step, the first and last of an episode aside.
    """
    frames: list[Frame] = []

    def watch(env: Any, step: int, rewards: Mapping[str, float]) -> None:
        if step % every and env.agents:
            return
        picture = env.render()
        if picture is None:
            raise UserError("This environment gives no pictures: its render() returned nothing.")
        picture = _as_frame(picture)
        team = float(np.mean(list(rewards.values()))) if rewards else 0.0
        frames.append(captioned(picture, f"step {step}   team return {team:.2f}") if caption else picture)

    def make() -> Any:
        env = make_env()
        if isinstance(player, Team):
            player.attach(env)
        return env

    played = evaluate(player, make, episodes, seed, watch=watch)
    return Film(_of_one_size(frames), played)


def render_run(
    path: str | Path,
    output: str | Path | None = None,
    *,
    env: EnvConfig | None = None,
    episodes: int = 1,
    seed: int = 0,
    run_seed: int | None = None,
    fps: int = 15,
    greedy: bool = True,
    caption: bool = True,
    device: str = "cpu",
) -> Path:
    """A film of a run's team at `output` (`.mp4` or `.gif`; default RUN/videos/<frame>.mp4)."""
    from hypermarl.marl.evaluate import admit

    chosen = Path(output) if output is not None else None
    check_video(chosen or Path("film.mp4"), fps)
    team = load(path, run_seed, device, greedy=greedy)
    target = chosen or default_path(team)
    place = env or team.config.env
    admit(team, place)

    def make_env() -> Any:
        return envs.make_parallel(
            place.kind, place.name, max_steps=place.max_steps, options=place.options, render_mode="rgb_array"
        )

    return save(film(team, make_env, episodes, seed, caption=caption).frames, target, fps)


def default_path(team: Team) -> Path:
    """Where a run's film goes if nobody says."""
    assert team.folder is not None
    assert team.checkpoint is not None
    return team.folder.path / "videos" / f"{team.checkpoint.frame:012d}.mp4"


def check_video(path: Path, fps: int = 15) -> None:
    """Refuse before anything is played what could not be written afterwards."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"A film is written as {' or '.join(SUFFIXES)}, not as {path.name!r}.")
    if fps < 1:
        raise UserError(f"A film needs at least one frame per second, not {fps}.")
    for package in _PACKAGES[path.suffix.lower()]:
        if find_spec(package) is None:
            raise UserError(f"Rendering {path.suffix} needs {package}: pip install 'hypermarl[video]'.")


def save(frames: list[Frame], path: str | Path, fps: int = 15) -> Path:
    """Write frames of one size as mp4 or gif, by the suffix."""
    target = Path(path)
    check_video(target, fps)
    import imageio.v2 as imageio

    if not frames:
        raise UserError(f"There is nothing to see: no frame for {target}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() == ".gif":
            imageio.mimwrite(target, frames, duration=1000 / fps, loop=0)  # type: ignore[arg-type]
        else:
            even = [_even(frame) for frame in frames]
            imageio.mimwrite(target, even, fps=fps, codec="libx264", macro_block_size=1, quality=8)  # type: ignore[arg-type]
    except OSError as fault:
        raise UserError(f"Cannot write {target}: {fault.strerror or fault}.") from None
    return target


def captioned(frame: Frame, text: str) -> Frame:
    """The picture with a dark strip of text under it, `[H + 20, W, 3]`; without Pillow, the picture as it is."""
    if find_spec("PIL") is None:
        return frame
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (frame.shape[1], _STRIP), (24, 24, 28))
    ImageDraw.Draw(strip).text((6, 4), text, fill=(235, 235, 235))
    return np.concatenate([frame, np.asarray(strip, dtype=np.uint8)])


def _as_frame(picture: Any) -> Frame:
    frame = np.asarray(picture)
    if frame.ndim != 3 or frame.shape[2] not in (3, 4) or frame.dtype != np.uint8:
        raise UserError(f"render() should give uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}.")
    return np.ascontiguousarray(frame[..., :3])


def _of_one_size(frames: list[Frame]) -> list[Frame]:
    """Films have one size; a window that changed its size is padded with black."""
    height = max((frame.shape[0] for frame in frames), default=0)
    width = max((frame.shape[1] for frame in frames), default=0)
    return [_padded(frame, height, width) for frame in frames]


def _even(frame: Frame) -> Frame:
    """The common encoding of mp4 wants even sizes."""
    return _padded(frame, frame.shape[0] + frame.shape[0] % 2, frame.shape[1] + frame.shape[1] % 2)


def _padded(frame: Frame, height: int, width: int) -> Frame:
    if frame.shape[:2] == (height, width):
        return frame
    return np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)))
