"""One cell in a process of its own: `python -m hypermarl.sweep.cell SWEEP TOKEN NAME`.

It trains the cell, or continues it from its newest checkpoint, and writes the cell's record. Its standard input is a
pipe that nobody writes to: when that closes, whoever started it is gone, and it stops as if by Ctrl-C, saving first.

Exit status: 0 finished; 1 crashed; 2 a mistake of the user's, told in the record, which trying again cannot mend; 3 the
folder is not the sweep that was meant; 4 stopped before the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hypermarl.errors import UserError

if TYPE_CHECKING:
    from hypermarl.evaluation.metrics import Document
    from hypermarl.marl.settings import ExperimentConfig
    from hypermarl.marl.train import Result
    from hypermarl.sweep.folder import Cell, SweepFolder

FINISHED, CRASHED, MISTAKE, UNSEEN, STOPPED = 0, 1, 2, 3, 4
NODE = "HYPERMARL_NODE"
"""Environment variable: the name of the machine, for the record."""
SHIELD = "HYPERMARL_SHIELD"
"""Environment variable: work in a child of this process, as Ray kills at once what a dying worker has started."""
PATIENCE = 600.0
"""Seconds to wait for another process to let go of the cell, such as one that is writing its last checkpoint."""


def main(arguments: list[str]) -> int:
    """Work on one cell; the return value is the exit status."""
    path, token, name = Path(arguments[0]), arguments[1], arguments[2]
    if os.environ.pop(SHIELD, ""):
        _shield()
    _stop_when_alone()
    folder = find(path, token, name)
    if folder is None:
        return UNSEEN
    with folder.locked(name, PATIENCE) as ours:
        if not ours:
            print(f"Another process still works on {name}.", file=sys.stderr)
            return STOPPED
        return work(folder, folder.cell(name), train)


def find(path: Path, token: str, *names: str, patience: float = 20.0) -> SweepFolder | None:
    """The sweep at `path`, with cells `names`, if it is the one that is meant.

    Patience is for a network's filesystem, which may need a moment to show it.
    """
    from hypermarl.sweep.folder import SweepFolder

    until = time.monotonic() + patience
    while True:
        try:
            folder = SweepFolder.open(path, names)
            if folder.token == token:
                return folder
        except UserError:
            pass
        if time.monotonic() >= until:
            return None
        time.sleep(0.5)


def work(folder: SweepFolder, cell: Cell, train: Callable[[SweepFolder, Cell], Result]) -> int:
    """Train the cell and keep its record."""
    from hypermarl.sweep.folder import Record

    before, began = folder.record(cell.name), time.time()
    if before.state == "running":  # its process was killed, and so was the one that watched it
        before = folder.bury(cell.name, "stopped")
    if before.state == "finished":  # its run folder was removed, or nobody would ask
        before = Record(attempts=before.attempts)
    record = replace(
        before,
        state="running",
        attempts=before.attempts + 1,
        began=began,
        sentence="",
        node=os.environ.get(NODE, ""),
    )
    folder.write_record(cell.name, record)
    print(f"--- {cell.name}: attempt {record.attempts}, {time.strftime('%Y-%m-%d %H:%M:%S')} {record.node}", flush=True)
    try:
        result = train(folder, cell)
        record = replace(record, frame=result.frame, failed_seeds=result.failed, state="stopped")
        if result.finished:
            record = replace(record, state="finished", document=document(cell.config, result))
        code = FINISHED if result.finished else STOPPED
    except Exception as error:
        mistake = isinstance(error, UserError)
        if mistake:
            print(f"error: {error}", file=sys.stderr)
        else:  # an environment's faults as well: a worker of it that was killed may live the next time
            traceback.print_exc()
        record = replace(record, state="failed" if mistake else "crashed", sentence=_line(error))
        code = MISTAKE if mistake else CRASHED
    record = replace(record, seconds=record.seconds + time.time() - began)
    try:
        folder.write_record(cell.name, record)
    except ValueError:
        sentence = "The final evaluation has numbers that are not finite."
        folder.write_record(cell.name, replace(record, state="failed", sentence=sentence, document={}))
        return MISTAKE
    return code


def train(folder: SweepFolder, cell: Cell) -> Result:
    """Begin the cell, or go on where it stands."""
    from hypermarl.marl.train import Experiment

    path = folder.run(cell.name)
    if (path / "config.json").exists():
        return Experiment.resume(path).run()
    if path.exists():  # killed while it was being made
        shutil.rmtree(path)
    own = replace(cell.config.train, folder=str(folder.runs), run=cell.name)
    return Experiment(replace(cell.config, train=own)).run()


def document(config: ExperimentConfig, result: Result) -> Document:
    """The final evaluation of all seeds, as marl-eval reads it."""
    from hypermarl.evaluation.metrics import Measurement, document, merge

    algorithm = f"{config.algorithm.name}_{config.sharing.name}"
    place = (config.env.kind, config.env.name, algorithm)
    seeds = zip(config.all_seeds, result.episodes, strict=True)
    return merge(*(document(*place, seed, [Measurement(result.frame, played)]) for seed, played in seeds))


def _line(error: Exception) -> str:
    """One sentence for the record; of a fault of ours, its kind as well."""
    interface = sys.modules.get("hypermarl.envs.interface")
    if isinstance(error, UserError) or (interface and isinstance(error, interface.EnvironmentFault)):
        return " ".join(str(error).split())
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _shield() -> None:
    """Return in a child; this process waits for it, passes a termination on, and ends as it ends."""
    held = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)  # one that comes before there is a handler waits for it
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError):  # the system lets nobody change what SIGKILL does
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _stop_when_alone() -> None:
    """A thread that does nothing but wait for the standard input to close."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
