"""What a measurement was made on: the machine, the packages, the memory that was needed."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """The processor's name, its logical cores (those this process may use, too), memory, platform.

    memory_gb is in 10^9 bytes.
    """
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=True),
        "usable_cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **package_versions(["torch"]),
    }


def cpu_name() -> str:
    """The processor's name as its maker writes it, or its architecture where that is hidden."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores that this process may run on: a scheduler may have given it fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the packages that are installed, by name, without importing them."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def peak_memory_mb() -> dict[str, float]:
    """Largest resident memory so far, 10^6 bytes: of this process, and of its largest child.

    Only children that have ended are known of, and pages that a child shares with its parent
    count for both, so the two must not be added.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return {"process": round(peak_bytes() / 1e6, 1), "largest_child": round(children / 1e6, 1)}


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    From /proc where there is one: getrusage hands down the peak of the process that started this
    one, as it stood when this one was started.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return psutil.Process().memory_info().rss
