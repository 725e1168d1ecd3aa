"""Run folders: whatever happens while writing, the last good state can be read, and bad folders get a sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from hypermarl import runs
from hypermarl.errors import UserError
from hypermarl.runs import RunFolder, unused


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"seed": 3, "model": {"actor": (64, 64)}}, {"agents": {"size": 4}})


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 5), value), "step": torch.tensor(7), "empty": torch.zeros(0, 2)}


def save(run: RunFolder, frame: int, value: float = 1.0) -> runs.Checkpoint:
    return run.save(
        frame, frame // 10, policy=tensors(value), optimizer=tensors(-value), meta={"rng": "abc", "lr": 0.5}
    )


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_what_was_created_is_opened(run: RunFolder) -> None:
    again = RunFolder.open(run.path)
    assert again.config == {"seed": 3, "model": {"actor": [64, 64]}}
    assert again.groups == {"agents": {"size": 4}}
    assert again.versions["torch"].startswith("2.")


def test_tensors_come_back_bit_for_bit_with_type_and_shape(run: RunFolder) -> None:
    shared = torch.randn(4, 6, dtype=torch.float64)
    policy = {
        "view": shared[:, 2:4],
        "whole": shared,
        "transposed": shared.T,
        "alias": shared,
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "rng": torch.get_rng_state(),
        "flag": torch.tensor([True, False]),
        "nan": torch.tensor([float("nan"), float("inf")]),
        "half": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(4),
    }
    run.save(10, 1, policy=policy, state={})
    latest = RunFolder.open(run.path).latest()
    assert latest is not None
    loaded = run.load(latest)
    assert set(loaded) == {"policy", "state"} and loaded["state"] == {}
    for name, tensor in policy.items():
        torch.testing.assert_close(loaded["policy"][name], tensor.detach(), rtol=0, atol=0, equal_nan=True)
    loaded["policy"]["whole"].add_(1)  # writable memory of its own


def test_meta_and_parts_come_back(run: RunFolder) -> None:
    checkpoint = save(run, 120, 2.0)
    assert (checkpoint.frame, checkpoint.iteration) == (120, 12)
    assert checkpoint.path.name == "000000000120"
    assert run.meta(checkpoint) == {"rng": "abc", "lr": 0.5}
    assert set(run.load(checkpoint, ["policy"])) == {"policy"}
    assert run.latest() == checkpoint


def test_a_run_without_checkpoint_has_no_latest(run: RunFolder) -> None:
    assert run.latest() is None and run.checkpoints() == []


def test_frames_are_ordered_as_numbers(run: RunFolder) -> None:
    for frame in (1_000_000_000_000, 20, 300_000_000_000, 100):
        save(run, frame)
    assert [checkpoint.frame for checkpoint in run.checkpoints()] == [20, 100, 300_000_000_000, 1_000_000_000_000]


def test_create_refuses_a_folder_in_use_and_leaves_it(run: RunFolder) -> None:
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(UserError, match="already exists"):
        RunFolder.create(run.path, {"seed": 4}, {})
    assert (run.path / "config.json").read_bytes() == before


def test_create_accepts_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", {}, {}).path == tmp_path / "empty"


def test_unused_counts_up(tmp_path: Path) -> None:
    assert unused(tmp_path / "a") == tmp_path / "a"
    for expected in ("a", "a-2", "a-3"):
        path = unused(tmp_path / "a")
        assert path.name == expected
        RunFolder.create(path, {}, {})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no config.json"),
        ("", "not valid JSON"),
        ('{"format": 1, "config": {', "not valid JSON"),
        ("[1]", "not written by HyperMARL"),
        ('{"lr": 0.1}', "names no format"),
        ('{"format": "1"}', "names no format"),
        ('{"format": 1, "config": [], "groups": {}, "versions": {}}', "damaged"),
        ('{"format": 2, "config": {}, "groups": {}, "versions": {}}', "format 2, newer"),
    ],
)
def test_a_folder_that_is_not_ours_gets_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        RunFolder.open(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["policy.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_is_used(run: RunFolder, file: str, how: str) -> None:
    good, bad = save(run, 100, 1.0), save(run, 200, 2.0)
    path = bad.path / file
    if how == "flip":
        damage(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(UserError, match=file):
        run.load(bad)
    assert run.latest() == good
    damage(good.path / file)
    with pytest.raises(UserError, match="intact"):
        run.latest()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 9, "sha": {}, "sizes": {}}'])
def test_a_damaged_meta_makes_the_checkpoint_before_it_the_latest(run: RunFolder, content: str) -> None:
    good, bad = save(run, 100), save(run, 200)
    (bad.path / "meta.json").write_text(content)
    assert run.latest() == good
    with pytest.raises(UserError):
        run.meta(bad)


def test_a_pickle_in_place_of_tensors_is_refused_and_not_run(run: RunFolder, tmp_path: Path) -> None:
    checkpoint = save(run, 100)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    content = pickle.dumps(Trap())
    (checkpoint.path / "policy.safetensors").write_bytes(content)
    meta = json.loads((checkpoint.path / "meta.json").read_text())
    meta["sha"]["policy.safetensors"] = runs.hashlib.sha256(content).hexdigest()
    meta["sizes"]["policy.safetensors"] = len(content)
    (checkpoint.path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="cannot be read"):
        run.load(checkpoint)
    assert not (tmp_path / "trapped").exists()


def test_prune_keeps_the_newest_complete_ones(run: RunFolder) -> None:
    for frame in (100, 200, 300, 400):
        save(run, frame)
    (run.path / "checkpoints" / "000000000400" / "policy.safetensors").unlink()
    run.prune(2)
    assert [checkpoint.frame for checkpoint in run.checkpoints()] == [200, 300]
    run.prune(0)
    assert [checkpoint.frame for checkpoint in run.checkpoints()] == [300]


def test_saving_a_moment_again_keeps_it_and_replaces_a_damaged_one(run: RunFolder) -> None:
    first = save(run, 100, 1.0)
    assert save(run, 100, 2.0) == first
    assert run.load(first)["policy"]["weight"][0, 0] == 1.0
    damage(first.path / "policy.safetensors")
    save(run, 100, 2.0)
    assert run.load(first)["policy"]["weight"][0, 0] == 2.0


@pytest.mark.parametrize("name", ["policy", "optimizer", "meta"])
def test_a_full_disk_keeps_the_last_good_checkpoint(run: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    good = save(run, 100)
    write = runs._write_flushed

    def full(path: Path, content: bytes) -> None:
        if path.name.startswith(name):
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(runs, "_write_flushed", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(run, 200)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == [good.path.name]
    assert run.latest() == good


def test_a_real_limit_on_file_size_keeps_the_last_good_checkpoint(run: RunFolder) -> None:
    good = save(run, 100)
    script = f"""
        import resource, signal, torch
        from hypermarl.errors import UserError
        from hypermarl.runs import RunFolder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            RunFolder.open({str(run.path)!r}).save(200, 20, policy={{"weight": torch.ones(100_000)}})
        except UserError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == [good.path.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096  # the limit was the child's alone


def test_a_failed_create_leaves_no_half_written_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "_write_flushed", full)
    with pytest.raises(UserError, match="No space left"):
        RunFolder.create(tmp_path / "run", {}, {})
    assert not list((tmp_path / "run").iterdir())


def test_killed_at_any_moment_the_newest_checkpoint_is_whole(run: RunFolder) -> None:
    script = f"""
        import torch
        from hypermarl.runs import RunFolder
        run = RunFolder.open({str(run.path)!r})
        for frame in range(1, 10_000):
            run.save(frame, frame, policy={{"weight": torch.full((50_000,), float(frame))}})
            run.prune(3)
            print(frame, flush=True)
    """
    last = 0
    for lines in (1, 4, 9):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(lines):
            last = max(last, int(child.stdout.readline()))
        child.send_signal(signal.SIGKILL)
        child.wait()
        latest = run.latest()
        assert latest is not None and latest.frame >= last
        weight = run.load(latest)["policy"]["weight"]
        assert weight.shape == (50_000,) and bool((weight == latest.frame).all())
    frame = run.checkpoints()[-1].frame + 1
    save(run, frame)
    assert not list((run.path / "checkpoints").glob(f"{runs._UNFINISHED}*"))


def test_seeds_are_runs_of_their_own_in_order(run: RunFolder) -> None:
    for seed in (10, 2, 0, 9, 100, 11, 8, 1):
        RunFolder.create(run.path / f"seed_{seed}", {"seed": seed}, {})
    (run.path / "seed_x").mkdir()
    assert [each.config["seed"] for each in run.seeds()] == [0, 1, 2, 8, 9, 10, 11, 100]


def test_write_atomically_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    runs.write_atomically(path, b"old")

    def fail(source: object, target: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(runs.os, "replace", fail)
    with pytest.raises(OSError, match="broken"):
        runs.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["metrics.json"]
