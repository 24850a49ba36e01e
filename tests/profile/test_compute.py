"""Counts against formulas worked out by hand."""

import logging

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dvfl.models import create_model
from dvfl.profile.compute import ComputeCount, count_compute


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        # results x inputs that each is a sum over
        pytest.param(nn.Conv2d(4, 8, 3, padding=1), (2, 4, 5, 6), {"conv": 2 * 8 * 5 * 6 * (4 * 9)}, id="conv2d"),
        pytest.param(
            nn.Conv2d(8, 8, 5, padding=2, groups=8), (2, 8, 5, 6), {"conv": 2 * 8 * 5 * 6 * 25}, id="depth-wise conv2d"
        ),
        pytest.param(nn.Conv2d(3, 8, 4, stride=4), (1, 3, 8, 8), {"conv": 8 * 2 * 2 * (3 * 16)}, id="patches"),
        pytest.param(nn.Conv1d(8, 6, 3, padding=1), (10, 8, 7), {"conv": 10 * 6 * 7 * (8 * 3)}, id="dense conv1d"),
        pytest.param(nn.Conv3d(3, 5, (2, 4, 4)), (1, 3, 4, 4, 4), {"conv": 5 * 3 * (3 * 32)}, id="tubelets"),
        pytest.param(nn.Linear(6, 7), (2, 3, 6), {"linear": 2 * 3 * 7 * 6}, id="linear"),
        pytest.param(nn.LayerNorm(6), (2, 3, 6), {"layer_norm": 5 * 2 * 3 * 6}, id="layer norm"),
        pytest.param(Function(lambda x: x @ x.mT), (2, 3, 6), {"matmul": 2 * 3 * 3 * 6}, id="matrix product"),
        pytest.param(
            Function(lambda x: F.scaled_dot_product_attention(x, x, x)),
            (2, 4, 5, 6),
            {"scaled_dot_product_attention": 2 * (2 * 4 * 5 * 5 * 6)},
            id="attention",
        ),
    ],
)
def test_multiply_adds(module: nn.Module, shape: tuple[int, ...], macs: dict[str, int]) -> None:
    count = count_compute(module, torch.randn(shape))
    assert count.macs_by_operator == macs
    assert (count.macs, count.flops) == (sum(macs.values()), 2 * sum(macs.values()))
    assert count.other_by_operator == {} and count.uncounted == {}
    assert count.params == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (F.gelu, {"gelu": 24}),
        (F.relu, {"relu": 24}),
        (lambda x: x * x + x, {"mul": 24, "add": 24}),
        (lambda x: x.mul_(2), {"mul": 24}),
        (lambda x: x * x[..., :1], {"mul": 24}),
        (lambda x: x.mean((1, 2)), {"mean": 24}),
        (lambda x: x.softmax(-1), {"softmax": 24}),
        (lambda x: F.adaptive_avg_pool2d(x, 1), {"adaptive_avg_pool2d": 24}),
        (lambda x: F.max_pool2d(x, 2), {"max_pool2d": 24}),
        (lambda x: x.movedim(0, -1).unflatten(0, (1, -1)).flatten(), {}),
    ],
)
def test_other_operations_are_no_multiply_adds(function, other: dict[str, int]) -> None:
    count = count_compute(Function(function), torch.randn(2, 3, 4))
    assert count.other_by_operator == other
    assert count.macs == 0 and count.uncounted == {}


def test_what_is_not_counted_is_told() -> None:
    count = count_compute(Function(lambda x: x.cumsum(0).cumsum(1).erf() + x), torch.randn(2, 3))
    assert count.uncounted == {"cumsum": 2, "erf": 1}
    assert (count.macs, count.other) == (0, 6)


def test_nothing_is_counted_twice() -> None:
    """A whole is the sum of its parts, and a module that is used twice counts twice, its weights once."""
    linear = nn.Linear(6, 6)
    count = count_compute(nn.Sequential(linear, nn.GELU(), linear, nn.Dropout(0.5)), torch.randn(5, 6))
    assert count == ComputeCount(
        params=6 * 6 + 6,
        macs_by_operator={"linear": 2 * 5 * 36},
        other_by_operator={"gelu": 5 * 6},
        activations=2 * 5 * 6,
        uncounted={},
    )


def test_activations_are_results_of_convolutions_and_products() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_compute(model, torch.randn(1, 3, 6, 6)).activations == 8 * 16 + 5


def test_counting_leaves_the_model_as_it_was_and_the_log_silent(caplog, recwarn) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), Function(lambda x: x.cumsum(0) if x.sum() else x)).train()
    with caplog.at_level(logging.INFO):
        count_compute(model, torch.randn(2, 4))
    assert model.training and all(module.training for module in model.modules())
    assert not caplog.records
    assert not [warning for warning in recwarn if "Tracer" in warning.category.__name__]


def test_vfl_net_has_the_numbers_of_the_paper_size() -> None:
    count = count_compute(create_model("vfl_net", num_classes=101), torch.randn(1, 8, 3, 224, 224))
    assert count.params == 22_214_723
    assert round(count.macs / 1e9, 1) == 27.2
    assert set(count.macs_by_operator) == {"conv", "linear", "layer_norm"}
    assert count.uncounted == {}


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [("base", 157_082_741, 220.9), ("small", 88_505_237, 124.5), ("tiny", 49_323_341, 63.1), (None, 22_214_723, 27.2)],
)
def test_sizes_of_the_paper(name: str | None, params: int, gmacs: float) -> None:
    """Compute follows from frames of 32x32: all but the head grows with the number of pixels."""
    model = create_model(f"video_focalnet_{name}" if name else "vfl_net", num_classes=101)
    count = count_compute(model, torch.randn(1, 8, 3, 32, 32))
    head = model.head.weight.numel()
    assert count.params == params
    assert round(((count.macs - head) * (224 / 32) ** 2 + head) / 1e9, 1) == gmacs


@pytest.mark.parametrize(
    ("name", "uncounted"),
    [("mc3_18", {}), ("s3d", {}), ("mvit_v2_s", {}), ("swin3d_t", {"ne": 1}), ("timm/test_vit", {})],
)
def test_other_families_are_counted(name: str, uncounted: dict[str, int]) -> None:
    model = create_model(name, num_classes=3, num_frames=6, img_size=32)
    count = count_compute(model, torch.randn(1, 6, 3, 32, 32))
    assert count.uncounted == uncounted
    assert count.macs > 0


def test_r3d_18_has_the_numbers_that_torchvision_states() -> None:
    """Every layer of the trunk halves what it must without a rest: compute grows with the number of pixels."""
    weights = torchvision.models.video.R3D_18_Weights.KINETICS400_V1.meta
    count = count_compute(create_model("r3d_18", num_classes=400), torch.randn(1, 8, 3, 16, 16))
    assert count.params == weights["num_params"]
    convolutions, head = (count.macs_by_operator[name] for name in ("conv", "linear"))
    assert (convolutions * (16 / 8) * (112 / 16) ** 2 + head) / 1e9 == pytest.approx(weights["_ops"], abs=1e-3)
