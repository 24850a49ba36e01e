"""What each branch of the modulation sees, and how gates, query and context combine."""

import pytest
import torch
from torch.testing import assert_close

from dvfl.models.focal_modulation import DepthwiseConv, FocalModulation

DIM, FRAMES, SIZE = 4, 9, 15
GLOBAL = 2  # the last gate of two focal levels


@pytest.fixture
def modulation() -> FocalModulation:
    torch.manual_seed(0)
    return FocalModulation(DIM).double()


def tokens(channels: int = DIM, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, FRAMES, SIZE, SIZE, channels, generator=generator, dtype=torch.float64)


def open_gate(level: int) -> torch.Tensor:
    gates = torch.zeros(1, FRAMES, SIZE, SIZE, 3, dtype=torch.float64)
    gates[..., level] = 1.0
    return gates


def seen_from_the_centre(branch, level: int) -> torch.Tensor:
    """(T, H, W), True where the context reaches the modulator's central token."""
    context = tokens().requires_grad_()
    modulator = branch(context, open_gate(level))
    modulator[0, FRAMES // 2, SIZE // 2, SIZE // 2].sum().backward()
    return context.grad[0].abs().sum(-1) > 0


def box(frames: int, size: int) -> torch.Tensor:
    """(T, H, W), True in a box of that extent around the central token."""
    seen = torch.zeros(FRAMES, SIZE, SIZE, dtype=torch.bool)
    first, top = (FRAMES - frames) // 2, (SIZE - size) // 2
    seen[first : first + frames, top : top + size, top : top + size] = True
    return seen


@pytest.mark.parametrize(("level", "size"), [(0, 3), (1, 7), (GLOBAL, SIZE)])
def test_spatial_levels_widen_inside_one_frame(modulation, level, size):
    seen = seen_from_the_centre(modulation.spatial_modulator, level)
    assert torch.equal(seen, box(frames=1, size=size))


@pytest.mark.parametrize(("level", "frames"), [(0, 3), (1, 7), (GLOBAL, FRAMES)])
def test_temporal_levels_widen_along_one_pixel(modulation, level, frames):
    seen = seen_from_the_centre(modulation.temporal_modulator, level)
    assert torch.equal(seen, box(frames=frames, size=1))


def test_spatial_convolutions_keep_channels_apart_and_temporal_ones_mix_them(modulation):
    for projection in (modulation.h, modulation.h_temporal):  # let only the levels mix channels
        torch.nn.init.dirac_(projection.weight)
    for branch, mixes in [
        (modulation.spatial_modulator, False),
        (modulation.temporal_modulator, True),
    ]:
        context = tokens().requires_grad_()
        branch(context, open_gate(0))[..., 0].sum().backward()
        assert bool(context.grad[..., 1:].any()) is mixes


@pytest.mark.parametrize("branch", ["spatial_modulator", "temporal_modulator"])
def test_modulator_is_linear_in_the_gates(modulation, branch):
    aggregate, context = getattr(modulation, branch), tokens()
    closed = aggregate(context, torch.zeros_like(open_gate(0)))  # leaves h's bias
    mixed = sum(weight * open_gate(level) for level, weight in enumerate((0.5, -2.0, 3.0)))
    parts = [weight * (aggregate(context, open_gate(level)) - closed) for level, weight in enumerate((0.5, -2.0, 3.0))]
    assert_close(aggregate(context, mixed) - closed, sum(parts))


@pytest.mark.parametrize("branch", ["spatial_modulator", "temporal_modulator"])
def test_normalize_modulator_divides_by_the_number_of_gates(modulation, branch):
    context, gates = tokens(), tokens(channels=3)
    plain = getattr(modulation, branch)(context, gates)
    modulation.normalize_modulator = True
    assert_close(getattr(modulation, branch)(context, 3 * gates), plain)


def test_output_is_the_projected_product_of_query_and_both_modulators(modulation):
    x = tokens(batch=2)
    query, context, gates = modulation.f(x).split((DIM, DIM, 3), dim=-1)
    context_temporal, gates_temporal = modulation.f_temporal(x).split((DIM, 3), dim=-1)
    product = (
        query
        * modulation.spatial_modulator(context, gates)
        * modulation.temporal_modulator(context_temporal, gates_temporal)
    )
    assert_close(modulation(x), modulation.proj(product))


def test_post_norm_makes_the_output_indifferent_to_the_modulators_scale():
    torch.manual_seed(0)
    modulation = FocalModulation(DIM, use_postln_in_modulation=True).double()
    assert {"ln.weight", "ln.bias"} <= modulation.state_dict().keys()
    modulation.ln.eps = 0.0
    before = modulation(tokens())
    with torch.no_grad():
        modulation.h.weight.mul_(7)
        modulation.h.bias.mul_(7)
    assert_close(modulation(tokens()), before)


def test_bfloat16_gradients_of_a_depthwise_convolution_are_those_of_float32():
    torch.manual_seed(0)
    conv = DepthwiseConv(DIM, kernel=5)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        x = tokens()[0].permute(0, 3, 1, 2).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            out = conv(x)
        assert out.dtype == dtype
        out.float().square().sum().backward()
        gradients.append((x.grad.float(), conv.weight.grad))
        conv.weight.grad = None
    for own, wanted in zip(gradients[1], gradients[0], strict=True):
        assert (own - wanted).abs().max() <= 0.02 * wanted.abs().max()


@pytest.mark.parametrize(("level", "window", "factor"), [(1, 3, 2), (3, 5, 2), (2, 3, 4)])
def test_kernels_grow_by_the_focal_factor(level, window, factor):
    state = FocalModulation(DIM, focal_level=level, focal_window=window, focal_factor=factor).state_dict()
    for i in range(level):
        kernel = window + factor * i
        assert state[f"focal_layers.{i}.0.weight"].shape == (DIM, 1, kernel, kernel)
        assert state[f"focal_layers_temporal.{i}.0.weight"].shape == (DIM, DIM, kernel)
    assert f"focal_layers.{level}.0.weight" not in state
    assert state["f.weight"].shape == (2 * DIM + level + 1, DIM)
    assert state["f_temporal.weight"].shape == (DIM + level + 1, DIM)


def test_a_single_frame_and_a_single_token_are_enough(modulation):
    assert modulation(tokens()[:, :1, :1, :1]).shape == (1, 1, 1, 1, DIM)


@pytest.mark.parametrize(
    "impossible", [{"focal_level": 0}, {"focal_window": 4}, {"focal_window": -1},
                   {"focal_factor": 1}, {"focal_factor": -2}],
)  # fmt: skip
def test_impossible_windows_are_refused_by_name(impossible):
    with pytest.raises(ValueError, match=next(iter(impossible))):
        FocalModulation(DIM, **impossible)
