"""Freed memory stays with the process: measured in one of its own, since what is told to the C library lasts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hypermarl import memory

COUNT = """
import resource, sys
import torch
from hypermarl.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for turn in range(8):
    before = faults()
    blocks = [torch.ones(5_000_000) for _ in range(4)]
    del blocks
    last = faults() - before
print(last)
"""


def page_faults(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_pages_are_paid_for_once() -> None:
    assert page_faults("kept") < 1_000 < 10_000 < page_faults("not kept")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
