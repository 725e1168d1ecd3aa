"""Runs the comparisons of `rows.py` and keeps their results in `results.json` and in the table of README.md.

    python experiments/speed/bench.py                      what has no result yet
    python experiments/speed/bench.py --rows 'tanh_*'      these, anew
    python experiments/speed/bench.py --list | --table     name the rows | only write the table

Each round starts every command of a cell once, in a process of its own with one thread; then their iterations run in
turns, one process at a time, so that what else the machine does meets all sides alike. The next round has the reverse
order. What counts is CPU time: of each round the ratio of the medians over its iterations, and of the rounds the median
ratio, with the smallest and the largest beside it.

`BENCHMARL_PYTHON` names BenchMARL's interpreter if it is not that of `benchmarl.sh`.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import IO, Any

from rows import ROWS, Command, Row
from turns import GO, READY

HERE = Path(__file__).resolve().parent
MARKS = ("<!-- table -->", "<!-- end of table -->")
QUIET = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
    "RL_LOGGING_LEVEL": "ERROR",
    "SPEED_TURNS": "1",
}
Measured = dict[str, Any]


class Broken(Exception):
    """A command did not come to its end."""


class Process:
    """A command at work, which asks before each timed iteration and ends with what it found."""

    def __init__(self, command: Command, quick: bool, patience: float, errors: IO[str]) -> None:
        theirs = os.environ.get("BENCHMARL_PYTHON", ".venv-benchmarl/bin/python")
        python = theirs if command[0] == "theirs.py" else sys.executable
        few = ("--warmup", "1", "--iterations", "2") if quick else ()
        self.words = [python, str(HERE / command[0]), *command[1:], *few]
        self.found: Measured | None = None
        self._errors, self._patience = errors, patience
        try:
            self._process = subprocess.Popen(
                self.words,
                env={**os.environ, **QUIET},
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except OSError as error:
            raise Broken(f"{' '.join(self.words)}: {error}") from error
        try:
            self._await()
        except Broken:
            self.close()
            raise

    def go(self) -> None:
        """One iteration, unless it has come to its end."""
        if self.found is None:
            assert self._process.stdin is not None
            print(GO, file=self._process.stdin, flush=True)
            self._await()

    def _await(self) -> None:
        assert self._process.stdout is not None
        watch = threading.Timer(self._patience, self._process.kill)
        watch.start()
        try:
            for line in self._process.stdout:
                if line.startswith("{"):
                    self.found = json.loads(line)
                if self.found is not None or line.strip() == READY:
                    return
        finally:
            watch.cancel()
        self._process.wait()
        self._errors.seek(0)
        raise Broken(f"{' '.join(self.words)} ended with {self._process.returncode}:\n{self._errors.read()[-2000:]}")

    def close(self) -> None:
        if self.found is None:
            self._process.kill()
        self._process.wait()


def measure(rows: Sequence[Row], rounds: int, quick: bool, patience: float) -> list[dict[Command, Measured]]:
    """Every command of these rows, once per round, their iterations in turns."""
    commands = list(dict.fromkeys(command for row in rows for command in (row.first, row.second)))
    return [_round(commands if turn % 2 == 0 else commands[::-1], quick, patience) for turn in range(rounds)]


def _round(commands: Sequence[Command], quick: bool, patience: float) -> dict[Command, Measured]:
    with ExitStack() as stack:
        running: dict[Command, Process] = {}
        for command in commands:
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            running[command] = Process(command, quick, patience, errors)
            stack.callback(running[command].close)
        while any(process.found is None for process in running.values()):
            for process in running.values():
                process.go()
        return {command: process.found for command, process in running.items() if process.found is not None}


def judge(row: Row, rounds: Sequence[dict[Command, Measured]]) -> Measured:
    """The row's result out of what was measured."""

    def seconds(command: Command, one: dict[Command, Measured], clock: str) -> float:
        """Per frame."""
        return float(median(one[command][clock])) / float(one[command]["frames"])

    def ratios(clock: str) -> list[float]:
        return [row.factor * seconds(row.second, one, clock) / seconds(row.first, one, clock) for one in rounds]

    single = ratios(row.clock)
    value = median(single)
    reached = None
    if row.target is not None:
        reached = value >= row.target if row.bound == "at least" else value <= row.target
    last = rounds[-1]
    sides = {
        side: {
            "command": " ".join(command),
            "frames_per_second": 1 / median(seconds(command, one, row.clock) for one in rounds),
            **{key: entry for key, entry in last[command].items() if key not in ("frames", "cpu", "wall")},
        }
        for side, command in (("first", row.first), ("second", row.second))
    }
    return {
        "value": value,
        "lowest": min(single),
        "highest": max(single),
        "wall_value": median(ratios("wall")),
        "target": row.target,
        "bound": row.bound,
        "reached": reached,
        "rounds": len(rounds),
        **sides,
        **surroundings(),
    }


def surroundings() -> dict[str, str]:
    """Where and when, and of what."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", ":/hypermarl", ":/envs", ":/configs")
    return {
        "commit": git("rev-parse", "--short", "HEAD") + (" and changes" if changed else ""),
        "cpu": _cpu(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def table(results: dict[str, Measured]) -> str:
    lines = [
        "| claim | case | target | measured [rounds] | reached | frames/s | where our time goes |",
        "|---|---|---|---|---|---|---|",
    ]
    claim = ""
    claims = list(dict.fromkeys(row.claim for row in ROWS))
    for row in sorted(ROWS, key=lambda row: claims.index(row.claim)):
        target = "-" if row.target is None else f"{row.bound} {_number(row, row.target)}"
        lines.append(f"| {'' if row.claim == claim else row.claim} | {row.case} | {target} | {_cells(row, results)} |")
        claim = row.claim
    return "\n".join(lines)


def _cells(row: Row, results: dict[str, Measured]) -> str:
    result = results.get(row.name)
    if result is None:
        return ("no GPU at hand" if row.gpu else "not run") + " | | | "
    own = result["first" if row.own == row.first else "second"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in own.get("shares", {}).items() if share >= 0.005)
    speeds = " / ".join(f"{result[side]['frames_per_second']:,.0f}" for side in ("first", "second"))
    value, low, high = (_number(row, result[key]) for key in ("value", "lowest", "highest"))
    reached = {True: "yes", False: "**no**", None: "-"}[result["reached"]]
    return f"{value} [{low}, {high}] | {reached} | {speeds} | {shares}"


def _number(row: Row, value: float) -> str:
    return f"{value:.1%}" if row.name.startswith("physics") else f"{value:.3g}x" if value >= 100 else f"{value:.2f}x"


def write_table(results: dict[str, Measured], page: Path) -> None:
    """Put the table between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    write(page, f"{before}{MARKS[0]}\n{table(results)}\n{MARKS[1]}{after}")


def chosen(patterns: Iterable[str] | None, results: dict[str, Measured]) -> list[Row]:
    gpu = has_gpu()
    rows = [row for row in ROWS if gpu or not row.gpu]
    if patterns is None:
        return [row for row in rows if row.name not in results]
    return [row for row in rows if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="names or patterns; default: all without a result")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json and README.md")
    parser.add_argument("--quick", action="store_true", help="two iterations each: does it run?")
    parser.add_argument("--patience", type=float, default=600, help="seconds that a start or an iteration may take")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    parser.add_argument("--table", action="store_true", help="only write the table")
    given = parser.parse_args()
    if given.quick and given.out == HERE:
        given.out = Path(tempfile.mkdtemp())  # these numbers are no results
    path, page = given.out / "results.json", given.out / "README.md"
    results: dict[str, Measured] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = [] if given.table else chosen(given.rows, results)
    if given.list:
        print("\n".join(row.name for row in rows))
        return
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row.cell or row.name, []).append(row)
    broken = 0
    for cell, members in cells.items():
        try:
            rounds = measure(members, given.rounds, given.quick, given.patience)
        except Broken as error:
            broken += 1
            print(f"{cell}: {error}", file=sys.stderr, flush=True)
            continue
        for row in members:
            results[row.name] = judge(row, rounds)
            print(f"{row.name}: {_cells(row, results)}", flush=True)
        given.out.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(results, indent=1))
    if page.exists():
        write_table(results, page)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
