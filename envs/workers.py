"""Processes that step PettingZoo environments into a shared board; only a byte per step goes through a pipe.

A worker is a fresh interpreter that runs `serve`, not a `multiprocessing` child: it does not import the user's main
module again, so that scripts need no guard, and gets no Ctrl-C of the terminal's. The process that asks does a share
of the work itself: it has nothing else to do meanwhile, and is awake when the others are done.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

from .board import Board
from .bridge import fault, raised
from .interface import Continuous, Discrete, EnvironmentFault, Group
from .rows import Rows, open_to_train

RESET, STEP, STEP_ONLY = b"r", b"s", b"n"  # the last does not reset what ends
_DONE, _FAULT = b".", b"!"
_POLL = 1e-4  # seconds to look for the answer on the board before sleeping on the pipe: waking up costs about 30 us


class Crew:
    """Workers, each with a share of the rows of `board` from `start` on; those before are the caller's to step."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        groups: Mapping[str, Group],
        num_envs: int,
        *,
        start: int,
        processes: int,
        max_steps: int | None,
    ) -> None:
        self.name = name
        size = Board.size(groups, num_envs)
        with _shared_file(size) as file:
            self.board = Board(groups, num_envs, mmap.mmap(file.fileno(), size))
            shares = [start + (num_envs - start) * i // processes for i in range(processes + 1)]
            job = {
                "path": [str(folder) for folder in sys.path],
                "name": name,
                "options": dict(options),
                "groups": {name: _as_words(group) for name, group in groups.items()},
                "num_envs": num_envs,
                "max_steps": max_steps,
                "memory": file.name,
            }
            try:
                json.dumps(job)
            except (TypeError, ValueError) as error:
                raise fault(
                    name,
                    f"its options must be plain numbers, words and lists to reach workers ({error}); use workers=1",
                ) from error
            self.workers: list[subprocess.Popen[bytes]] = []
            self._end = weakref.finalize(self, _dismiss, self.workers)
            self._turn = [0] * processes
            self._waiting: set[int] = set()
            try:
                for i, (first, stop) in enumerate(itertools.pairwise(shares)):
                    self.workers.append(_hire({**job, "start": first, "stop": stop, "place": i}))
                    self._expect(i)
                self.collect()
            except BaseException:
                self.close()
                raise

    def send(self, command: bytes) -> None:
        """Start a command everywhere; all earlier ones must be collected."""
        for i, worker in enumerate(self.workers):
            assert worker.stdin is not None
            try:
                self._expect(i)
                worker.stdin.write(command)
            except OSError:
                raise self._lost(i) from None

    def collect(self) -> None:
        """Wait until all have answered; the first fault among the answers is raised when all have."""
        faults = [self._answer(i) for i in sorted(self._waiting)]
        for each in faults:
            if each is not None:
                raise each

    def close(self) -> None:
        self._end()

    def _expect(self, i: int) -> None:
        self._turn[i] = (self._turn[i] + 1) % 256
        self._waiting.add(i)

    def _answer(self, i: int) -> EnvironmentFault | None:
        answers, turn, worker = self.board["answers"], self._turn[i], self.workers[i]
        assert worker.stdout is not None
        until = time.perf_counter() + _POLL
        while answers[i] != turn and time.perf_counter() < until:
            _yield()
        byte = worker.stdout.read(1)
        self._waiting.discard(i)
        if byte == _DONE:
            return None
        if byte == _FAULT:
            answer = json.loads(worker.stdout.readline())
            found = EnvironmentFault(answer["sentence"])
            found.add_note(answer["note"])
            return found
        raise self._lost(i)

    def _lost(self, i: int) -> EnvironmentFault:
        code = self.workers[i].wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        memory = "; was memory short?" if code == -getattr(signal, "SIGKILL", 9) else ""
        self.close()
        return fault(self.name, f"a worker process that steps it {how}{memory}")


def _hire(job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    code = (
        "import json, sys; job = json.loads(sys.argv[1]); sys.path[:] = job['path']; "
        f"from {__name__} import serve; serve(job)"
    )
    # A worker does small things: threads of its own would only fight with its neighbours' for the cores.
    quiet = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    }
    kwargs: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        kwargs = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", code, json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **quiet, "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"},
        **kwargs,
    )


def _dismiss(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                pipe.close()  # the end of its commands ends a worker
    until = time.monotonic() + 5.0
    for worker in workers:
        try:
            worker.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _shared_file(size: int) -> BinaryIO:
    """A file of `size` zeros in memory where there is such a place and room, else on disk; gone when it is closed."""
    for folder in ("/dev/shm", None):
        if folder is not None and not os.access(folder, os.W_OK):
            continue
        file = tempfile.NamedTemporaryFile(prefix="hypermarl-", dir=folder)  # noqa: SIM115
        try:
            if hasattr(os, "posix_fallocate"):  # room that is only promised would end the process when it is used
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return file  # type: ignore[return-value]
        except OSError:
            file.close()
            if folder is None:
                raise
    raise AssertionError("unreachable")


def _yield() -> None:
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)


def _as_words(group: Group) -> dict[str, Any]:
    kind = "discrete" if isinstance(group.action, Discrete) else "continuous"
    return {**asdict(group), "action": {"kind": kind, **asdict(group.action)}}


def _from_words(words: Mapping[str, Any]) -> Group:
    action = dict(words["action"])
    if action.pop("kind") == "discrete":
        return Group(**{**words, "agents": tuple(words["agents"]), "action": Discrete(**action)})
    box = Continuous(tuple(action["low"]), tuple(action["high"]))
    return Group(**{**words, "agents": tuple(words["agents"]), "action": box})


# -- in the worker -----------------------------------------------------------------------------------------------------


def serve(job: Mapping[str, Any]) -> None:
    """Obey commands from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # what an environment prints must not be taken for an answer
    place, turn = job["place"], 1
    board: Board | None = None
    rows: Rows | None = None
    try:
        groups = {name: _from_words(words) for name, words in job["groups"].items()}
        with open(job["memory"], "r+b") as file:
            board = Board(groups, job["num_envs"], mmap.mmap(file.fileno(), 0))
        rows = _open_rows(job, groups, board)
        while True:
            board["answers"][place] = turn
            os.write(answers, _DONE)
            command = os.read(0, 1)
            if not command:
                break
            turn = (turn + 1) % 256
            if command == RESET:
                rows.reset()
            else:
                rows.step(auto_reset=command == STEP)
    except BrokenPipeError:
        pass
    except BaseException as error:  # sys.exit() of an environment as well
        found = error if isinstance(error, EnvironmentFault) else raised(job["name"], "a worker process", error)
        note = "\n".join(getattr(found, "__notes__", []))
        os.write(answers, _FAULT + json.dumps({"sentence": str(found), "note": note}).encode() + b"\n")
    finally:
        if rows is not None:
            rows.close()
        sys.stdout.flush()
        os._exit(0)  # there is nothing to take down with care, and torch takes its time


def _open_rows(job: Mapping[str, Any], groups: Mapping[str, Group], board: Board) -> Rows:
    env, form = open_to_train(job["name"], job["options"])
    if form.groups != groups:
        raise fault(job["name"], "its spaces are not the same each time it is made; they must not depend on chance")
    return Rows(
        job["name"],
        job["options"],
        form,
        board,
        max_steps=job["max_steps"],
        start=job["start"],
        stop=job["stop"],
        first=env,
    )
