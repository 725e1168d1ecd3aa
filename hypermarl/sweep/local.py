"""Cells as processes of this machine, a few at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence

from hypermarl.marl.settings import ExperimentConfig
from hypermarl.sweep.cell import NODE
from hypermarl.sweep.folder import Cell, SweepFolder
from hypermarl.sweep.launch import Ended, cores, spawn

LAST_MOMENTS = 30.0
"""Seconds that processes have to save before they are killed, when the sweep itself breaks off."""


class Local:
    """At most `jobs` processes at once; by default as many as keep the cores busy, on GPUs one for each."""

    def __init__(self, configs: Sequence[ExperimentConfig], jobs: int | None = None) -> None:
        self._gpus = visible_gpus() if any(config.device == "cuda" for config in configs) else []
        widest = max(map(cores, configs), default=1)
        self.jobs = jobs or max(1, min(len(self._gpus) or machine_cores(), machine_cores() // widest))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._places: dict[str, int] = {}

    def open(self, folder: SweepFolder) -> str:
        self._folder = folder
        return f"{self.jobs} at a time on this machine"

    def room(self) -> bool:
        return len(self._running) < self.jobs

    def start(self, cell: Cell) -> None:
        folder, name = self._folder, cell.name
        more = {NODE: socket.gethostname()}
        place = next(i for i in range(self.jobs) if i not in self._places.values())
        if self._gpus and cell.config.device == "cuda":
            more["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        threads = cell.config.train.threads
        self._running[name] = spawn(folder.path, folder.token, name, threads, folder.log(name), more)
        self._places[name] = place

    def ended(self) -> list[Ended]:
        found = [Ended(name, code) for name, one in self._running.items() if (code := one.poll()) is not None]
        for each in found:
            one = self._running.pop(each.name)
            del self._places[each.name]
            assert one.stdin is not None
            one.stdin.close()
        return found

    def stop(self, *, now: bool = False) -> None:
        for one in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                one.kill() if now else one.terminate()

    def close(self) -> None:
        """Normally none is left; if there are, they get time to save."""
        self.stop()
        until = time.monotonic() + LAST_MOMENTS
        while self._running and time.monotonic() < until:
            self.ended()
            time.sleep(0.05)
        self.stop(now=True)
        for one in self._running.values():
            one.wait()


def machine_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    return [str(i) for i in range(torch.cuda.device_count())]
