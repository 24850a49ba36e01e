"""Exported networks against PyTorch's eager float32, at the paper's sizes: python tests/benchmark_export.py

Every form runs in turn in one process, so that whatever else the machine does meets all alike; the ratio is the median
over turns of eager's time over the form's, its spread the quartiles. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dvfl.deploy.check import agreement
from dvfl.deploy.job import eager
from dvfl.deploy.onnx_file import as_onnx
from dvfl.deploy.packages import package
from dvfl.deploy.quantise import in_precision
from dvfl.deploy.runtimes import Network, forms, load
from dvfl.models import create_model


def pairs(model: str, threads: int, folder: Path) -> Iterator[tuple[str, Network]]:
    """PyTorch's network, then each exported form of it, by name: functions from clips (B, 8, 3, 224, 224) to logits."""
    torch.manual_seed(0)
    network = create_model(model, num_classes=101).eval()
    yield "PyTorch eager, float32", eager(network)
    graph = as_onnx(network, 8, 224)
    clips = np.random.default_rng(1).standard_normal((1, 8, 3, 224, 224), dtype=np.float32)
    for precision in ("float32", "bfloat16", "int8"):
        file = folder / f"{precision}.onnx"
        package("onnx").save(in_precision(graph, precision, [clips], folder), file)
        for runtime in forms(precision):
            yield f"{runtime}, {precision}", load(file, runtime, precision, threads)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["vfl_net", "video_focalnet_base"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| model | batch | form | ms | times as fast as eager [quartiles] | error of the logits |")
    print("|---|---|---|---|---|---|")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            networks = dict(pairs(model, arguments.threads, Path(folder)))
            for batch in arguments.batches:
                clips = np.random.default_rng(0).standard_normal((batch, 8, 3, 224, 224), dtype=np.float32)
                logits = {name: run(clips) for name, run in networks.items()}  # warms up, too
                seconds: dict[str, list[float]] = {name: [] for name in networks}
                for _ in range(arguments.turns):
                    for name, run in networks.items():
                        begin = time.perf_counter()
                        run(clips)
                        seconds[name].append(time.perf_counter() - begin)
                first = next(iter(networks))
                for name in networks:
                    ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
                    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
                    error = agreement(logits[name], logits[first]).relative_error
                    print(
                        f"| {model} | {batch} | {name} | {statistics.median(seconds[name]) * 1e3:.0f} | "
                        f"{middle:.2f} [{low:.2f}, {high:.2f}] | {error:.1g} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
