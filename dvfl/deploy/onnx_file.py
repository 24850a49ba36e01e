"""An ONNX file of a network: written with a batch of any size, and with what it takes to use it beside the weights."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from dvfl.config import InputConfig
from dvfl.deploy.packages import ExportError, package
from dvfl.models.weights import NetworkDescription

if TYPE_CHECKING:
    from onnx import ModelProto

# What an exported file computes in. bfloat16: matrices and kernels are stored so, and a runtime that can computes so.
Precision = Literal["float32", "bfloat16", "int8"]

INPUT, OUTPUT = "clips", "logits"


def as_onnx(model: nn.Module, frames: int, img_size: int) -> ModelProto:
    """The network in eval mode as a float32 graph: clips (batch, frames, 3, img_size, img_size) -> logits (batch, C).

    Raises ExportError for a network that PyTorch cannot trace or that ONNX has no operators for.
    """
    package("onnx")
    optimizer = package("onnxscript.optimizer")
    clips = torch.zeros(2, frames, 3, img_size, img_size)  # two: a batch of one would be taken for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # of the exporter's passes, about versions of operators
        try:
            program = torch.onnx.export(
                model.eval(),
                (clips,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"{type(model).__name__} cannot be written as ONNX: {_first_line(error)}") from error
        finally:
            logging.disable(level)
    # Kernels that the forward pass reshapes become constants: quantisers look for weights, not for what makes them.
    size = 4 * max(parameter.numel() for parameter in model.parameters())
    optimizer.fold_constants(program.model, input_size_limit=size, output_size_limit=size)
    optimizer.optimize(program.model)
    return _without_traces(program.model_proto)


def about_network(input: InputConfig, network: NetworkDescription, **others: Any) -> dict[str, Any]:
    """What a user of the file has to know: classes in the order of the logits, and how a clip becomes the input."""
    frames = network.num_frames
    return {
        "model": network.model,
        "classes": network.classes,
        "frames": frames,
        "img_size": network.img_size,
        "short_side": input.short_side,
        "interpolation": input.interpolation,
        "mean": input.mean,
        "std": input.std,
        "layout": "clips: float32 (batch, frames, RGB, height, width); logits: float32 (batch, classes)",
        "sampling": f"frame k of {frames} is frame floor((2 k + 1) n / {2 * frames}) of a clip's n, all from 0",
        "preprocessing": f"resize frames to short_side ({input.interpolation}, antialiased), cut img_size x img_size "
        "out of the centre, divide by 255, subtract mean, divide by std",
        **others,
    }


def set_about(graph: ModelProto, about: Mapping[str, Any]) -> None:
    """Puts the values into the file's metadata, each as JSON under its key, in place of what is there."""
    del graph.metadata_props[:]
    for key, value in about.items():
        graph.metadata_props.add(key=key, value=json.dumps(value))


def read_about(path: str | Path) -> dict[str, Any]:
    """What `set_about` put into a file. Raises ExportError for a file that is not there or was not written by dvfl."""
    onnx = package("onnx")
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path}: no such file; make it with `dvfl export`")
    try:
        found = onnx.load(path, load_external_data=False).metadata_props
        about = {each.key: json.loads(each.value) for each in found}
    except Exception as error:  # protobuf's own, of several kinds
        raise ExportError(f"{path}: is no ONNX file of dvfl's ({_first_line(error)}); export it again") from error
    if "precision" not in about:
        raise ExportError(f"{path}: does not say what it was exported as; was it written by `dvfl export`?")
    return about


def _without_traces(graph: ModelProto) -> ModelProto:
    """Without what the exporter notes of every node, the places in the source on the exporting machine among it."""
    for part in (graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output):
        value.ClearField("metadata_props")
    return graph


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
