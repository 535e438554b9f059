"""Memory that is free inside the process and still counts as its own."""

import ctypes


def return_free_memory() -> None:
    """Gives back to the system what was freed between blocks that are still in use.

    The C library does so by itself only at the end of its heap: large arrays that were needed for a moment
    stay part of the process. Does nothing where the C library has no ``malloc_trim``, which is glibc's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
