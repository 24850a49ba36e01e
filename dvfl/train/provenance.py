"""What made a number: the code, the packages, the machine."""

from __future__ import annotations

import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = [
    "torch",
    "torchvision",
    "timm",
    "av",
    "numba",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "safetensors",
    "optuna",
    "mlflow",
    "snakemake",
]


def code_version(place: Path | None = None) -> tuple[str | None, bool | None]:
    """Commit of the checkout that holds this code and whether tracked files differ from it; None outside git."""
    place = place or Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", place, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.CalledProcessError):
        return None, None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
