"""What one forward pass computes, counted operator by operator with fvcore.

Three counts are kept apart, so that nothing is counted twice or in two units:

- multiply-adds (MACs) of convolutions, linear maps and other matrix products, and of
  normalisations, as fvcore counts them: one multiply-add is one (a layer norm costs 5 an element);
- other operations: one for each element that an activation, gate, sum or mean works on, however
  dear its function;
- activations: elements of the results of convolutions and matrix products.

GFLOPs are 2 x GMACs of the first group, and nothing else.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of torch, about torch.jit.script in fvcore: no user's to mend
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
    from fvcore.nn.jit_handles import elementwise_flop_counter, get_shape

# An operator of the traced graph: its inputs and outputs, to a number or to numbers by name.
Handle = Callable[[list[Any], list[Any]], Any]

# fvcore counts these beside the multiply-adds, though they are none.
_NOT_MACS = ("adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "grid_sampler")

_PER_RESULT = elementwise_flop_counter(input_scale=0, output_scale=1)
_TWO_PER_RESULT = elementwise_flop_counter(input_scale=0, output_scale=2)
_PER_INPUT = elementwise_flop_counter(input_scale=1, output_scale=0)
_OTHER_PER_RESULT = (
    "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "neg", "pow", "exp",
    "rsqrt", "sqrt", "relu", "relu_", "gelu", "silu", "silu_", "sigmoid", "tanh", "hardtanh",
    "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "hardtanh_", "leaky_relu", "leaky_relu_", "elu",
    "softplus", "softmax", "log_softmax",
    "upsample_linear1d", "upsample_nearest2d", "upsample_bilinear2d", "grid_sampler",
)  # fmt: skip
_OTHER_PER_INPUT = (
    "mean", "sum", "amax", "amin", "var", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d",
)  # fmt: skip
# Move or share elements and compute nothing; fvcore knows most of their kind already.
_NO_COMPUTE = (
    "movedim", "unflatten", "swapaxes", "swapdims", "expand_as", "view_as", "reshape_as", "clone",
    "alias", "detach_", "repeat", "repeat_interleave", "flip", "tensor_split", "numpy_T", "mT", "pad", "fill_",
    "feature_dropout", "dropout_",
)  # fmt: skip


@dataclass(frozen=True)
class ComputeCount:
    """Counts of one forward pass over the whole input, whatever its batch size."""

    params: int
    macs_by_operator: dict[str, int] = field(repr=False)
    other_by_operator: dict[str, int] = field(repr=False)
    activations: int
    uncounted: dict[str, int]  # calls of operators that are in no count, by operator

    @property
    def macs(self) -> int:
        return sum(self.macs_by_operator.values())

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.macs

    @property
    def other(self) -> int:
        return sum(self.other_by_operator.values())


def count_compute(model: nn.Module, clips: Tensor) -> ComputeCount:
    """Counts the forward pass `model(clips)` in evaluation mode; it runs once, to be traced."""
    analysis = FlopCountAnalysis(model, clips)
    analysis.clear_op_handles().set_op_handle(**_handles(model, clips))
    # What has no handle is reported in `uncounted` instead of in the log.
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            counts = analysis.by_operator()
    finally:
        model.train(training)
    groups: dict[str, dict[str, int]] = {"macs": {}, "other": {}, "activations": {}}
    for (group, operator), count in sorted(counts.items()):
        groups[group][operator] = int(count)
    return ComputeCount(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs_by_operator=groups["macs"],
        other_by_operator=groups["other"],
        activations=sum(groups["activations"].values()),
        uncounted={
            operator.removeprefix("aten::"): calls for operator, calls in sorted(analysis.unsupported_ops().items())
        },
    )


def _handles(model: nn.Module, clips: Tensor) -> dict[str, Handle | None]:
    """One handle an operator that gives all its counts, so that one trace is enough."""
    macs = dict(FlopCountAnalysis(model, clips)._op_handles)
    for name in _NOT_MACS:
        macs.pop(f"aten::{name}", None)
    macs["aten::scaled_dot_product_attention"] = _attention_macs
    other = {f"aten::{name}": _PER_RESULT for name in _OTHER_PER_RESULT}
    other |= {"aten::addcmul": _TWO_PER_RESULT}  # a product and a sum
    other |= {f"aten::{name}": _PER_INPUT for name in _OTHER_PER_INPUT}
    activations = dict(ActivationCountAnalysis(model, clips)._op_handles)
    groups = {"macs": macs, "other": other, "activations": activations}
    ignored = {f"aten::{name}": None for name in _NO_COMPUTE}
    return ignored | {
        kind: _joined(kind, {name: group[kind] for name, group in groups.items() if kind in group})
        for kind in {*macs, *other, *activations}
    }


def _joined(kind: str, handles: dict[str, Handle]) -> Handle:
    """A handle that counts under (group, operator)."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[tuple[str, str]]:
        result: Counter[tuple[str, str]] = Counter()
        for group, handle in handles.items():
            counted = handle(inputs, outputs)
            if not isinstance(counted, Counter):
                counted = {kind.removeprefix("aten::").removesuffix("_"): counted}
            for operator, number in counted.items():
                result[group, operator] += number
        return result

    return count


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Both products of softmax(q k^T) v, with q (..., L, E), k (..., S, E) and v (..., S, V)."""
    query, key, value = (get_shape(each) for each in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
