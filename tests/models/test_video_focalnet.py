"""The network against exact golden values, and what each of its options does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from dvfl.models.focal_modulation import FocalModulation
from dvfl.models.video_focalnet import DropPath, VideoFocalNet

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = {
    "num_classes": 5,
    "embed_dim": 8,
    "depths": (1, 1, 2, 1),
    "num_frames": 4,
    "img_size": 32,
    "init": "narrow",  # at this width, the only one whose logits depend much on the clip
}


def build(**options) -> VideoFocalNet:
    torch.manual_seed(0)
    return VideoFocalNet(**{**SMALL, **options}).double().eval()


def clip(batch: int = 1, frames: int = 4, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, 3, height, width, generator=generator, dtype=torch.float64)


# Golden values


@pytest.fixture(scope="module", params=["nano_like", "two_deep_eight_frames"])
def golden(request) -> tuple[VideoFocalNet, dict[str, torch.Tensor]]:
    with safe_open(GOLDEN / f"{request.param}.safetensors", "pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        model = VideoFocalNet(**json.loads(file.metadata()["config"]))
    prefix = "state."
    model.load_state_dict({key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)})
    return model, values


def assert_golden(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_golden_logits_and_features(golden):
    model, values = golden
    model.eval()
    with torch.no_grad():
        assert_golden(model.forward_features(values["input"]), values["features"])
        assert_golden(model(values["input"]), values["logits"])


def test_golden_gradients(golden):
    model, values = golden
    model.train().zero_grad()
    inputs = values["input"].clone().requires_grad_()
    (model(inputs) * values["probe"]).sum().backward()
    gradients = {"input": inputs.grad} | {k: p.grad for k, p in model.named_parameters()}
    stored = [key.removeprefix("grad.") for key in values if key.startswith("grad.")]
    assert len(stored) > 1
    for key in stored:
        assert_golden(gradients[key], values[f"grad.{key}"])


# The clip


def test_frame_order_changes_the_logits():
    model, ordered = build(), clip()
    assert (model(ordered[:, [2, 0, 3, 1]]) - model(ordered)).abs().max() > 1e-3


def test_motion_differs_from_a_repeated_frame():
    model, moving = build(), clip()
    still = moving[:, :1].expand_as(moving)
    assert (model(still) - model(moving)).abs().max() > 1e-3


def test_order_matters_through_the_temporal_branch_only():
    model, ordered = build(), clip()
    for module in model.modules():
        if isinstance(module, FocalModulation):  # a temporal modulator that is 1 everywhere
            torch.nn.init.zeros_(module.h_temporal.weight)
            torch.nn.init.ones_(module.h_temporal.bias)
    assert_close(model(ordered[:, [2, 0, 3, 1]]), model(ordered))


def test_clips_of_a_batch_do_not_see_each_other():
    model, batch = build(), clip(batch=3)
    assert_close(model(batch), torch.cat([model(one) for one in batch.split(1)]))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (72, 41)])
def test_any_height_and_width(height, width):
    model = build()
    inputs = clip(batch=2, height=height, width=width)
    assert model.forward_features(inputs).shape == (2 * 4, 64)
    assert model(inputs).shape == (2, 5)


def test_logits_are_the_head_of_the_mean_over_frames():
    model, inputs = build(), clip(batch=2)
    features = model.forward_features(inputs).reshape(2, 4, -1)
    assert_close(model(inputs), model.head(features.mean(1)))


def test_weights_depend_on_neither_frames_nor_size():
    more_and_larger = build(num_frames=16, img_size=224)
    more_and_larger.load_state_dict(build().state_dict())
    assert more_and_larger(clip(frames=16, height=64, width=64)).shape == (1, 5)


def test_an_exported_model_takes_batches_of_any_size():
    model = build()
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(model, (clip(batch=2),), dynamic_shapes=(batch,)).module()
    assert_close(exported(clip(batch=3)), model(clip(batch=3)))


def test_memory_layout_of_the_clip_does_not_matter():
    model, inputs = build(), clip(batch=2)
    channels_last = inputs.movedim(2, -1).contiguous().movedim(-1, 2)
    assert_close(model(channels_last), model(inputs))


def test_bfloat16_autocast_stays_close():
    model, inputs = build().float(), clip().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
    exact = model(inputs)
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((4, 3, 32, 32), "4 dimensions.*unsqueeze"),
        ((1, 3, 4, 32, 32), "4 channels.*frames come before channels"),
        ((1, 8, 3, 32, 32), "8 frames.*num_frames=8"),
        ((1, 4, 3, 31, 64), "31x64.*at least 32x32"),
    ],
)
def test_clips_of_another_shape_are_refused(shape, complaint):
    with pytest.raises(ValueError, match=f"(?s){complaint}"):
        build()(torch.zeros(shape, dtype=torch.float64))


# Options


@pytest.mark.parametrize("use_conv_embed", [False, True])
def test_tubelets_of_an_inflated_stem_see_pairs_of_equal_frames_as_one(use_conv_embed):
    image_model = build(use_conv_embed=use_conv_embed)
    tubelet_model = build(num_frames=8, tubelet_size=2, use_conv_embed=use_conv_embed)
    state = image_model.state_dict()
    kernel = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = kernel.unsqueeze(2).repeat(1, 1, 2, 1, 1) / 2
    tubelet_model.load_state_dict(state)
    pairs = clip(batch=2).repeat_interleave(2, dim=1)
    assert tubelet_model.forward_features(pairs).shape == (2 * 4, 64)
    assert_close(tubelet_model(pairs), image_model(clip(batch=2)))


def test_conv_embed_overlaps_patches_and_keeps_the_grid():
    plain, overlapping = build(), build(use_conv_embed=True)
    assert plain.patch_embed.proj.weight.shape == (8, 3, 4, 4)
    assert overlapping.patch_embed.proj.weight.shape == (8, 3, 7, 7)
    assert plain.layers[0].downsample.proj.weight.shape == (16, 8, 2, 2)
    assert overlapping.layers[0].downsample.proj.weight.shape == (16, 8, 3, 3)
    for model, rows_seen in [(plain, {4, 5, 6, 7}), (overlapping, {2, 3, 4, 5, 6, 7, 8})]:
        pixels = clip().movedim(2, -1).requires_grad_()
        patches = model.patch_embed(pixels)
        assert patches.shape == (1, 4, 8, 8, 8)
        assert model.layers[0].downsample(patches).shape == (1, 4, 4, 4, 16)
        patches[0, 0, 1, 1].square().sum().backward()
        assert set(pixels.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()) == rows_seen


def test_layerscale_adds_gammas_that_scale_both_branches():
    plain, scaled = build(), build(use_layerscale=True, layerscale_value=0.5)
    added = scaled.state_dict().keys() - plain.state_dict().keys()
    blocks = [f"layers.{s}.blocks.{b}" for s, depth in enumerate((1, 1, 2, 1)) for b in range(depth)]
    assert added == {f"{block}.{gamma}" for block in blocks for gamma in ("gamma_1", "gamma_2")}
    assert torch.equal(scaled.layers[0].blocks[0].gamma_1, torch.full((8,), 0.5).double())
    default = build(use_layerscale=True).layers[0].blocks[0]
    assert_close(default.gamma_2.detach(), torch.full((8,), 1e-4).double(), rtol=1e-6, atol=0)

    block, x = scaled.layers[0].blocks[0], clip().new_ones(1, 4, 8, 8, 8).cumsum(-1)
    torch.nn.init.zeros_(block.gamma_1)
    assert_close(block(x), x + 0.5 * block.mlp(block.norm2(x)))
    torch.nn.init.zeros_(block.gamma_2)
    assert_close(block(x), x)


def test_norms_stand_before_the_branches_or_after_them():
    x = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    block = build().layers[0].blocks[0]
    middle = x + block.modulation(block.norm1(x))
    assert_close(block(x), middle + block.mlp(block.norm2(middle)))
    block = build(use_postln=True).layers[0].blocks[0]
    middle = x + block.norm1(block.modulation(x))
    assert_close(block(x), middle + block.norm2(block.mlp(middle)))


def test_normalize_modulator_is_a_division_of_both_projections():
    plain, normalized = build(), build(normalize_modulator=True)
    assert (plain(clip()) - normalized(clip())).abs().max() > 1e-3
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, FocalModulation):
                module.h.weight.div_(3)
                module.h_temporal.weight.div_(3)
    assert_close(plain(clip()), normalized(clip()))


def test_postln_in_modulation_adds_a_norm_to_every_block():
    model = build(use_postln_in_modulation=True)
    added = model.state_dict().keys() - build().state_dict().keys()
    assert len(added) == 2 * 5
    assert all(".modulation.ln." in key for key in added)
    assert model(clip()).shape == (1, 5)


def test_focal_levels_and_windows_are_set_per_stage():
    model = build(focal_levels=(3, 2, 1, 1), focal_windows=(3, 3, 5, 7))
    kernels = [
        [layer[0].weight.shape[-1] for layer in stage.blocks[0].modulation.focal_layers] for stage in model.layers
    ]
    assert kernels == [[3, 5, 7], [3, 5], [5], [7]]
    assert model(clip()).shape == (1, 5)


def test_other_numbers_of_stages_channels_and_mlp_ratios():
    model = build(depths=(1, 2), focal_levels=(2, 2), focal_windows=(3, 3), in_chans=1, mlp_ratio=2.0)
    assert model.layers[1].blocks[0].mlp.fc1.weight.shape == (32, 16)
    assert model.forward_features(clip(height=8, width=8)[:, :, :1]).shape == (4, 16)


def test_stochastic_depth_grows_linearly_and_acts_in_training_only():
    model = build(drop_path_rate=0.4)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert_close(model(clip()), build()(clip()))
    model.train()
    assert not torch.equal(model(clip()), model(clip()))


def test_stochastic_depth_drops_whole_frames_and_keeps_the_mean():
    torch.manual_seed(0)
    kept = DropPath(0.25).train()(torch.ones(50, 40, 2, 2, 3))
    per_frame = kept.flatten(2)
    assert torch.equal(per_frame, per_frame[..., :1].expand_as(per_frame))
    assert per_frame.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert kept.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("init", ["paper", "narrow"])
def test_initial_linear_weights(init):
    model = build(embed_dim=32, init=init)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert not any(layer.bias.any() for layer in linears)
    for modulation in (module for module in model.modules() if isinstance(module, FocalModulation)):
        biases = torch.cat([modulation.h.bias, modulation.h_temporal.bias])
        assert (biases == 1).all() == (init == "narrow")
    for layer in linears:
        std = 0.02 if init == "paper" else layer.in_features**-0.5
        if layer.weight.numel() > 10_000:  # enough to estimate a spread from
            assert layer.weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    ("impossible", "complaint"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"embed_dim": 0}, "embed_dim must be at least 1"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"depths": (1, 1, 2)}, "focal_levels and depths.*4 in focal_levels.*3 in depths"),
        ({"focal_windows": (3,)}, "focal_windows and depths"),
        ({"depths": (1, 0, 2, 1)}, "at least one block per stage"),
        ({"num_frames": 5, "tubelet_size": 2}, "multiple of tubelet_size, got 5.*of 2"),
        ({"tubelet_size": 0}, "multiple of tubelet_size"),
        ({"focal_windows": (3, 3, 4, 3)}, "focal_window must be odd"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"img_size": 16}, "img_size 16 is too small.*32"),
        ({"init": "kaiming"}, "paper or narrow, got 'kaiming'"),
    ],
)
def test_impossible_arguments_are_refused(impossible, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(**impossible)
