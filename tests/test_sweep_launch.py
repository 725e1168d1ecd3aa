"""How the processes of a sweep start and end: on this machine, and on a Ray cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sweeps import FOUR, GAME, made

from hypermarl.errors import UserError
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


def test_a_shield_passes_signals_and_ends_on() -> None:
    code = "from hypermarl.sweep import cell; import os, signal, time; cell._shield(); {}"
    for work, status in (
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("print('up', flush=True); time.sleep(60)", -15),
    ):
        child = subprocess.Popen([sys.executable, "-c", code.format(work)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        if status == -15:
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
