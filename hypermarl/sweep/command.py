"""What `hypermarl sweep` does: read words, check every cell, find or make the folder, launch, tell the results."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hypermarl.errors import UserError
from hypermarl.monitoring.progress import duration
from hypermarl.sweep import conduct, results
from hypermarl.sweep.display import Display
from hypermarl.sweep.folder import Cell, Record, SweepFolder, default_path
from hypermarl.sweep.grid import LAUNCHERS, Grid, Plan, check, check_devices, describe, nearest_launcher, plans, read
from hypermarl.sweep.launch import Launcher

FINISHED, FAILED, STOPPED = 0, 1, 130
"""Exit codes; bad input is 2, as everywhere."""
_FAILED_SHOWN = 10


@dataclass(frozen=True)
class Options:
    """Everything but the grid, from words and from options alike."""

    out: Path | None = None
    launcher: str | None = None
    jobs: int | None = None
    retries: int | None = None


def run(words: Sequence[str], options: Options, *, resume: Path | None = None, dry_run: bool = False) -> int:
    """Run a sweep; the return value is the exit code."""
    order = read(words)
    options = _joined(options, order.own)
    if resume is not None:
        if order.grid.fixed or order.grid.axes or options.out is not None:
            raise UserError(f"A sweep that is resumed has its settings in {resume}; leave out all others.")
        folder, fresh = SweepFolder.open(resume), False
        made = [Plan(cell.point, cell.config) for cell in folder.cells]
    else:
        made = plans(order.grid)
        check(made)
        path = options.out or default_path(made)
        if dry_run:
            return _plan(path, order.grid, made)
    if dry_run:
        raise UserError("--dry-run shows what would be made; a sweep that is resumed is made already.")
    _check_launch(made, options)
    launcher = _launcher(made, options)
    try:
        if resume is None:
            folder, fresh = _folder(path, order.grid, made)
        return _run(folder, launcher, fresh, 1 if options.retries is None else options.retries)
    finally:
        launcher.close()


def _joined(options: Options, own: Mapping[str, str]) -> Options:
    """Options of the command and words of the same names; both at once must agree."""
    given = {"out": own.get("sweep.folder"), **{key: own.get(key) for key in ("launcher", "jobs", "retries")}}
    found: dict[str, str | int | Path | None] = {}
    for name, word in given.items():
        option = getattr(options, name)
        value: str | int | Path | None = word
        if word is not None and name == "out":
            value = Path(word)
        elif word is not None and name in ("jobs", "retries"):
            low = 1 if name == "jobs" else 0
            if not word.isdigit() or int(word) < low:
                raise UserError(f"{name} must be a whole number from {low} on, not {word!r}.")
            value = int(word)
        if None not in (value, option) and value != option:
            raise UserError(f"{name} is given twice: {value} and {option}.")
        found[name] = option if value is None else value
    launcher = found["launcher"] or "local"
    if launcher not in LAUNCHERS:
        raise UserError(f"There is no launcher {launcher!r}; did you mean {nearest_launcher(str(launcher))!r}?")
    return Options(**{**found, "launcher": launcher})  # type: ignore[arg-type]


def _check_launch(made: Sequence[Plan], options: Options) -> None:
    if options.launcher == "local":
        check_devices(made)
        return
    for plan in made:
        if plan.config.device.startswith("cuda:"):
            told = f"device={plan.config.device} is for Ray to decide; with launcher=ray write device=cuda."
            raise UserError(f"{describe(plan.point)}{told}")


def _launcher(made: Sequence[Plan], options: Options) -> Launcher:
    if options.launcher == "ray":
        from hypermarl.sweep.cluster import Cluster

        return Cluster(options.jobs)
    from hypermarl.sweep.local import Local

    return Local([plan.config for plan in made], options.jobs)


def _folder(path: Path, grid: Grid, made: Sequence[Plan]) -> tuple[SweepFolder, bool]:
    """The sweep's folder, and whether it is new; to a known one, cells it lacks are added."""
    if not (path / "sweep.json").exists():
        return SweepFolder.create(path, grid, made), True
    folder = SweepFolder.open(path)
    with folder.locked() as ours:
        if not ours:
            raise UserError(f"Another command works on {path} just now.")
        folder.add(grid, made)
    return folder, False


def _run(folder: SweepFolder, launcher: Launcher, fresh: bool, retries: int) -> int:
    with folder.locked() as ours:
        if not ours:
            raise UserError(f"Another command works on {folder.path} just now.")
        try:
            where = launcher.open(folder)
        except UserError:
            if fresh:
                folder.discard()
            raise
        records = conduct.settle(folder)
        with Display(folder, records) as display:
            display.say(f"{folder.path}: {_count(records)}, {where}")
            work = conduct.Sweep(folder, launcher, display, retries)
            whole = work.run()
    return _tell(folder, work.records, whole)


def _count(records: dict[str, Record]) -> str:
    cells = f"{len(records)} cell{'s' * (len(records) != 1)}"
    counts = Counter(record.state for record in records.values())
    rest = [f"{counts[state]} {state}" for state in ("finished", "failed", "stopped") if counts[state]]
    return f"{cells} ({', '.join(rest)} before)" if rest else cells


def _tell(folder: SweepFolder, records: dict[str, Record], whole: bool) -> int:
    console = Console(highlight=False)
    console.print(results.shown(results.rows(results.scores(folder, records))))
    counts = Counter(record.state for record in records.values())
    seconds = sum(record.seconds for record in records.values())
    told = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    print(f"Cells:       {told}; {duration(seconds)} of one process in all")
    failed = [name for name, record in records.items() if record.state == "failed"]
    for name in failed[:_FAILED_SHOWN]:
        print(f"failed:      {name} - {records[name].sentence} (log: {folder.log(name)})")
    if len(failed) > _FAILED_SHOWN:
        print(f"             and {len(failed) - _FAILED_SHOWN} more")
    print(f"Results:     {folder.path / 'results.md'} (and results.csv, cells.csv, marl_eval.json)")
    print(f"Curves:      tensorboard --logdir {folder.runs}")
    if counts["finished"] < len(records):
        print(f"To go on:    hypermarl sweep --resume {folder.path}")
    sys.stdout.flush()
    if not whole:
        return STOPPED
    return FAILED if counts["failed"] else FINISHED


def _plan(path: Path, grid: Grid, made: Sequence[Plan]) -> int:
    """Print what would be done."""
    for key, values in grid.axes.items():
        print(f"{key}: {', '.join(values)}")
    cells: list[Cell] = SweepFolder(path, "", grid, []).named(made)
    for cell in cells:
        config = cell.config
        print(f"  {cell.name}  {config.train.frames:,} frames" + (f" x {config.seeds} seeds" * (config.seeds > 1)))
    frames = sum(cell.config.train.frames * cell.config.seeds for cell in cells)
    print(f"{len(cells)} cell{'s' * (len(cells) != 1)}, {frames:,} frames in all, into {path}")
    return FINISHED
