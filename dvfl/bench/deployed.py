"""Exported networks in the runtimes that they are for, beside PyTorch's eager float32."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dvfl.bench.pairs import Sides, Sizes, Unavailable, pair
from dvfl.bench.products import count_operations, of_products
from dvfl.deploy.check import agreement
from dvfl.deploy.job import eager
from dvfl.deploy.onnx_file import as_onnx
from dvfl.deploy.packages import ExportError, package
from dvfl.deploy.quantise import in_precision
from dvfl.deploy.runtimes import forms, load, times_by_kind
from dvfl.models import create_model

# Ratios to reach, and the largest error of a logit as a share of the largest. That of int8 is wide: its error is judged
# by top-1 on real clips (`dvfl export`) and not on the random ones here.
TARGETS = {"float32": (2.0, 1e-5), "bfloat16": (3.5, 5e-3), "int8": (5.0, 5e-2)}


def random_clips(sizes: Sizes, batch: int, seed: int) -> np.ndarray:
    shape = (batch, sizes.frames, 3, sizes.img_size, sizes.img_size)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@cache
def exported(name: str, sizes: Sizes) -> tuple[nn.Module, Path]:
    """The network, of random weights, and a folder with its float32 file; other precisions come beside it."""
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    size = {"num_classes": sizes.num_classes, "num_frames": sizes.frames, "img_size": sizes.img_size}
    network = create_model(name, **size).eval()
    folder = Path(tempfile.mkdtemp(prefix="dvfl-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package("onnx").save(as_onnx(network, sizes.frames, sizes.img_size), folder / "float32.onnx")
    return network, folder


def deployed(sizes: Sizes, name: str, batch: int, runtime: str, precision: str) -> Sides:
    """A forward pass in a runtime."""
    try:
        network, folder = exported(name, sizes)
        file = folder / f"{precision}.onnx"
        if not file.exists():
            graph = package("onnx").load(folder / "float32.onnx")
            package("onnx").save(in_precision(graph, precision, [random_clips(sizes, 1, seed=1)], folder), file)
        fast = load(file, runtime, precision, sizes.threads)
    except ExportError as error:
        raise Unavailable(str(error)) from error
    slow, clips = eager(network), random_clips(sizes, batch, seed=0)
    found = agreement(fast(clips), slow(clips))
    note = f"top-1 as in PyTorch for {found.clips - found.top1_differs} of {found.clips} random clips"

    def products() -> float:
        if runtime == "openvino" and batch > 1:  # clips side by side, which its profiler would add up
            alone = of_products(times_by_kind(file, runtime, precision, 1, clips[:1]))
            return alone * batch / min(batch, sizes.threads)
        return of_products(times_by_kind(file, runtime, precision, sizes.threads, clips))

    return Sides(
        partial(slow, clips),
        partial(fast, clips),
        deviation=found.relative_error,
        note=note,
        products=products,
        operations=count_operations(network, torch.from_numpy(clips)) if precision == "float32" else None,
    )


for _name in ("vfl_net", "video_focalnet_base"):
    for _batch in (1, 4):
        for _precision, (_target, _tolerance) in TARGETS.items():
            for _runtime in forms(_precision):
                pair(
                    f"export/{_name}/batch{_batch}/{_runtime}/{_precision}",
                    what=f"forward, {_name}, 8x224x224, batch {_batch}, exported",
                    slow="PyTorch, eager, float32",
                    fast=f"{_runtime}, {_precision}",
                    target=_target,
                    tolerance=_tolerance,
                )(partial(deployed, name=_name, batch=_batch, runtime=_runtime, precision=_precision))
