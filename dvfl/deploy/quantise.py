"""The same graph in fewer bits: bfloat16 weights, or products of 8-bit integers.

int8 is post-training quantisation by ONNX Runtime's own tool. Weights of convolutions and matrix products get a scale
for each output channel; what goes into them gets one, from the range that calibration clips show. What comes out stays
float: gates, norms and sums stand between two products, and rounding twice costs more than it saves. On vfl_net with
random weights that takes the error of the logits from 13 % of the largest to 1 %. NNCF, the other maintained tool,
by default quantises the gates as well, and OpenVINO then refuses the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dvfl.deploy.onnx_file import INPUT, Precision
from dvfl.deploy.packages import package

if TYPE_CHECKING:
    from onnx import ModelProto

PRODUCTS = ["Conv", "MatMul", "Gemm"]


def in_precision(
    graph: ModelProto, precision: Precision, calibration: Iterable[NDArray[np.float32]], folder: Path
) -> ModelProto:
    """A float32 graph in another precision.

    calibration: batches of normalised clips (B, T, 3, S, S), read for int8 alone. folder: for intermediate files.
    """
    if precision == "int8":
        return quantised(graph, calibration, folder)
    return with_bfloat16_weights(graph) if precision == "bfloat16" else graph


def with_bfloat16_weights(graph: ModelProto) -> ModelProto:
    """The same graph with matrices and kernels rounded to bfloat16: half the bytes.

    Each is cast back where it is used; a runtime folds that when it loads the file. Vectors (biases, norms) stay: they
    are few, and summed in float32.
    """
    onnx = package("onnx")
    bfloat16 = package("ml_dtypes").bfloat16
    weights, casts = [], []
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2:
            rounded = onnx.numpy_helper.to_array(tensor).astype(bfloat16)
            weights.append(onnx.numpy_helper.from_array(rounded, f"{tensor.name}.bfloat16"))
            casts.append(onnx.helper.make_node("Cast", [weights[-1].name], [tensor.name], to=onnx.TensorProto.FLOAT))
        else:
            weights.append(tensor)
    halved = onnx.ModelProto()
    halved.CopyFrom(graph)
    del halved.graph.initializer[:], halved.graph.node[:]
    halved.graph.initializer.extend(weights)
    halved.graph.node.extend([*casts, *graph.graph.node])
    return halved


def quantised(graph: ModelProto, calibration: Iterable[NDArray[np.float32]], folder: Path) -> ModelProto:
    """The graph with its products in int8, see `in_precision`."""
    quantization = package("onnxruntime.quantization")
    onnx = package("onnx")

    class Clips(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.float32]] = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    source, target = folder / "to_quantise.onnx", folder / "quantised.onnx"
    onnx.save(graph, source)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a step that folds constants, which is done
    try:
        quantization.quantize_static(
            source,
            target,
            Clips(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": PRODUCTS, "ActivationSymmetric": True},
        )
    finally:
        logging.disable(level)
    return onnx.load(target)
