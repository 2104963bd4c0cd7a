"""Keeps freed host memory in the process, so that training on a CPU does not fetch it anew at every step.

glibc hands large freed blocks back to the kernel, which zeroes a page at a time when the next step asks for them
again. Besides, threads get arenas of their own, which hold no block above 64 MB and map such ones anew each time: the
buffers of gloo's collectives. mallopt(3) describes the settings.
"""

import ctypes
import os

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")


def keep_freed_memory() -> bool:
    """Never return freed blocks to the kernel, for the rest of this process; False where the C library cannot.

    What the process holds then is its peak, rounded up by fragmentation.
    """
    return _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> bool:
    """Map every large block on its own, and give it back when it is freed; slower. False where the C library cannot.

    Call it first: what was kept before is still handed out.
    """
    return _set(_M_MMAP_MAX, 1 << 16) and _set(_M_TRIM_THRESHOLD, 1 << 17) and _set(_M_MMAP_THRESHOLD, 1 << 16)


def share_one_arena() -> bool:
    """Make new threads share the main thread's arena; only with OMP_NUM_THREADS=1 and no GPU. Gives whether it did.

    Several threads that compute would wait for each other; with a GPU, the large blocks are not the host's. Call
    it first: the arenas of threads that have allocated already (numpy and torch start some) stay in use.
    """
    return os.environ.get("OMP_NUM_THREADS") == "1" and not _sees_gpu() and _set(_M_ARENA_MAX, 1)


def _sees_gpu() -> bool:
    """By the drivers' device files: torch may not have been loaded yet."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return not hidden and any(os.path.exists(path) for path in GPU_FILES)


def _set(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
