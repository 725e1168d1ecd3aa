"""A Ray cluster of this machine's own for tests: a head without cores and two workers with one, on loopback addresses.

Every node is a process group, so that ending it touches nothing that the test did not start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ALIVE = """
import ray
ray.init(log_to_driver=False, configure_logging=False, logging_level="critical")
print(*(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]))
"""
PATIENCE = 300.0


@dataclass
class Nodes:
    """Running nodes by loopback address, and the environment of commands that are to use them."""

    environment: dict[str, str]
    groups: dict[str, subprocess.Popen[bytes]]

    def kill(self, address: str) -> None:
        """End a node as a power cut would."""
        group = self.groups.pop(address)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGKILL)
        group.wait()

    def alive(self) -> list[str]:
        command = [sys.executable, "-c", ALIVE]
        try:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60.0)
        except subprocess.TimeoutExpired:
            return []
        return done.stdout.split()


@contextlib.contextmanager
def cluster() -> Iterator[Nodes]:
    """Two workers at 127.0.0.3 and 127.0.0.4; sockets want a short path, so files lie in /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ADDRESS": f"127.0.0.2:{port}", "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    nodes = Nodes(environment, {})
    try:
        head = ["--head", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=0", "--include-dashboard=false"]
        health = '{"health_check_period_ms": 1000, "health_check_failure_threshold": 5}'
        _start(nodes, "127.0.0.2", *head, f"--ray-client-server-port={_free_port()}", f"--system-config={health}")
        for address in ("127.0.0.3", "127.0.0.4"):  # one after the other: nodes that start at once take the same ports
            _start(nodes, address, f"--address=127.0.0.2:{port}", "--num-cpus=1")
        yield nodes
    finally:
        for address in list(nodes.groups):
            nodes.kill(address)
        shutil.rmtree(folder, ignore_errors=True)


def _start(nodes: Nodes, address: str, *options: str) -> None:
    """Start a node and wait for it; where a machine is busy Ray gives up early, so it may try again."""
    for _ in range(3):
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={address}", *options]
        nodes.groups[address] = subprocess.Popen(
            [*command, "--block", "--disable-usage-stats", f"--object-store-memory={80_000_000}"],
            env={name: value for name, value in nodes.environment.items() if name != "RAY_ADDRESS"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + PATIENCE
        while nodes.groups[address].poll() is None and time.monotonic() < until:
            if address in nodes.alive():
                return
            time.sleep(0.3)
        nodes.kill(address)
    raise AssertionError(f"the Ray node {address} cannot be started")


def _free_port() -> int:
    with socket.create_server(("127.0.0.2", 0)) as server:
        return int(server.getsockname()[1])
