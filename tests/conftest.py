"""One thread for every test: results repeat bit for bit, and tests that run side by side do not fight for cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import torch
from hypothesis import HealthCheck, settings

# the same examples each time, and no failure because a machine is busy
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

torch.set_num_threads(1)
