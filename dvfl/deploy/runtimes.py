"""Exported files run by the runtimes that people deploy, on the CPU. Nothing here needs PyTorch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
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
    bfloat16 where the processor can. It takes a batch's clips at the same time, on a share of the threads each, and
    compiles the network, for seconds, for the first batch of one clip and of several.

    Raises ExportError where the runtime is not installed.
    """
    return {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](Path(path), precision, threads)


def run_batches(network: Network, batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits of all batches, (N, C)."""
    return np.concatenate([network(batch) for batch in batches])


def times_by_kind(
    path: str | Path, runtime: Runtime, precision: str, threads: int, batch: NDArray[np.float32]
) -> dict[str, float]:
    """Seconds that each kind of operator, as the runtime calls them, has of a pass over the batch, by its own profiler.

    Raises ExportError where the runtime is not installed.
    """
    measure = {"onnxruntime": _times_in_onnxruntime, "openvino": _times_in_openvino}[runtime]
    spent: dict[str, float] = defaultdict(float)
    for kind, seconds in measure(Path(path), precision, threads, batch):
        spent[kind] += seconds
    return dict(spent)


def _session(path: Path, threads: int, **options: Any) -> Any:
    ort = package("onnxruntime")
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = threads, 1
    chosen.log_severity_level = 3  # errors; its warnings are about its own choices
    for name, value in options.items():
        setattr(chosen, name, value)
    return ort.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])


def _onnxruntime(path: Path, precision: str, threads: int) -> Network:
    session = _session(path, threads)
    (clips,) = session.get_inputs()
    return lambda batch: session.run(None, {clips.name: batch})[0]


def _times_in_onnxruntime(
    path: Path, precision: str, threads: int, batch: NDArray[np.float32]
) -> Iterator[tuple[str, float]]:
    with TemporaryDirectory() as folder:
        session = _session(path, threads, enable_profiling=True, profile_file_prefix=f"{folder}/profile")
        (clips,) = session.get_inputs()
        passes = 2  # the first warms up
        for _ in range(passes):
            session.run(None, {clips.name: batch})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [each for each in events if each["cat"] == "Node" and each["name"].endswith("_kernel_time")]
    for each in kernels[-len(kernels) // passes :]:
        yield each["args"]["op_name"], each["dur"] / 1e6


def _settings(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # threads tied to cores wait for whatever else runs on them
    }


def _openvino(path: Path, precision: str, threads: int) -> Network:
    ov = package("openvino")
    core = ov.Core()
    network = core.read_model(str(path))

    @lru_cache(maxsize=2)  # a set ends with a smaller batch; each takes seconds, and a copy of the weights
    def requests(shape: tuple[int, ...], at_once: int) -> Any:
        """Compiled for single clips, since OpenVINO leaves copies between layouts out only where it knows the shape."""
        static = network.clone()
        static.reshape([1, *shape])
        settings = _settings(precision, threads) | {"NUM_STREAMS": at_once}
        return ov.AsyncInferQueue(core.compile_model(static, "CPU", settings), at_once)

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        queue = requests(batch.shape[1:], min(threads, len(batch)))  # threads that share no clip need not wait
        logits: dict[int, NDArray[np.float32]] = {}
        queue.set_callback(lambda request, k: logits.update({k: request.get_output_tensor().data.copy()}))
        for k in range(len(batch)):
            queue.start_async([batch[k : k + 1]], k)
        queue.wait_all()
        return np.concatenate([logits[k] for k in range(len(batch))])

    return run


def _times_in_openvino(
    path: Path, precision: str, threads: int, batch: NDArray[np.float32]
) -> Iterator[tuple[str, float]]:
    core = package("openvino").Core()
    network = core.read_model(str(path))
    network.reshape(list(batch.shape))
    settings = _settings(precision, threads) | {"PERF_COUNT": True}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    for _ in range(2):  # the first warms up
        request.infer([batch])
    for each in request.profiling_info:
        yield each.node_type, each.real_time.total_seconds()
