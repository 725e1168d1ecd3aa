"""The loop that watches a sweep: start cells while there is room, give a cell that died another chance, stop gently."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from hypermarl.errors import UserError
from hypermarl.signals import interruptible
from hypermarl.sweep import results
from hypermarl.sweep.cell import MISTAKE
from hypermarl.sweep.folder import Cell, Record, SweepFolder
from hypermarl.sweep.launch import Ended, Launcher, how

PAUSE = 0.1
READ_EVERY = 1.0
"""Seconds between two looks at the records of cells that were started."""
WRITE_EVERY = 10.0
"""Seconds between two writings of the results, or more where there are so many that writing takes long."""
_LOOKS = 100  # records read in one look, in the order of starting: the disk may be a network's


class Watcher(Protocol):
    """Who is told what happens."""

    def changed(self, cell: Cell, record: Record) -> None:
        """A cell began, ended, or will be tried again."""

    def tick(self, running: Mapping[str, Record]) -> None:
        """Called many times a second."""

    def say(self, sentence: str) -> None: ...


class Sweep:
    """The cells of a folder in the hands of a launcher; `records` is what is known of each."""

    def __init__(self, folder: SweepFolder, launcher: Launcher, watcher: Watcher, retries: int = 1) -> None:
        self.folder = folder
        self.records = settle(folder)
        self._launcher = launcher
        self._watcher = watcher
        self._left = {cell.name: retries for cell in folder.cells}
        self._cells = {cell.name: cell for cell in folder.cells}
        self._started: dict[str, int] = {}  # name -> attempts made before
        self._stops = self._heard = 0
        self._last_look = self._last_written = self._cost = 0.0
        self._news = True

    def run(self, pause: Callable[[float], None] = time.sleep) -> bool:
        """Work until all cells are finished or failed; False if it was stopped before."""
        waiting = deque(cell for cell in self.folder.cells if self.records[cell.name].state != "finished")
        with interruptible(self._wish):
            while waiting or self._started:
                if self._stops > self._heard:
                    self._stop()
                    waiting.clear()
                while waiting and self._launcher.room():
                    cell = waiting.popleft()
                    self._started[cell.name] = self.folder.record(cell.name).attempts
                    self._launcher.start(cell)
                for ended in self._launcher.ended():
                    if self._again(ended, self._started.pop(ended.name)) and not self._stops:
                        waiting.append(self._cells[ended.name])
                self._look()
                self._publish(WRITE_EVERY)
                self._watcher.tick({name: self.records[name] for name in self._running()})
                pause(PAUSE)
        self._publish(0.0)
        return not self._stops

    def _again(self, ended: Ended, attempts: int) -> bool:
        """Take down how a cell's process ended; True if the cell is to be tried once more.

        `attempts` were made before it: a record that knows of no more is not its own.
        """
        name = ended.name
        record = self.folder.record(name)
        told = record.attempts > attempts
        if told and (record.state == "finished" or (record.state == "failed" and ended.code == MISTAKE)):
            self._tell(name, record)
            return False
        if self._stops:
            if told:
                self._tell(name, self.folder.bury(name, "stopped"))
            return False
        own = record.sentence if told and record.state == "crashed" else ""
        sentence = ended.sentence or own or f"Its process {how(ended.code)}"
        again = self._left[name] > 0
        self._left[name] -= again
        record = self.folder.bury(name, "crashed" if again else "failed", sentence)
        self._tell(name, record)
        return again

    def _look(self) -> None:
        """Learn of cells that began: a launcher may keep them in a queue of its own."""
        if time.monotonic() - self._last_look < READ_EVERY:
            return
        self._last_look = time.monotonic()
        running = set(self._running())
        queued = (each for each in self._started.items() if each[0] not in running)
        for name, attempts in list(itertools.islice(queued, _LOOKS)):
            record = self.folder.record(name)
            if record.state == "running" and record.attempts > attempts:
                self._tell(name, record)

    def _publish(self, every: float) -> None:
        """Write the results anew if something changed, at most once in `every` seconds."""
        begin = time.monotonic()
        if not self._news or (every and begin - self._last_written < max(every, 20 * self._cost)):
            return
        try:
            results.write(self.folder, self.records)
        except (OSError, UserError) as error:
            self._watcher.say(f"The results cannot be written: {error}")
        self._news, self._last_written = False, time.monotonic()
        self._cost = self._last_written - begin

    def _running(self) -> list[str]:
        return [name for name in self._started if self.records[name].state == "running"]

    def _tell(self, name: str, record: Record) -> None:
        self.records[name] = record
        self._news = True
        self._watcher.changed(self._cells[name], record)

    def _stop(self) -> None:
        self._heard = self._stops
        if self._started and self._stops == 1:
            self._watcher.say("Stopping: each cell ends its iteration and saves. Ctrl-C again to stop at once.")
        self._launcher.stop(now=self._stops > 1)

    def _wish(self) -> None:
        """The first Ctrl-C stops all cells with a checkpoint, the second at once."""
        self._stops += 1


def settle(folder: SweepFolder) -> dict[str, Record]:
    """What is known of each cell when nobody works on any: `running` is what a kill left behind."""
    records = {cell.name: folder.record(cell.name) for cell in folder.cells}
    for name, record in records.items():
        if record.state == "running":
            records[name] = replace(record, state="stopped")
        elif record.state == "finished" and not (folder.run(name) / "config.json").exists():
            records[name] = Record()  # its run was removed: it is to be made again
    return records
