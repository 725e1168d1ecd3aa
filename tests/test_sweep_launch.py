"""How the processes of a sweep start and end: on this machine, and on a Ray cluster."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray_nodes
from sweeps import FOUR, GAME, made

from hypermarl.errors import UserError
from hypermarl.runs import RunFolder
from hypermarl.sweep import cell as process
from hypermarl.sweep import cluster, grid, launch, local
from hypermarl.sweep.folder import SweepFolder


def test_a_process_stops_when_whoever_started_it_is_gone() -> None:
    for shield in ("", "1"):
        code = (
            "import os, signal, sys, time; from hypermarl.sweep import cell\n"
            f"if '{shield}': cell._shield()\n"
            "cell._stop_when_alone()\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n"
            "print(os.getpid(), flush=True)\n"
            "time.sleep(60)"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        assert (int(child.stdout.readline()) == child.pid) == (shield == "")
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(30) == 4


def test_behind_a_shield_the_work_outlives_a_kill_long_enough_to_save() -> None:
    code = (
        "import os, signal, sys, time; from hypermarl.sweep import cell\n"
        "cell._shield(); cell._stop_when_alone()\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), os._exit(0)))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait(30)
    child.stdin.close()
    assert child.stdout.readline() == "saved\n"


def test_a_shield_passes_a_termination_on_and_ends_as_the_work_ends() -> None:
    late = "fork = os.fork; os.fork = lambda: (child := fork()) and (time.sleep(0.3) or child)"  # the child is first
    code = "from hypermarl.sweep import cell; import os, signal, time; " + late + "; cell._shield(); {}"
    saving = "signal.signal(15, lambda *_: os._exit(7)); print('up', flush=True); time.sleep(60)"
    for work, status in (("os._exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -9), (saving, 7)):
        child = subprocess.Popen([sys.executable, "-c", code.format(work)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        if work == saving:
            child.stdout.readline()
            child.terminate()
        assert child.wait(30) == status


def test_jobs_fill_the_cores_and_gpus_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, int, str | None]] = []

    def spawn(path: Path, token: str, name: str, threads: int, log: Path, more: Mapping[str, str]) -> Any:
        started.append((name, threads, more.get("CUDA_VISIBLE_DEVICES")))
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    monkeypatch.setattr(local, "spawn", spawn)
    monkeypatch.setattr(local, "machine_cores", lambda: 8)
    for words, jobs in (("", 8), ("train.threads=3", 2), ("env.workers=2 train.threads=2", 2), ("train.threads=9", 1)):
        order = grid.read([*FOUR, *words.split()])
        assert local.Local([plan.config for plan in grid.plans(order.grid)]).jobs == jobs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    folder = made(tmp_path / "s", *FOUR, "device=cuda", "train.threads=2")
    launcher = local.Local([cell.config for cell in folder.cells])
    launcher.open(folder)
    while launcher.room():
        launcher.start(folder.cells[len(started)])
    assert [(threads, gpu) for _, threads, gpu in started] == [(2, "3"), (2, "5")]
    next(iter(launcher._running.values())).kill()
    while launcher.room() is False:
        launcher.ended()
    launcher.start(folder.cells[2])
    assert started[2][2] == "3"
    launcher.close()
    assert not launcher._running


def test_ray_is_told_what_a_cell_needs_and_its_texts_become_one_sentence(tmp_path: Path) -> None:
    one = made(tmp_path / "s", *GAME, "train.threads=3", "env.workers=2").cells[0]
    assert launch.cores(one.config) == 5
    ray = pytest.importorskip("ray")
    assert cluster._reason(ray.exceptions.WorkerCrashedError()) == "The Ray worker it ran in died."
    assert cluster._reason(ValueError("many\n\nlines")) == "ValueError: lines"
    assert cluster.look(str(tmp_path / "s"), SweepFolder.open(tmp_path / "s").token)[0]


def test_a_node_that_sees_another_folder_does_not_see_the_sweep(tmp_path: Path) -> None:
    made(tmp_path / "s")
    assert process.find(tmp_path / "s", "another token", patience=0.0) is None
    assert process.find(tmp_path / "nothing", "token", patience=0.0) is None


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no_such_host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_named_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"No Ray cluster .*{address}"):
        cluster.connect()


# ------------------------------------------------------------------------------------------------- the real thing

REAL = (
    "env=games/specialisation",
    "sharing=hyper_mlp,shared_id",
    "seed=0,1",
    "model.actor=[8]",
    "model.critic=[8]",
    "train.frames=16_000",
    "train.checkpoint_every=4",
    "evaluation.episodes=4",
    "evaluation.video=false",
    "train.tensorboard=false",
)
PATIENCE = 1800.0  # seconds; all this takes one minute where nothing else runs


def begin(path: Path, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hypermarl", "sweep", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=path, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **(environment or {})}
    )


def until(happened: Callable[[], Any], child: subprocess.Popen[str], seconds: float = PATIENCE) -> Any:
    """Wait for something while a sweep works."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def saved(folder: SweepFolder) -> list[str]:
    """Cells that run and have a checkpoint, so that a kill leaves something to go on from."""
    names = [cell.name for cell in folder.cells if folder.record(cell.name).state == "running"]
    return [name for name in names if any((folder.run(name) / "checkpoints").glob("0*"))]


def process_of(name: str) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().decode().split("\0")
            if "hypermarl.sweep.cell" in words and name in words:
                return int(path.name)
    raise AssertionError(f"{name} has no process")


def found(folder: SweepFolder) -> dict[str, Any]:
    """All that a sweep is for, by cell: metrics but for times, final evaluations, the very bits of the policies."""
    outcome = {}
    for cell in folder.cells:
        run = RunFolder.open(folder.run(cell.name))
        latest = run.latest()
        assert latest is not None
        policy = hashlib.sha256((latest.path / "policy.safetensors").read_bytes()).hexdigest()
        rows = csv.DictReader((run.path / "metrics.csv").open())
        metrics = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]
        outcome[cell.name] = (latest.frame, policy, metrics, dict(folder.record(cell.name).document))
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """A sweep that nothing happened to."""
    path = tmp_path_factory.mktemp("whole")
    child = begin(path, *REAL, "--out", "S", "--jobs", "2")
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, err
    assert "4 finished" in out and err.count("finished") == 4 and "retrying" not in err
    return SweepFolder.open(path / "S")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes by /proc")
def test_what_was_killed_and_stopped_ends_as_what_was_not(tmp_path: Path, whole: SweepFolder) -> None:
    child = begin(tmp_path, *REAL, "--out", "S", "--jobs", "2")
    until(lambda: (tmp_path / "S/sweep.json").exists(), child)
    folder = SweepFolder.open(tmp_path / "S")
    (killed, *_) = until(lambda: saved(folder), child)
    (folder.run(killed) / "mark").touch()
    os.kill(process_of(killed), signal.SIGKILL)
    until(lambda: any(name != killed for name in saved(folder)), child)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130 and "hypermarl sweep --resume S" in out
    assert f"{killed}  - Its process was ended by SIGKILL" in err
    child = begin(tmp_path, "--resume", "S")
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, err
    assert found(folder) == found(whole)
    assert folder.record(killed).attempts == 2
    assert (folder.run(killed) / "mark").exists()  # it went on, it did not begin again
    for file in ("results.csv", "cells.csv"):
        own, theirs = ([*csv.DictReader((each.path / file).open())] for each in (folder, whole))
        for line in (*own, *theirs):
            for name in ("seconds", "frames_per_second", "attempts"):
                line.pop(name, None)
        assert own == theirs


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nodes have loopback addresses of their own")
@pytest.mark.xfail(strict=False, reason="on a fast machine a cell may end before its node is killed")
def test_a_ray_cluster_trains_the_same_though_a_node_dies(tmp_path: Path, whole: SweepFolder) -> None:
    pytest.importorskip("ray", reason="the extra hypermarl[ray] is not installed")
    with ray_nodes.cluster() as nodes:
        child = begin(tmp_path, *REAL, "--out", "S", "launcher=ray", environment=nodes.environment)
        until(lambda: (tmp_path / "S/sweep.json").exists(), child)
        folder = SweepFolder.open(tmp_path / "S")
        names = [cell.name for cell in folder.cells]
        until(lambda: len(saved(folder)) == 2, child)
        first = {name: folder.record(name).node for name in saved(folder)}
        assert len(set(first.values())) == 2  # each on a node of its own, and no third one on their two cores
        assert sorted(folder.record(name).state for name in names) == ["running", "running", "waiting", "waiting"]
        for name in first:
            (folder.run(name) / "mark").touch()
        nodes.kill("127.0.0.4")
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
        assert len(nodes.alive()) == 2
    assert found(folder) == found(whole)
    (lost,) = [name for name in names if folder.record(name).attempts == 2]
    assert f"{lost}  - The node it ran on died" in err
    assert {folder.record(name).node for name in names if name != lost} >= {folder.record(lost).node}
    assert folder.record(lost).node != first[lost] and "4 finished" in out
    assert all((folder.run(name) / "mark").exists() for name in first)  # it went on, it did not begin again
    assert folder.log(lost).read_text().count("--- ") == 2
