"""Exported files run by the runtimes that people deploy, on the CPU. Nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dvfl.deploy.packages import package

Runtime = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")

# Clips, float32 (B, T, 3, S, S), normalised -> logits, float32 (B, C).
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def forms(precision: str) -> tuple[Runtime, ...]:
    """Runtimes that compute in a precision on CPUs: ONNX Runtime has no bfloat16 there."""
    return ("openvino",) if precision == "bfloat16" else RUNTIMES


def load(path: str | Path, runtime: Runtime, precision: str, threads: int) -> Network:
    """The exported network as a function, computing with so many threads.

    precision: what the file was exported as. ONNX Runtime computes a bfloat16 file in float32. OpenVINO, which would
    round float32 by itself where that is faster, is told not to; the rest, and what int8 leaves open, it computes in
    bfloat16 where the processor can. It compiles the network, for seconds, at the first batch of each size.

    Raises ExportError where the runtime is not installed.
    """
    return {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](Path(path), precision, threads)


def run_batches(network: Network, batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits of all batches, (N, C)."""
    return np.concatenate([network(batch) for batch in batches])


def _onnxruntime(path: Path, precision: str, threads: int) -> Network:
    ort = package("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; its warnings are about its own choices
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (clips,) = session.get_inputs()
    return lambda batch: session.run(None, {clips.name: batch})[0]


def _openvino(path: Path, precision: str, threads: int) -> Network:
    ov = package("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # threads tied to cores wait for whatever else runs on them
    }
    core = ov.Core()
    network = core.read_model(str(path))

    @lru_cache(maxsize=2)  # a set ends with a smaller batch; each size takes seconds, and a copy of the weights
    def request(shape: tuple[int, ...]) -> Any:
        """Compiled for one shape, since OpenVINO leaves copies between layouts out only where it knows the shape."""
        static = network.clone()
        static.reshape(list(shape))
        return core.compile_model(static, "CPU", settings).create_infer_request()

    return lambda batch: request(batch.shape).infer([batch])[0].copy()  # the next pass overwrites what this one gave
