"""The network for inference: the same answers by fewer multiplications."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from dvfl.models import create_model, inference
from dvfl.models.focal_modulation import TemporalConv
from dvfl.models.inference import PiecewiseMlp, ShortConv, for_inference, transforms

GOLDEN = Path(__file__).parents[1] / "golden"


def network(**options) -> nn.Module:
    """Whose logits depend on all of its branches, as they do not before a training with the paper's init."""
    torch.manual_seed(0)
    size = {"num_classes": 5, "num_frames": 8, "img_size": 32, "depths": (1, 1, 1, 1), "init": "narrow"} | options
    return create_model("vfl_net", **size).eval()


def clips(batch=2, frames=8, height=32, width=32) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def parts(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 11, 16])
def test_transforms_are_a_convolution_over_time(frames, taps):
    of_frames, of_weight, back = transforms(frames, taps)
    x, w = torch.randn(frames, dtype=torch.float64), torch.randn(taps, dtype=torch.float64)
    products = (of_weight @ w)[:, None] * (of_frames @ x).view(len(of_weight), -1)
    wanted = F.conv1d(x.view(1, 1, -1), w.view(1, 1, -1), padding=taps // 2).flatten()
    torch.testing.assert_close(back @ products.flatten(), wanted, rtol=1e-12, atol=1e-12)


def test_a_kernel_of_five_takes_eight_products_for_four_frames():
    assert transforms(4, 5)[0].shape == (8, 4)
    assert transforms(8, 3)[0].shape == (12, 8)


@pytest.mark.parametrize("name", ["nano_like", "two_deep_eight_frames"])
def test_golden_logits_and_features(name, monkeypatch):
    monkeypatch.setattr(inference, "NARROWEST", 1)
    monkeypatch.setattr(inference, "PIXELS", 5)  # the golden networks are small: several pieces all the same
    monkeypatch.setattr(inference, "TOKENS", 7)
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        model = inference.VideoFocalNet(**json.loads(file.metadata()["config"]))
    model.load_state_dict({key[6:]: value for key, value in values.items() if key.startswith("state.")})
    fast = for_inference(model)
    assert parts(fast, ShortConv) > 0
    with torch.inference_mode():
        assert off(fast(values["input"]), values["logits"]) <= 1e-5
        assert off(fast.forward_features(values["input"]), values["features"]) <= 1e-5


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, {}),
        ({}, {"height": 64, "width": 96}),
        ({"num_frames": 5}, {"frames": 5}),
        ({"tubelet_size": 2}, {}),
        ({"use_conv_embed": True, "use_layerscale": True}, {"batch": 1}),
        ({"use_postln": True, "use_postln_in_modulation": True, "normalize_modulator": True}, {}),
        ({"focal_levels": (3, 3, 2, 1), "focal_windows": (3, 5, 3, 1)}, {}),  # kernels of 7 and 9, and of 1, too
    ],
    ids=lambda value: ",".join(value) or "plain",
)
def test_same_logits(options, shape):
    model = network(**options)
    fast = for_inference(model)
    assert parts(fast, ShortConv) > 0
    assert parts(fast, PiecewiseMlp) == 4
    with torch.inference_mode():
        assert off(fast(clips(**shape)), model(clips(**shape))) <= 1e-5


def test_the_model_stays_and_shares_its_parameters():
    model = network().train()
    kinds = [type(module) for module in model.modules()]
    fast = for_inference(model)
    assert [type(module) for module in model.modules()] == kinds
    assert not fast.training
    assert {id(each) for each in fast.parameters()} == {id(each) for each in model.parameters()}


def test_weights_learned_since_are_in_one_made_again():
    model = network()
    with torch.inference_mode():
        before = for_inference(model)(clips())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, TemporalConv):
                module.weight.mul_(1.5)
    with torch.inference_mode():
        assert off(for_inference(model)(clips()), model(clips())) <= 1e-5
        assert off(before, model(clips())) > 1e-3


def test_bfloat16_keeps_its_convolutions():
    """Where products are cheap there is nothing to gain, and transforms would round the frames."""
    model = network()
    fast = for_inference(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(clips()), model(clips()), rtol=0, atol=0)
    model = model.bfloat16()
    fast = for_inference(model)
    assert parts(fast, ShortConv) == 0
    with torch.inference_mode():
        assert off(fast(clips().bfloat16()), model(clips().bfloat16())) <= 1e-2


def test_with_gradients_it_computes_as_the_model_does():
    model = network()
    fast = for_inference(model)
    shown = [clips().requires_grad_() for _ in range(2)]
    gradients = []
    for each, x in zip((model, fast), shown, strict=True):
        model.zero_grad()
        each(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad.clone() for parameter in model.parameters())])
    for wanted, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_tokens_of_any_strides():
    mlp = inference.Mlp(96, 384)
    tokens = torch.randn(8, 5, 3, 96).permute(1, 0, 2, 3)
    with torch.inference_mode():
        assert off(PiecewiseMlp(mlp)(tokens), mlp(tokens)) <= 1e-5


def test_narrow_networks_and_other_families_are_as_they_were():
    narrow = network(embed_dim=8)
    kinds = [type(module) for module in for_inference(narrow).modules()]
    assert kinds == [type(module) for module in narrow.modules()]
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert for_inference(other) is other
