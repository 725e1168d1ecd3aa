"""Freed memory stays with the process: measured in one of its own, since what is told to the C library lasts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hypermarl import memory

COUNT = """
import ctypes, resource
import torch
from hypermarl.memory import keep_freed_memory
torch.set_num_threads(1)

def faults():
    for turn in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(250_000) for _ in range(120)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for parameter in (-3, -1):  # where glibc starts from, and where a run may be left by what it allocated first
    assert ctypes.CDLL(None).mallopt(parameter, 128 * 1024) == 1
print(faults())
assert keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_pages_are_paid_for_once() -> None:
    found = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, after = map(int, found.stdout.split())
    assert after < 100 < 5_000 < before


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
