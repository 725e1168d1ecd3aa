"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from full_disk import limited_files
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from hypermarl.monitoring import events


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_scalars_arrive_as_they_were_given_even_nan(tmp_path: Path) -> None:
    file = events.EventFile(tmp_path)
    file.add(7, events.scalars({"a/b": 1.5, "a/c": -2.0}))
    file.add(2**40, events.scalars({"a/b": math.nan, "a/c": math.inf}))
    # Not closed: what was added is on its way to the disk.
    assert points(tmp_path, "a/c") == [(7, -2.0), (2**40, math.inf)]
    (first, one), (second, two) = points(tmp_path, "a/b")
    assert (first, one, second) == (7, 1.5, 2**40)
    assert math.isnan(two)
    file.close()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = events.EventFile(tmp_path)
    for step in (10, 20, 30, 40):
        first.add(step, events.scalars({"x": step}))
    second = events.EventFile(tmp_path, resumed_after=20)
    assert second.path.name > first.path.name  # within the same second
    second.add(30, events.scalars({"x": 300}))
    assert points(tmp_path, "x") == [(10, 10), (20, 20), (30, 300)]


def test_a_tensorboard_that_is_open_meanwhile_forgets_too(tmp_path: Path) -> None:
    first = events.EventFile(tmp_path)
    for step in (10, 20, 30, 40):
        first.add(step, events.scalars({"x": step}))
    board = read(tmp_path)
    assert len(board.Scalars("x")) == 4
    events.EventFile(tmp_path, resumed_after=20).add(30, events.scalars({"x": 300}))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("x")] == [(10, 10), (20, 20), (30, 300)]


@pytest.mark.parametrize("tail", [b"", b"\x20", b"\x20\0\0\0\0\0\0\0half a rec", b"\xff" * 40, b"\0" * 40])
def test_nothing_is_left_of_what_a_resumed_run_forgot(tmp_path: Path, tail: bytes) -> None:
    """For readers that know nothing of restarts, such as TensorBoard's own fast one."""
    first = events.EventFile(tmp_path)
    for step in (10, 20, 30):
        first.add(step, events.scalars({f"at/{step}": 1.0}))
    with first.path.open("ab") as file:
        file.write(tail)
    events.EventFile(tmp_path, resumed_after=20)
    content = first.path.read_bytes()
    assert b"at/30" not in content
    assert not tail or not content.endswith(tail)
    assert EventAccumulator(str(first.path)).Reload().Tags()["scalars"] == ["at/10", "at/20"]


def test_a_run_resumed_from_its_beginning_forgets_everything_else(tmp_path: Path) -> None:
    events.EventFile(tmp_path).add(10, events.scalars({"x": 1}))
    events.EventFile(tmp_path, resumed_after=0).add(20, events.scalars({"x": 2}))
    assert points(tmp_path, "x") == [(20, 2)]


def test_a_continued_run_forgets_nothing(tmp_path: Path) -> None:
    events.EventFile(tmp_path).add(10, events.scalars({"x": 1}))
    events.EventFile(tmp_path).add(5, events.scalars({"y": 2}))
    assert points(tmp_path, "x") == [(10, 1)]
    assert points(tmp_path, "y") == [(5, 2)]


def test_a_failed_record_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = events.EventFile(tmp_path)
    file.add(1, events.scalars({"x": 1}))
    size = file.path.stat().st_size
    with limited_files(size + 20), pytest.raises(OSError, match="large"):
        file.add(2, events.scalars({"x": 2}))
    assert file.path.stat().st_size == size
    file.add(3, events.scalars({"x": 3}))
    assert points(tmp_path, "x") == [(1, 1), (3, 3)]


def test_write_all_puts_back_what_it_overwrote(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"head,tail")
    with path.open("r+b", buffering=0) as file:
        with limited_files(12), pytest.raises(OSError, match="large"):
            events.write_all(file, b"something longer", 5)
        assert path.read_bytes() == b"head,tail"
        events.write_all(file, b"new", 5)
        assert path.read_bytes() == b"head,new"


def test_a_histogram_counts_every_finite_value(tmp_path: Path) -> None:
    values = np.concatenate([np.linspace(-1, 3, 1000), [np.nan, np.inf]])
    summary = events.histogram("h", values)
    assert summary is not None
    events.EventFile(tmp_path).add(1, summary)
    (event,) = read(tmp_path).Histograms("h")
    found = event.histogram_value
    assert (found.min, found.max, found.num) == (-1, 3, 1000)
    assert sum(found.bucket) == 1000
    assert found.sum == pytest.approx(1000.0)
    # Half of the values lie below the middle.
    below = sum(count for limit, count in zip(found.bucket_limit, found.bucket, strict=True) if limit <= 1.0)
    assert below == pytest.approx(500, abs=20)
    assert found.bucket_limit[0] == -1
    assert found.bucket[0] == 0


def test_there_is_no_histogram_of_nothing() -> None:
    assert events.histogram("h", np.array([np.nan, np.inf])) is None
    assert events.histogram("h", np.array([])) is None


def test_a_histogram_of_equal_values(tmp_path: Path) -> None:
    summary = events.histogram("h", np.zeros(5))
    assert summary is not None
    events.EventFile(tmp_path).add(1, summary)
    assert sum(read(tmp_path).Histograms("h")[0].histogram_value.bucket) == 5


def test_text_keeps_every_letter(tmp_path: Path) -> None:
    events.EventFile(tmp_path).add(0, events.text("config", "naïve: `x`\n"))
    (event,) = read(tmp_path).Tensors("config")
    assert event.tensor_proto.string_val[0].decode() == "naïve: `x`\n"


def frames_of(image: Image.Image) -> list[Image.Image]:
    found = []
    for place in range(getattr(image, "n_frames", 1)):
        image.seek(place)
        found.append(image.convert("RGB"))
    return found


def test_an_animation_shows_its_frames_in_order_and_time(tmp_path: Path) -> None:
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    frames = np.stack([np.full((6, 8, 3), colour, np.uint8) for colour in colours])
    events.EventFile(tmp_path).add(4, events.animation("v", frames, fps=10, width=100, length=100))
    (event,) = read(tmp_path).Images("v")
    assert (event.step, event.width, event.height) == (4, 8, 6)
    gif = Image.open(io.BytesIO(event.encoded_image_string))
    assert gif.format == "GIF"
    assert gif.info["duration"] == 100
    assert gif.info["loop"] == 0
    np.testing.assert_allclose([frame.getpixel((3, 3)) for frame in frames_of(gif)], colours, atol=12)


def test_a_long_large_animation_is_thinned_and_shrunk() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (25, 40, 80, 3), np.uint8)
    summary = events.animation("v", frames, fps=10, width=20, length=10)
    image = Image.open(io.BytesIO(summary.value[0].image.encoded_image_string))
    assert image.size == (20, 10)
    assert image.n_frames == 9  # every third
    assert image.info["duration"] == 300


def test_what_stands_still_in_an_animation_does_not_flicker() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4, 32, 32, 3), np.uint8)
    frames[:, :16] = frames[0, :16]
    summary = events.animation("v", frames, fps=10, width=100, length=100)
    gif = Image.open(io.BytesIO(summary.value[0].image.encoded_image_string))
    upper = [np.asarray(frame)[:16] for frame in frames_of(gif)]
    assert all(np.array_equal(frame, upper[0]) for frame in upper)


def test_the_projector_reads_its_config_and_sprites() -> None:
    entries = [('a "b"\n', "e/1.tsv", "e/l.tsv", "e/l.png"), ("é", "e/2.tsv", "e/l.tsv", "e/l.png")]
    config = text_format.Parse(events.projector(entries), ProjectorConfig())
    found = [(e.tensor_name, e.tensor_path, e.metadata_path, e.sprite.image_path) for e in config.embeddings]
    assert found == entries
    assert list(config.embeddings[0].sprite.single_image_dim) == [events.SPRITE, events.SPRITE]

    sheet = Image.open(io.BytesIO(events.sprites([f"agent_{i}" for i in range(5)])))
    assert sheet.size == (3 * events.SPRITE, 3 * events.SPRITE)
    corner = events.SPRITE // 2, 6  # of a disc, beside its number
    places = [(x * events.SPRITE + corner[0], y * events.SPRITE + corner[1]) for y in range(3) for x in range(3)]
    colours = [sheet.getpixel(place) for place in places]
    assert len(set(colours[:5])) == 5
    assert [colour[3] for colour in colours] == [255] * 5 + [0] * 4


def test_hyperparameters_keep_their_types(tmp_path: Path) -> None:
    settings: dict[str, bool | int | float | str] = {"on": True, "lr": 5e-4, "n": 4, "env": "vmas"}
    file = events.EventFile(tmp_path)
    file.add(0, events.session_start(settings))
    file.add(9, events.session_end())
    tags = read(tmp_path).PluginTagToContent("hparams")
    start = hparams_metadata.parse_session_start_info_plugin_data(tags[hparams_metadata.SESSION_START_INFO_TAG])
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert found == settings
    assert json.dumps(found["on"]) == "true"
    end = hparams_metadata.parse_session_end_info_plugin_data(tags[hparams_metadata.SESSION_END_INFO_TAG])
    assert end.status == events.STATUS_SUCCESS
