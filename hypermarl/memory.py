"""Keep freed memory in the process: training asks for the same few megabytes again and again.

The C library gives large freed blocks back to the system at once, and the next tensor of that size pays for every page
of it anew. Whether it does depends on the order of early allocations, so that equal runs were up to twice as slow as
others (measured, see experiments/LOG.md).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD = -1  # the parameter numbers of mallopt(3)
_TOP_PAD = -2
_MMAP_THRESHOLD = -3
_MEGABYTE = 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to hold on to what is freed; False where there is no glibc to be told.

    Blocks above 32 MB (glibc's own limit) still come from and go to the system.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((_MMAP_THRESHOLD, 32 * _MEGABYTE), (_TRIM_THRESHOLD, 1024 * _MEGABYTE), (_TOP_PAD, 64 * _MEGABYTE))
    done = [mallopt(name, value) for name, value in wanted]  # all of them, whatever the first says
    return all(done)
