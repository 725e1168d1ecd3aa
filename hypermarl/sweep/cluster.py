"""Cells as tasks of a running Ray cluster, one each; the sweep's folder is on a filesystem that all nodes see.

A task starts the cell's process on its node and waits for it. Retries are the sweep's own, not Ray's: a node that dies
takes its tasks along, the cells are given to Ray once more, and go on from their checkpoints elsewhere.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from hypermarl.errors import UserError
from hypermarl.sweep.cell import NODE, SHIELD, UNSEEN, find
from hypermarl.sweep.folder import Cell, SweepFolder
from hypermarl.sweep.launch import Ended, cores, spawn

PROBE_SECONDS = 120.0


class Cluster:
    """The cluster at RAY_ADDRESS, or the one that this machine belongs to; at most `jobs` tasks are in it at once."""

    def __init__(self, jobs: int | None = None) -> None:
        self.ray = connect()
        self._jobs = jobs
        self._tasks: dict[Any, str] = {}

    def open(self, folder: SweepFolder) -> str:
        self._folder = folder
        nodes = [node for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        self._probe(nodes)
        found = sum(node["Resources"]["CPU"] for node in nodes)
        widest = max((cores(cell.config) for cell in folder.cells), default=1)
        told = f"on Ray, {len(nodes)} node{'s' * (len(nodes) != 1)} with {found:g} core{'s' * (found != 1)}"
        if widest > max((node["Resources"]["CPU"] for node in nodes), default=0):
            told += f"; no node has the {widest} cores that a cell wants, it waits for one that has"
        if any(_gpu(cell) for cell in folder.cells) and not any(node["Resources"].get("GPU") for node in nodes):
            told += "; no node has a GPU, cells with device=cuda wait for one that has"
        return told

    def room(self) -> bool:
        return self._jobs is None or len(self._tasks) < self._jobs

    def start(self, cell: Cell) -> None:
        folder = self._folder
        task = self.ray.remote(work_on).options(
            name=cell.name,
            num_cpus=cores(cell.config),
            num_gpus=1 if _gpu(cell) else 0,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        place = (str(folder.path.resolve()), folder.token, cell.name, cell.config.train.threads, os.getcwd())
        self._tasks[task.remote(*place)] = cell.name

    def ended(self) -> list[Ended]:
        if not self._tasks:
            return []
        done, _ = self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._outcome(task, self._tasks.pop(task)) for task in done]

    def stop(self, *, now: bool = False) -> None:
        for task in self._tasks:
            self.ray.cancel(task, force=now)

    def close(self) -> None:
        self.stop(now=True)
        self._tasks.clear()
        self.ray.shutdown()

    def _outcome(self, task: Any, name: str) -> Ended:
        try:
            code, node = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return Ended(name, 1, _reason(error))
        if code == UNSEEN:
            return Ended(name, code, unseen(node, self._folder.path))
        return Ended(name, code)

    def _probe(self, nodes: list[dict[str, Any]]) -> None:
        """Ask every node whether it sees the folder, in this version of HyperMARL, before anything starts."""
        from importlib import metadata

        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        version = metadata.version("hypermarl")
        path = str(self._folder.path.resolve())
        asked = {}
        for node in nodes:
            place = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            task = self.ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
            asked[task.remote(path, self._folder.token)] = node["NodeManagerHostname"]
        for task, name in asked.items():
            try:
                seen, theirs = self.ray.get(task, timeout=PROBE_SECONDS)
            except self.ray.exceptions.GetTimeoutError:
                raise UserError(f"The Ray node {name} does not answer.") from None
            except (self.ray.exceptions.RayError, ImportError) as error:
                raise UserError(f"The Ray node {name} cannot run HyperMARL: {_reason(error)}") from error
            if not seen:
                raise UserError(unseen(name, self._folder.path))
            if theirs != version:
                raise UserError(f"The Ray node {name} has HyperMARL {theirs}, this machine {version}.")


def connect() -> Any:
    """The module `ray`, connected to a running cluster."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # pages of its nodes' logs among our lines
    import ray

    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _knock(address)
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL)
    except (ConnectionError, TimeoutError, socket.gaierror):
        where = "on this machine" if address == "auto" else f"at RAY_ADDRESS={address}"
        raise UserError(
            f"No Ray cluster can be reached {where}; start one with `ray start --head`, or set RAY_ADDRESS."
        ) from None
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"The Ray cluster at {address} cannot be used: {_reason(error)}") from error
    return ray


def _knock(address: str) -> None:
    """Raise at once where nobody listens at `host:port`: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def unseen(node: str, path: Path) -> str:
    return (
        f"The Ray node {node} does not see {path.resolve()}; "
        "put the sweep on a filesystem that all nodes share (--out or train.folder)."
    )


# ---------------------------------------------------------------------------------------------- on a node


def look(path: str, token: str) -> tuple[bool, str]:
    """Whether this node sees the sweep, and its version of HyperMARL."""
    from importlib import metadata

    return find(Path(path), token) is not None, metadata.version("hypermarl")


def work_on(path: str, token: str, name: str, threads: int, start: str) -> tuple[int, str]:
    """Run a cell's process on this node; its exit status, and where that was."""
    import ray

    host = socket.gethostname()
    if find(Path(path), token) is None:
        return UNSEEN, host
    if os.path.isdir(start):  # modules of the user's are found from where the command was given
        os.chdir(start)
    log = Path(path) / "cells" / f"{name}.log"
    more = {NODE: f"{host} {ray.get_runtime_context().get_node_id()[:12]}"}
    # Ray cancels by SIGINT, which is ignored where the node was started in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)
    one = spawn(Path(path), token, name, threads, log, {**more, SHIELD: "1"})
    try:
        while one.poll() is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        one.send_signal(signal.SIGTERM)
        one.wait()
    return one.returncode, host


def _gpu(cell: Cell) -> bool:
    return cell.config.device.startswith("cuda")


_ENDS = {
    "NodeDiedError": "The node it ran on died, or cannot be reached.",
    "WorkerCrashedError": "The Ray worker it ran in died.",
    "LocalRayletDiedError": "The node it ran on died.",
    "OutOfMemoryError": "Ray ended it because its node ran short of memory.",
    "TaskCancelledError": "It was cancelled.",
}


def _reason(error: BaseException) -> str:
    """One sentence instead of Ray's often long texts: our own, or their last line, which names the cause."""
    kind = type(error).__name__
    if kind in _ENDS:
        return _ENDS[kind]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{kind}: {lines[-1][:300]}" if lines else kind
