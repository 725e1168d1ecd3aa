"""A sweep on disk: what its cells are, how far each has come, and locks that keep two processes from one cell.

sweep/sweep.json             format, version, the grid, the cells with their settings
sweep/cells/<name>/          an ordinary run folder
sweep/cells/<name>.json      the cell's record: state, time, final evaluation
sweep/cells/<name>.log       what its processes printed
sweep/results.md results.csv cells.csv marl_eval.json       (see `results`)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from hypermarl import config as settings
from hypermarl.errors import UserError
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.runs import write_atomically
from hypermarl.sweep.grid import Grid, Plan, identity, refuse_disagreement, union

FORMAT = 1
FILE = "sweep.json"
State = Literal["waiting", "running", "stopped", "crashed", "failed", "finished"]
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep: where it lies on the axes, all its settings, and the presets they were made from."""

    name: str
    point: Mapping[str, str]
    config: ExperimentConfig
    presets: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """`kind/name`; presets tell environments apart that differ in their options alone."""
        preset = self.presets.get("env", "")
        own = f"{self.config.env.kind}/{self.config.env.name}"
        return preset if preset.startswith(f"{self.config.env.kind}/") else own

    @property
    def method(self) -> str:
        """The algorithm and the way of sharing."""
        own = self.config
        algorithm, sharing = self.presets.get("algorithm", own.algorithm.name), self.presets.get("sharing")
        return f"{algorithm}_{sharing or own.sharing.name}"


@dataclass(frozen=True)
class Record:
    """How far a cell has come. `seconds` are those of all its processes, `document` its final evaluation."""

    state: State = "waiting"
    attempts: int = 0
    began: float = 0.0  # seconds since the epoch, of the latest process
    seconds: float = 0.0
    frame: int = 0
    sentence: str = ""
    node: str = ""
    failed_seeds: tuple[int, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)


class SweepFolder:
    """One sweep on disk; make it with `create` or `open`."""

    def __init__(self, path: Path, token: str, grid: Grid, cells: list[Cell]) -> None:
        self.path = path
        self.token = token
        self.grid = grid
        self.cells = cells

    @classmethod
    def create(cls, path: Path, grid: Grid, plans: Sequence[Plan]) -> SweepFolder:
        """A new sweep at `path`, which must be absent or empty."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} already exists and is no sweep of ours; choose another folder with --out.")
        made = cls(path, secrets.token_hex(8), grid, [])
        made.cells = made.named(plans)
        try:
            made.runs.mkdir(parents=True, exist_ok=True)
            made._write()
        except OSError as error:
            raise UserError(f"The sweep folder {path} cannot be written: {error.strerror or error}.") from error
        return made

    @classmethod
    def open(cls, path: Path, only: Collection[str] | None = None) -> SweepFolder:
        """The sweep at `path`; a `UserError` says what is wrong with a folder that is no readable sweep of ours.

        With `only` these cells alone: building the settings of a thousand takes seconds.
        """
        file = path / FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = f"it has no {FILE}" if path.is_dir() else "there is no such folder"
            raise UserError(f"{path} is not a sweep: {known}.") from None
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
        except ValueError:
            raise UserError(f"{file} is damaged or cut short: it is not valid JSON.") from None
        number = content.get("format") if isinstance(content, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f"{file} was not written by HyperMARL: it names no format.")
        if number > FORMAT:
            raise UserError(f"{file} has format {number}, newer than this version of HyperMARL reads ({FORMAT}).")
        try:
            grid = Grid(
                {str(key): str(value) for key, value in content["settings"].items()},
                {str(key): tuple(map(str, values)) for key, values in content["grid"].items()},
            )
            cells = [
                Cell(
                    str(each["name"]),
                    dict(each["point"]),
                    settings.build(ExperimentConfig, each["config"]),
                    dict(each["presets"]),
                )
                for each in content["cells"]
                if only is None or each["name"] in only
            ]
            return cls(path, str(content["token"]), grid, cells)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{file} was not written by HyperMARL, or is damaged.") from None

    def add(self, grid: Grid, plans: Sequence[Plan]) -> int:
        """Let the cells of another grid join, and say how many were new; a `UserError` if its settings disagree."""
        refuse_disagreement(self.path, self.grid, grid)
        known = {identity(cell.config) for cell in self.cells}
        new = [plan for plan in plans if identity(plan.config) not in known]
        if new:
            self.grid = union(self.grid, grid)
            self.cells += self.named(new)
            self._write()
        return len(new)

    def named(self, plans: Sequence[Plan]) -> list[Cell]:
        """Cells with names that tell them apart, from each other and from those that are here."""
        taken = {cell.name.lower() for cell in self.cells}
        cells = []
        for plan in plans:
            cell = Cell("", dict(plan.point), plan.config, dict(plan.presets))
            name = wanted = _name(cell)
            number = 1
            while name.lower() in taken:
                number += 1
                name = f"{wanted}-{number}"
            taken.add(name.lower())
            cells.append(replace(cell, name=name))
        return cells

    def discard(self) -> None:
        """Take back a sweep that was just made and that nothing was done in."""
        (self.path / FILE).unlink()
        with contextlib.suppress(OSError):  # what is not empty stays
            self.runs.rmdir()
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    @property
    def runs(self) -> Path:
        """Where the run folders of the cells lie."""
        return self.path / "cells"

    def cell(self, name: str) -> Cell:
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"{self.path} has no cell {name!r}.")

    def run(self, name: str) -> Path:
        return self.runs / name

    def log(self, name: str) -> Path:
        return self.runs / f"{name}.log"

    # -------------------------------------------------------------------------------------------- records

    def record(self, name: str) -> Record:
        """A cell's record; an unreadable one counts as none, since what it tells can be made again."""
        try:
            content = json.loads(self._record(name).read_text(encoding="utf-8"))
            if content.pop("format") > FORMAT or content["state"] not in get_args(State):
                return Record()
            content["failed_seeds"] = tuple(content["failed_seeds"])
            return Record(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Record()

    def write_record(self, name: str, record: Record) -> None:
        """Replace a cell's record; `ValueError` for numbers that are not finite."""
        content = {"format": FORMAT, **asdict(record)}
        write_atomically(self._record(name), json.dumps(content, allow_nan=False).encode())

    def bury(self, name: str, state: State, sentence: str = "") -> Record:
        """Write down the end of a process that could not do so itself; it lived until the last row of its log."""
        record = self.record(name)
        seconds = record.seconds
        if record.state == "running":
            signs = [path.stat().st_mtime for path in self.run(name).rglob("metrics.csv")]
            seconds += max(0.0, max(signs, default=record.began) - record.began)
        record = replace(record, state=state, seconds=seconds, sentence=sentence or record.sentence)
        with contextlib.suppress(OSError):  # a full disk; who watches knows it all the same
            self.write_record(name, record)
        return record

    def _record(self, name: str) -> Path:
        return self.runs / f"{name}.json"

    # ---------------------------------------------------------------------------------------------- locks

    @contextlib.contextmanager
    def locked(self, name: str | None = None, patience: float = 0.0) -> Iterator[bool]:
        """Hold the lock of a cell, or of the whole sweep; False if another process keeps it for `patience` seconds.

        The system lets go of it when the process ends, however it ends. Where files cannot be locked there is no lock.
        """
        path = self.path / _LOCK if name is None else self.runs / f".{name}{_LOCK}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield _lock(descriptor, time.monotonic() + patience)
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        content = {
            "format": FORMAT,
            "hypermarl": metadata.version("hypermarl"),
            "token": self.token,
            "settings": dict(self.grid.fixed),
            "grid": {key: list(values) for key, values in self.grid.axes.items()},
            "cells": [
                {
                    "name": cell.name,
                    "point": dict(cell.point),
                    "presets": dict(cell.presets),
                    "config": settings.to_dict(cell.config),
                }
                for cell in self.cells
            ],
        }
        write_atomically(self.path / FILE, json.dumps(content, indent=1).encode())


_LOCK = ".lock"


def _lock(descriptor: int, until: float) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:  # not POSIX
        return True
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.2)
        except OSError:  # a filesystem without locks
            return True


def default_path(plans: Sequence[Plan]) -> Path:
    """Where a sweep lies if nothing else is said: the same command finds the same folder again."""
    told = "\n".join(sorted(identity(plan.config) for plan in plans))
    return Path(plans[0].config.train.folder) / f"sweep-{sha256(told.encode()).hexdigest()[:8]}"


def _name(cell: Cell) -> str:
    """A readable name: environment, sharing, algorithm, what else was varied, seed."""
    algorithm, _, sharing = cell.method.partition("_")
    parts = [cell.task.rpartition("/")[2], sharing, algorithm]
    for key, value in cell.point.items():
        if key not in ("env", "sharing", "algorithm", "seed"):
            parts.append(f"{key.rpartition('.')[2]}_{value}")
    words = [re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_.") for part in parts]
    name = "-".join([*words, f"s{cell.config.seed}"])
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 9]}-{sha256(name.encode()).hexdigest()[:8]}"
    return name
