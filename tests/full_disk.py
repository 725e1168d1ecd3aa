"""Disks for tests: one that is full, for this process, and one that is fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def fast_disk() -> Iterator[None]:
    """Nothing waits for the disk; what is in files is the same, short of a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file raises `OSError`, as on a full disk after a partial write."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
