"""How a training allocates: each large block for itself, in huge pages.

glibc keeps blocks of up to 32 MB in heaps, which after a few steps are a fifth holes: tensors of other sizes do not fit
where the last ones were. A block of its own is given back whole, and huge pages make up for asking the system for it
again. Measured in dvfl/bench/README.md.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGE = 4 * 1024**2
KEPT = 64 * 1024**2  # free memory at a heap's end that it keeps, as glibc itself would after a while
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # read by PyTorch when it first allocates


def allocate_large_blocks_apart() -> None:
    """Call it before PyTorch is imported. Does nothing where there is no glibc; a set environment variable stands."""
    os.environ.setdefault(HUGE_PAGES, "1")
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and not {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ):
        set_option(M_MMAP_THRESHOLD, LARGE)
        set_option(M_TRIM_THRESHOLD, KEPT)
