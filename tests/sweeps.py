"""Sweeps for tests: small grids, results that are drawn instead of trained, and a launcher that follows a script."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console

from hypermarl.envs import EnvironmentFault
from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import Episodes
from hypermarl.marl.train import Result
from hypermarl.sweep import cell as process
from hypermarl.sweep import conduct, display, grid, launch
from hypermarl.sweep.folder import Cell, Record, SweepFolder

GAME = ("env=games/specialisation", "train.frames=320", "model.actor=[8]", "model.critic=[8]")
FOUR = (*GAME, "sharing=hyper_mlp,shared_id", "seed=0,1")


@cache
def plans(*words: str) -> tuple[grid.Grid, list[grid.Plan]]:
    """The grid that words span, and its cells."""
    spanned = grid.read(words).grid
    return spanned, grid.plans(spanned)


def made(path: Path, *words: str) -> SweepFolder:
    """A new sweep, of two ways of sharing and two seeds if nothing else is said."""
    return SweepFolder.create(path, *plans(*(words or FOUR)))


def outcome(cell: Cell, *, finished: bool = True, failed: tuple[int, ...] = ()) -> Result:
    """A result whose evaluations are drawn from the cell's seeds."""
    played = []
    for seed in cell.config.all_seeds if finished else ():
        rng = np.random.default_rng([seed, len(cell.name)])
        lengths = rng.integers(3, 9, 5)
        alive = np.repeat(lengths[:, None], 2, axis=1)
        played.append(Episodes(("a", "b"), rng.normal(size=(5, 2)), lengths, alive, np.zeros(5, np.int64)))
    return Result(Path(), cell.config.train.frames, finished, played, failed)


def done(folder: SweepFolder, cell: Cell) -> None:
    """Let a cell be finished, with a run folder to show for it."""
    assert process.work(folder, cell, lambda folder, cell: outcome(cell)) == process.FINISHED
    folder.run(cell.name).mkdir(exist_ok=True)
    (folder.run(cell.name) / "config.json").touch()


class Script:
    """A launcher whose cells end as is written: per cell, a word for each attempt."""

    def __init__(self, script: Mapping[str, str], room: int = 2) -> None:
        self.script = {name: words.split() for name, words in script.items()}
        self.begun: list[str] = []
        self.stops: list[bool] = []
        self._running: list[Cell] = []
        self._room = room

    def open(self, folder: SweepFolder) -> str:
        self.folder = folder
        return "in a test"

    def room(self) -> bool:
        return len(self._running) < self._room

    def start(self, cell: Cell) -> None:
        assert self.room()
        self.begun.append(cell.name)
        self._running.append(cell)

    def ended(self) -> list[launch.Ended]:
        ended = [cell for cell in self._running if self.stops or self._word(cell) != "endless"]
        self._running = [cell for cell in self._running if cell not in ended]
        return [self._end(cell, self.script.get(cell.name, ["fine"]).pop(0)) for cell in ended]

    def _word(self, cell: Cell) -> str:
        return self.script.get(cell.name, ["fine"])[0]

    def _end(self, cell: Cell, how: str) -> launch.Ended:
        code = -signal.SIGKILL
        if how == "fine":
            done(self.folder, cell)
            code = process.FINISHED
        elif how == "killed":
            record = self.folder.record(cell.name)
            self.folder.write_record(cell.name, replace(record, state="running", attempts=record.attempts + 1))
        elif how == "interrupt":  # as it ends, there is a Ctrl-C
            done(self.folder, cell)
            os.kill(os.getpid(), signal.SIGINT)
            code = process.FINISHED
        elif how == "endless":  # unless it is stopped
            code = process.work(self.folder, cell, lambda folder, cell: outcome(cell, finished=False))
        elif how != "early":
            code = process.work(self.folder, cell, lambda folder, cell: fail(how))
        return launch.Ended(cell.name, int(code))

    def stop(self, *, now: bool = False) -> None:
        self.stops.append(now)

    def close(self) -> None: ...


def fail(how: str) -> Result:
    errors = {"crash": RuntimeError("no luck\nat all"), "mistake": UserError("Bad  input.")}
    raise errors.get(how, EnvironmentFault("It fell."))


def run(folder: SweepFolder, script: Script, retries: int = 1) -> tuple[bool, dict[str, Record], str]:
    """Whether the sweep came to its end, the records it knows, and what it printed."""
    script.open(folder)
    said = io.StringIO()
    with display.Display(folder, conduct.settle(folder), Console(file=said, width=200)) as shown:
        sweep = conduct.Sweep(folder, script, shown, retries)
        whole = sweep.run(pause=lambda seconds: None)
    return whole, sweep.records, said.getvalue()
