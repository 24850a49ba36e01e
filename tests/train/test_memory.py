"""Large blocks that a training lets go are given back, and are held without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dvfl.train.memory import HUGE_PAGES

LEFT = """
import sys
from dvfl.train.memory import allocate_large_blocks_apart
assert "torch" not in sys.modules
if sys.argv[1] == "apart":
    allocate_large_blocks_apart()
import torch

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

torch.ones(2**22)  # 16 MB: by default blocks of that size are in a heap from now on
before = held()
blocks = [torch.ones(2**21) for _ in range(8)]  # 8 MB each
del blocks[:-1]
print(held() - before)
"""


def left(how: str, **environment: str) -> float:
    """MB that are still there when seven of eight blocks are gone."""
    inherited = {key: value for key, value in os.environ.items() if key != HUGE_PAGES} | environment
    done = subprocess.run([sys.executable, "-c", LEFT, how], env=inherited, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_large_blocks_are_given_back_at_once():
    assert left("apart") < 16 < 48 < left("as it is")
    assert left("apart", MALLOC_MMAP_THRESHOLD_=str(2**25)) > 48  # a user's own choice stands
