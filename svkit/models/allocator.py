"""Freed memory stays with the process: training on a CPU allocates the same large tensors in every step.

glibc gives each of them back to the system and gets it again, zeroed page by page, which is a quarter of the computing
time of a step of the `tiny` model (`benchmarks/training_step.py` measures with and without).
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2**31 - 1
_GROW_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and to keep the heap; elsewhere nothing happens.

    Returns:
        Whether the allocator took the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEEP_BYTES), (_M_TOP_PAD, _GROW_BYTES))
    return all(libc.mallopt(ctypes.c_int(option), ctypes.c_int(value)) == 1 for option, value in settings)
