"""What a run leaves behind for TensorBoard and for tables, read back."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import fast_disk, limited_files
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from hypermarl.errors import UserError
from hypermarl.monitoring.monitor import KEPT_EMBEDDINGS, Monitor, flatten

AGENTS = ("walker", "runner", "agent_7")


@pytest.fixture(autouse=True, scope="module")
def _fast() -> Iterator[None]:
    with fast_disk():
        yield


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def projector(folder: Path) -> list[tuple[str, Path]]:
    """Name and file of the embeddings, in the order in which TensorBoard's page lists them."""
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    for entry in config.embeddings:
        assert (folder / entry.metadata_path).is_file()
        assert (folder / entry.sprite.image_path).is_file()
    return sorted((entry.tensor_name, folder / entry.tensor_path) for entry in config.embeddings)


def test_scalars_go_to_the_events_and_to_the_table(tmp_path: Path) -> None:
    with Monitor(tmp_path / "new" / "run", labels=AGENTS) as monitor:
        monitor.scalars(64, {"return/team": 1.5, "loss/policy": torch.tensor(-0.25), "steps": np.int64(3)})
        monitor.scalars(64, {"return": torch.tensor([1.0, math.nan, 3.0])})
        monitor.scalars(128, {"return/team": 2.5})
        monitor.scalars(128, {})
    folder = tmp_path / "new" / "run"
    assert points(folder, "return/team") == [(64, 1.5), (128, 2.5)]
    assert points(folder, "return/agent_7") == [(64, 3.0)]
    assert math.isnan(points(folder, "return/runner")[0][1])
    assert rows(folder) == [
        {
            "frame": "64",
            "return/team": "1.5",
            "loss/policy": "-0.25",
            "steps": "3",
            "return/walker": "1.0",
            "return/runner": "nan",
            "return/agent_7": "3.0",
        },
        {"frame": "128", "return/team": "2.5"},
    ]


def test_a_vector_must_have_one_entry_per_agent(tmp_path: Path) -> None:
    with Monitor(tmp_path, labels=AGENTS) as monitor, pytest.raises(ValueError, match="return"):
        monitor.scalars(0, {"return": torch.ones(2)})


def test_without_tensorboard_there_is_only_the_table(tmp_path: Path) -> None:
    with Monitor(tmp_path, tensorboard=False, labels=AGENTS) as monitor:
        monitor.scalars(1, {"x": 1.0})
        monitor.text("a: 1")
        monitor.histograms(1, {"w": torch.ones(3, 2)})
        monitor.embeddings(1, torch.ones(3, 2))
        monitor.video(1, np.zeros((2, 4, 4, 3), np.uint8))
        monitor.hparams({"a": 1}, {"return": 2.0}, frame=1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert rows(tmp_path) == [{"frame": "1", "x": "1.0", "Final/return": "2.0"}]


def test_a_resumed_run_leaves_no_trace_of_what_it_forgot(tmp_path: Path) -> None:
    first = Monitor(tmp_path, labels=AGENTS)
    for frame in (0, 10, 20, 30):
        first.embeddings(frame, torch.full((3, 4), float(frame)))
        first.scalars(frame, {"x": frame})
        first.histograms(frame, {"w": torch.ones(3)})
    # Killed: never closed.
    with Monitor(tmp_path, labels=AGENTS, purge_step=10) as second:
        assert [row["frame"] for row in rows(tmp_path)] == ["0", "10"]
        assert [name for name, _ in projector(tmp_path)] == [
            "agents (latest, frame 10)",
            "agents at frame 000000000000",
        ]
        second.scalars(20, {"x": 200})
    assert points(tmp_path, "x") == [(0, 0), (10, 10), (20, 200)]
    assert [event.step for event in read(tmp_path).Histograms("weights/w")] == [0, 10]
    assert [(row["frame"], row["x"]) for row in rows(tmp_path)] == [("0", "0"), ("10", "10"), ("20", "200")]


def test_seeds_write_apart(tmp_path: Path) -> None:
    monitors = [Monitor(tmp_path / f"seed_{seed}") for seed in range(2)]
    for seed, monitor in enumerate(monitors):
        monitor.scalars(5, {"x": seed})
    assert [points(tmp_path / f"seed_{seed}", "x") for seed in range(2)] == [[(5, 0.0)], [(5, 1.0)]]


def test_histograms_hold_all_agents_and_survive_nan(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        weights = torch.randn(3, 4, 5, requires_grad=True)
        monitor.histograms(1, {"0.weight": weights, "bad": torch.full((3,), math.nan)})
    accumulator = read(tmp_path)
    assert accumulator.Tags()["histograms"] == ["weights/0.weight"]
    assert accumulator.Histograms("weights/0.weight")[0].histogram_value.num == 60


def test_the_config_is_shown_letter_by_letter(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.text("env:\n  name: a*b*c\n")
    (event,) = read(tmp_path).Tensors("config")
    assert event.tensor_proto.string_val[0].decode() == "    env:\n      name: a*b*c"


def test_embeddings_can_be_opened_in_the_projector(tmp_path: Path) -> None:
    with Monitor(tmp_path, labels=AGENTS) as monitor:
        table = torch.tensor([[1.0, math.nan], [2.5, -1e-7], [0.0, 4.0]], requires_grad=True)
        monitor.embeddings(7, table)
        monitor.embeddings(7, torch.randn(2, 5), ["good\tone", "bad"], name="group/critic")
    listed = dict(projector(tmp_path))
    assert list(listed) == ["agents (latest, frame 7)", "group_critic (latest, frame 7)"]
    # At least three components; NaN would leave the page empty.
    assert listed["agents (latest, frame 7)"].read_text() == "1\t0\t0\n2.5\t-1e-07\t0\n0\t4\t0\n"
    assert (tmp_path / "embeddings" / "agents-labels.tsv").read_text() == "walker\nrunner\nagent_7\n"
    assert (tmp_path / "embeddings" / "group_critic-labels.tsv").read_text() == "good one\nbad\n"


def test_the_first_and_the_latest_embeddings_are_kept_the_latest_first(tmp_path: Path) -> None:
    with Monitor(tmp_path, labels=AGENTS) as monitor:
        monitor.embeddings(300, torch.ones(3, 3), name="critic")
        for frame in range(5, 600, 50):
            monitor.embeddings(frame, torch.full((3, 3), float(frame)))
    listed = projector(tmp_path)
    assert [name for name, _ in listed if name.startswith("critic")] == ["critic (latest, frame 300)"]
    listed = [(name, path) for name, path in listed if name.startswith("agents")]
    assert len(listed) == KEPT_EMBEDDINGS
    assert listed[0][0] == "agents (latest, frame 555)"
    assert listed[0][1].read_text().startswith("555\t")
    assert listed[1][0] == "agents at frame 000000000005"
    assert sorted(path for _, path in listed) == sorted((tmp_path / "embeddings").glob("agents-0*.tsv"))


def test_embeddings_and_labels_must_agree(tmp_path: Path) -> None:
    with Monitor(tmp_path, labels=AGENTS) as monitor, pytest.raises(ValueError, match="3"):
        monitor.embeddings(0, torch.ones(2, 4))


def test_a_video_must_be_bytes_with_three_colours(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        for bad in (np.zeros((2, 4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 3, 4, 4), np.uint8)):
            with pytest.raises(ValueError, match="T, H, W, 3"):
                monitor.video(0, bad)  # type: ignore[arg-type]
        monitor.video(3, torch.zeros(2, 4, 6, 3, dtype=torch.uint8))
    (event,) = read(tmp_path).Images("video/evaluation")
    assert (event.step, event.width, event.height) == (3, 6, 4)


def test_hparams_are_there_from_the_start_and_get_their_result(tmp_path: Path) -> None:
    config = {"env": {"name": "dispersion", "options": {"n": 4}}, "lr": 5e-4, "anneal": False, "folder": None}
    with Monitor(tmp_path) as monitor:
        monitor.hparams(config)
        started = read(tmp_path).PluginTagToContent("hparams")
        assert hparams_metadata.SESSION_END_INFO_TAG not in started
        monitor.hparams(config, {"return": -0.5, "return_low": math.nan}, frame=900)
    tags = read(tmp_path).PluginTagToContent("hparams")
    assert hparams_metadata.SESSION_END_INFO_TAG in tags
    # With a list of columns of its own, a run would hide the columns of other runs.
    assert hparams_metadata.EXPERIMENT_TAG not in tags
    start = hparams_metadata.parse_session_start_info_plugin_data(started[hparams_metadata.SESSION_START_INFO_TAG])
    assert set(start.hparams) == {"env.name", "env.options.n", "lr", "anneal"}
    assert points(tmp_path, "Final/return") == [(900, -0.5)]


def test_flatten_keeps_what_a_table_can_show() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [64, 64]}, "e": True, "f": None, "g": "x", "h": {}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": "[64, 64]", "e": True, "g": "x"}


def test_close_may_be_called_again_and_ends_it(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    monitor.scalars(0, {"x": 1.0})
    monitor.close()
    monitor.close()
    with pytest.raises(ValueError, match="closed"):
        monitor.scalars(1, {"x": 1.0})
    with pytest.raises(ValueError, match="closed"):
        monitor.text("a")
    assert len(rows(tmp_path)) == 1
    unused = Monitor(tmp_path / "unused")
    unused.close()
    with pytest.raises(ValueError, match="closed"):
        unused.text("a")
    assert not any((tmp_path / "unused").iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file[/\\]run: Not a directory") as caught:
        Monitor(tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, labels=AGENTS)
    monitor.embeddings(0, torch.ones(3, 3))
    monitor.scalars(0, {"x": 1.0})
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    with limited_files(40):
        for write in (
            lambda: monitor.scalars(10, {"y": 2.0, "z": 1 / 3}),
            lambda: monitor.embeddings(10, torch.randn(3, 3)),
            lambda: monitor.video(10, pixels),
        ):
            with pytest.raises(UserError, match="cannot be written"):
                write()
    monitor.scalars(20, {"x": 3.0})
    monitor.close()
    assert points(tmp_path, "x") == [(0, 1.0), (20, 3.0)]
    assert rows(tmp_path) == [{"frame": "0", "x": "1.0"}, {"frame": "20", "x": "3.0"}]
    assert [name for name, _ in projector(tmp_path)] == ["agents (latest, frame 0)"]
