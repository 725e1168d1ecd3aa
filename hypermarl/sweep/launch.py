"""What a launcher is, and the process that every launcher starts: one per cell, with a log and few threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hypermarl.marl.settings import ExperimentConfig
from hypermarl.sweep import cell as work
from hypermarl.sweep.folder import Cell, SweepFolder


@dataclass(frozen=True)
class Ended:
    """A cell's process that is no more: its exit status (of a signal, minus its number), and what a launcher adds."""

    name: str
    code: int
    sentence: str = ""


class Launcher(Protocol):
    """Where cells run."""

    def open(self, folder: SweepFolder) -> str:
        """Make ready; the sentence says where cells will run. `UserError` if that is not possible."""

    def room(self) -> bool:
        """Whether one more cell can be started now."""

    def start(self, cell: Cell) -> None:
        """Start a cell, or let it wait in a queue of the launcher's own."""

    def ended(self) -> list[Ended]:
        """Cells that ended since the last call."""

    def stop(self, *, now: bool = False) -> None:
        """End all cells, with a checkpoint if not `now`; they are told of by `ended`."""

    def close(self) -> None:
        """Leave nothing behind."""


def cores(config: ExperimentConfig) -> int:
    """Processor cores that a cell keeps busy."""
    return config.train.threads + (config.env.workers if config.env.workers > 1 else 0)


def spawn(
    folder: Path, token: str, name: str, threads: int, log: Path, more: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the process of one cell. It ends, with a checkpoint, when this process ends or closes its `stdin`."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "hypermarl.sweep.cell", str(folder), token, name],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **limits, **(more or {})},
            start_new_session=True,  # Ctrl-C is for the one who watches: it tells the others
        )


def how(code: int) -> str:
    """The end of a sentence that tells a person what an exit status means."""
    if code >= 0:
        told = {work.STOPPED: "was stopped before its end", work.UNSEEN: "does not see the sweep's folder"}
        return told.get(code, f"ended with exit status {code}") + "."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + ("; was memory short?" if name == "SIGKILL" else ".")
