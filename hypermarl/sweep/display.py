"""What a person watching a sweep sees: in a terminal the cells at work and a count, elsewhere a line per change."""

from __future__ import annotations

import csv
import math
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hypermarl.monitoring.progress import duration, short
from hypermarl.sweep.folder import Cell, Record, State, SweepFolder

STYLES: dict[State, str] = {
    "waiting": "dim",
    "running": "cyan",
    "stopped": "yellow",
    "crashed": "yellow",
    "failed": "red",
    "finished": "green",
}
REFRESH = 1.0
_ROWS = 20


class Display:
    """Tells of a sweep on the standard error stream; a context manager."""

    def __init__(self, folder: SweepFolder, records: Mapping[str, Record], console: Console | None = None) -> None:
        self._folder = folder
        # what failed or was stopped before has its turn again
        self._states: dict[str, State] = {
            name: record.state if record.state == "finished" else "waiting" for name, record in records.items()
        }
        self._console = console or Console(file=sys.stderr)
        self._live: Live | None = None
        self._running: dict[str, Record] = {}
        self._last = -math.inf

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, cell: Cell, record: Record) -> None:
        self._states[cell.name] = record.state
        counts = Counter(self._states.values())
        done = f"[{counts['finished'] + counts['failed']}/{len(self._states)}]"
        parts = [done, f"{record.state:<8}", cell.name]
        if record.state == "running":
            parts += [f"attempt {record.attempts}"] * (record.attempts > 1)
            parts += [f"on {record.node}"] * (record.node != socket.gethostname())
        elif record.state == "finished":
            parts += [f"return {returns(record):.4g}", f"{short(record.frame)} frames", duration(record.seconds)]
            if record.failed_seeds:
                parts.append(f"(seed {', '.join(map(str, record.failed_seeds))} broke off)")
        elif record.state in ("failed", "crashed"):
            parts += [f"- {record.sentence}", f"(log: {self._folder.log(cell.name)})"]
            if record.state == "crashed":
                parts[1] = "retrying"
        if self._live is None or record.state != "running":  # those that run are in the table
            self.say("  ".join(parts), STYLES[record.state])

    def tick(self, running: Mapping[str, Record]) -> None:
        self._running = dict(running)
        if self._live is not None and time.monotonic() - self._last >= REFRESH:
            self._last = time.monotonic()
            self._live.refresh()

    def say(self, sentence: str, style: str = "") -> None:
        self._console.print(Text(sentence, style=style), soft_wrap=True)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("running", "frames", "", "frames/s", "return", "time"):
            table.add_column(name, justify="left" if name == "running" else "right", no_wrap=True)
        names = sorted(self._running)
        for name in names[:_ROWS]:
            cell = self._folder.cell(name)
            row = last_row(self._folder.run(name), cell.config.all_seeds)
            frame, goal = row.get("frame", 0.0), cell.config.train.frames
            table.add_row(
                escape(name),
                f"{short(frame)}/{short(goal)}",
                f"{min(1.0, frame / goal):.0%}",
                short(row.get("time/fps", math.nan)),
                f"{row['return/team']:.4g}" if "return/team" in row else "-",
                duration(time.time() - self._running[name].began),
            )
        counts = Counter(self._states.values())
        told = "  ".join(f"[{STYLES[state]}]{counts[state]} {state}[/]" for state in STYLES if counts[state])
        more = [f"and {len(names) - _ROWS} more"] if len(names) > _ROWS else []
        return Group(table, *more, Text.from_markup(told)) if names else Group(Text.from_markup(told))


def returns(record: Record) -> float:
    """Mean return of the final evaluation over episodes and seeds."""
    found = [
        sum(values) / len(values)
        for tasks in record.document.values()
        for algorithms in tasks.values()
        for seeds in algorithms.values()
        for run in seeds.values()
        if (values := run["absolute_metrics"]["return"])
    ]
    return sum(found) / len(found) if found else math.nan


def last_row(run: Path, seeds: list[int]) -> dict[str, float]:
    """The newest numbers of a run in its metrics.csv, of the first of its seeds; empty before the first."""
    path = (run / f"seed_{seeds[0]}" if len(seeds) > 1 else run) / "metrics.csv"
    try:
        with path.open("rb") as file:
            header = next(csv.reader([file.readline().decode()]))
            file.seek(max(file.tell(), path.stat().st_size - 65_536))
            lines = file.read().decode(errors="replace").splitlines()
        cells = lines[-1].split(",")
        return {key: float(cell) for key, cell in zip(header, cells, strict=True) if cell}
    except (OSError, ValueError, IndexError, StopIteration):
        return {}
