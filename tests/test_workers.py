"""Processes that step environments: what they cannot survive ends in one sentence, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hypermarl.envs.interface import EnvironmentFault
from hypermarl.envs.pettingzoo import PettingZooVector, make
from hypermarl.envs.workers import STEP

TOY = "pettingzoo_toys:Pistons"
STILL = {"piston": torch.zeros(4, 3, dtype=torch.int64)}


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[PettingZooVector] = []

    def open_it(name: str = TOY, **options: Any) -> PettingZooVector:
        made.append(make(name, num_envs=4, workers=3, options={"longest": 30, **options}))
        return made[-1]

    yield open_it
    for env in made:
        env.close()


def workers_of(env: PettingZooVector) -> list[subprocess.Popen[bytes]]:
    assert env._crew is not None
    return list(env._crew.workers)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def soon(true: Any, seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(true())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", r"step raised RuntimeError: the piston is stuck \(pettingzoo_toys.py, line \d+\)\.$"),
        ("exit", "a worker process that steps it ended with exit status 7"),
        ("kill", "a worker process that steps it was ended by SIGKILL; was memory short?"),
    ],
)
def test_a_worker_that_fails_is_a_fault_and_leaves_nothing(opened: Any, fault: str, words: str) -> None:
    env = opened("pettingzoo_toys:Shy", fault=fault, at=2, home=os.getpid())
    workers = workers_of(env)
    env.reset(0)
    env.step(STILL)
    with pytest.raises(EnvironmentFault) as caught:
        env.step(STILL)
    assert str(caught.value).startswith("Environment 'pettingzoo_toys:Shy': ")
    assert re.search(words, str(caught.value))
    if fault == "raise":
        assert 'raise RuntimeError("the piston' in "".join(caught.value.__notes__), "the traceback is lost"
    assert all(worker.poll() is not None for worker in workers), "a worker outlived the fault"
    with pytest.raises(EnvironmentFault, match="closed since it failed"):
        env.step(STILL)


def test_a_worker_killed_between_steps_is_a_fault(opened: Any) -> None:
    env = opened()
    workers = workers_of(env)
    env.reset(0)
    env.step(STILL)
    workers[1].kill()
    workers[1].wait()
    with pytest.raises(EnvironmentFault, match="was ended by SIGKILL"):
        env.step(STILL)
    assert all(worker.poll() is not None for worker in workers)


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(opened: Any) -> None:
    env, calm = opened(), opened()
    env.reset(3)
    calm.reset(3)
    env._crew.send(STEP)  # as if Ctrl-C came between asking and waiting
    env._rows.step(auto_reset=True)
    calm.step(STILL)
    one, other = env.step(STILL), calm.step(STILL)
    assert torch.equal(one.view.observation["piston"], other.view.observation["piston"])
    assert one.view.observation["piston"][0, 0, 1] == 2, "two steps, not one"


def test_closing_twice_is_fine_and_nothing_stays() -> None:
    folder = Path("/dev/shm")
    before = set(folder.glob("hypermarl-*")) if folder.is_dir() else set()
    env = make(TOY, num_envs=2, workers=5)
    workers = workers_of(env)
    assert len(workers) == 1, "one for each environment but ours"
    # another test process may be naming its own at this moment; names last for an instant only
    assert soon(lambda: set(folder.glob("hypermarl-*")) <= before, 20.0), "the shared memory keeps its name"
    assert all(worker.poll() is None for worker in workers)
    env.close()
    assert [worker.poll() for worker in workers] == [0]
    env.close()
    with pytest.raises(EnvironmentFault, match="it is closed"):
        env.reset(0)


def test_forgetting_an_environment_ends_its_processes() -> None:
    env = make(TOY, num_envs=2, workers=2)
    workers = workers_of(env)
    del env
    assert all(worker.poll() is not None for worker in workers)


def test_options_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(EnvironmentFault, match=r"options must be plain numbers, words and lists .* use workers=1"):
        make(TOY, num_envs=2, workers=2, options={"at": object()})


SCRIPT = """
import signal, sys, torch
sys.path.insert(0, {tests!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
from hypermarl.envs.pettingzoo import make
env = make("{toy}", num_envs=3, workers=3, options={{"longest": 1000}})  # no guard around the main module
view = env.reset(0)
print(*[worker.pid for worker in env._crew.workers], flush=True)
try:
    while True:
        env.step({{"piston": torch.zeros(3, 3, dtype=torch.int64)}})
except KeyboardInterrupt:
    env.close()
    print("closed", flush=True)
"""


def started() -> tuple[subprocess.Popen[str], list[int]]:
    code = SCRIPT.format(tests=str(Path(__file__).parent), toy=TOY)
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert parent.stdout is not None
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_is_the_parents_alone() -> None:
    parent, pids = started()
    assert len(pids) == 2
    time.sleep(0.2)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does, to all in the foreground
    out, err = parent.communicate(timeout=120)
    assert out.strip() == "closed"
    assert "Traceback" not in err
    assert parent.returncode == 0
    assert not any(map(running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed() -> None:
    parent, pids = started()
    assert all(map(running, pids))
    parent.kill()
    parent.communicate(timeout=120)
    assert soon(lambda: not any(map(running, pids)))
