"""Keeps freed host memory in the process, so that training on a CPU does not fetch it anew at every step.

glibc hands large freed blocks back to the kernel, which zeroes a page at a time when the next step asks for them
again. mallopt(3) describes the two settings.
"""

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Never return freed blocks to the kernel, for the rest of this process; False where the C library cannot.

    What the process holds then is its peak, rounded up by fragmentation.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
