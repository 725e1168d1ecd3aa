"""Timed iterations of several processes one after another: `bench.py` says whose turn it is.

Alone, a script runs its iterations without a break; only where `SPEED_TURNS` is set does it ask.
"""

from __future__ import annotations

import os
import sys

READY, GO = "ready", "go"


def wait() -> None:
    """Call it before each timed iteration."""
    if os.environ.get("SPEED_TURNS"):
        print(READY, file=sys.__stdout__, flush=True)
        sys.stdin.readline()
