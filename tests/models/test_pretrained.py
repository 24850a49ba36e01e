"""Files of the released layouts, made from random weights: what agrees, what is told of them, what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.focalnet import FocalNet
from torch import nn
from yacs.config import CfgNode

from dvfl.errors import UserError
from dvfl.models import create_model, load_pretrained
from dvfl.models.weights import NetworkDescription, WeightsError, save_weights

TEMPORAL = "of the temporal branch, which images do not have"
SMALL = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_classes": 7, "num_frames": 2, "img_size": 32}


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight at random: norms and biases too, so that none can stand in another's place unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and parameter.ndim == 1 else 0.0, 0.05, generator=generator)
    return model.eval()


def small(seed: int = 1, **changes) -> nn.Module:
    return drawn(create_model("video_focalnet_tiny", **SMALL | changes), seed)


def without_time(model: nn.Module) -> nn.Module:
    """h_temporal(...) == 1: each frame is modulated by its own picture alone."""
    for name, module in model.named_modules():
        if name.endswith("h_temporal"):
            nn.init.zeros_(module.weight)
            nn.init.ones_(module.bias)
    return model


def spatial(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "_temporal" not in name}


def config_node(**values):
    """A config object as yacs makes them."""
    node = CfgNode({"MODEL": CfgNode({"NUM_CLASSES": 7, "FOCAL": CfgNode(values)}), "NAMES": ["a", 2.5]})
    node.freeze()
    return node


def released_checkpoint(path: Path, model: nn.Module, prefix: str = "", legacy: bool = False) -> Path:
    """As the released training code saves: weights, optimizer, a numpy accuracy and the config object."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = {
        "model": OrderedDict((prefix + name, value) for name, value in model.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"num_updates": 3},
        "max_accuracy": np.float64(71.5),
        "epoch": 119,
        "config": config_node(FOCAL_LEVELS=[2, 2, 2, 2]),
    }
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def refusal(model: nn.Module, path: Path, **options) -> str:
    """The one line that a file is refused with; the model must stay as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_pretrained(model, path, **options)
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(error.value)


def assert_every_weight_is_told(report, model: nn.Module) -> None:
    told = [*report.loaded, *report.adapted, *report.initial]
    assert sorted(told) == sorted(model.state_dict())


# ------------------------------------------------------------------------------------------------------ image models


@pytest.fixture(scope="module")
def timm_tiny() -> nn.Module:
    return drawn(timm.create_model("focalnet_tiny_srf", pretrained=False), seed=2)


@pytest.fixture(scope="module", params=["pth", "wrapped", "safetensors"])
def timm_file(request, timm_tiny, tmp_path_factory) -> Path:
    state = timm_tiny.state_dict()
    if request.param == "safetensors":
        path = tmp_path_factory.mktemp("timm") / "model.safetensors"
        save_file(state, path)
        return path
    path = tmp_path_factory.mktemp("timm") / "model.pth"
    torch.save({"state_dict": state} if request.param == "wrapped" else state, path)
    return path


def test_timms_focalnet_and_our_spatial_branch_see_the_same_in_a_frame(timm_tiny, timm_file):
    model = create_model("video_focalnet_tiny", num_classes=101, num_frames=2, img_size=64).eval()
    drawn_temporal = {name: value.clone() for name, value in model.state_dict().items() if "_temporal" in name}
    report = load_pretrained(model, timm_file, layout="timm")
    assert report.layout == "timm"
    assert_every_weight_is_told(report, model)
    assert set(report.initial) == set(drawn_temporal) and set(report.initial.values()) == {TEMPORAL}
    assert report.adapted == dict.fromkeys(
        ("head.weight", "head.bias"), "head drawn anew: 1000 classes in the file, 101 here"
    )
    assert not report.ignored
    assert all(torch.equal(model.state_dict()[name], value) for name, value in drawn_temporal.items())
    frames = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = timm_tiny.forward_head(timm_tiny.forward_features(frames), pre_logits=True)
        ours = without_time(model).forward_features(frames.unsqueeze(1).repeat(1, 2, 1, 1, 1)).unflatten(0, (2, 2))
    torch.testing.assert_close(ours[:, 0], theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours[:, 1], theirs, atol=1e-5, rtol=1e-4)


def test_the_owners_file_loads_by_its_own_names(tmp_path):
    image = small(seed=3, num_classes=1000)
    path = tmp_path / "focalnet_small_srf.pth"
    torch.save({"model": spatial(image)}, path)
    model = small()
    report = load_pretrained(model, path, layout="focalnet")
    assert report.layout == "focalnet"
    assert_every_weight_is_told(report, model)
    for name, value in spatial(image).items():
        assert name.startswith("head.") or torch.equal(model.state_dict()[name], value)
    assert set(report.initial.values()) == {TEMPORAL} and set(report.adapted) == {"head.weight", "head.bias"}


def test_the_share_is_of_the_parameters_and_the_summary_says_it_all(tmp_path):
    image = small(seed=3, num_classes=1000)
    torch.save({"model": spatial(image)}, tmp_path / "image.pth")
    model = small()
    report = load_pretrained(model, tmp_path / "image.pth")
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    loaded = sum(size for name, size in sizes.items() if "_temporal" not in name and "head" not in name)
    assert report.share == pytest.approx(loaded / sum(sizes.values()))
    first, *rest = str(report).splitlines()
    assert f"{len(report.loaded)} of {len(sizes)} weights loaded, {report.share:.1%}" in first
    assert rest == [
        "  adapted: 2 (head drawn anew: 1000 classes in the file, 7 here)",
        f"  left at their initialisation: {len(report.initial)} ({TEMPORAL})",
    ]


def test_vfl_net_takes_the_blocks_that_focalnet_tiny_has_too(timm_tiny, tmp_path):
    torch.save(timm_tiny.state_dict(), tmp_path / "tiny.pth")
    model = create_model("vfl_net", num_classes=51, img_size=32)
    report = load_pretrained(model, tmp_path / "tiny.pth")
    assert_every_weight_is_told(report, model)
    blocks = {name.rpartition(".blocks.")[0][-1] + name.partition(".blocks.")[2][0] for name in report.ignored}
    assert blocks == {"01", "11", "22", "23", "24", "25", "31"}  # stage and block
    theirs = timm_tiny.state_dict()
    assert torch.equal(model.layers[2].blocks[1].norm2.weight, theirs["layers.2.blocks.1.norm2.weight"])
    assert torch.equal(model.layers[1].downsample.norm.bias, theirs["layers.2.downsample.norm.bias"])


def test_timms_names_for_the_options_of_the_family(tmp_path):
    options = {"use_layerscale": True, "use_postln": True, "use_postln_in_modulation": True}
    theirs = FocalNet(
        embed_dim=8,
        depths=(1, 1, 1, 1),
        layerscale_value=1e-4,
        use_post_norm=True,
        use_post_norm_in_modulation=True,
    )
    torch.save(drawn(theirs).state_dict(), tmp_path / "options.pth")
    model = small(depths=(1, 1, 1, 1), num_frames=1, **options)
    report = load_pretrained(model, tmp_path / "options.pth")
    assert set(report.initial.values()) == {TEMPORAL}
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.forward_features(frames).mean((2, 3))
        got = without_time(model).forward_features(frames.unsqueeze(1))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4)])
def test_tubelets_give_a_clip_that_stands_still_what_they_gave_it(before, after, tmp_path):
    source = small(seed=3, tubelet_size=before, num_frames=4)
    torch.save({"model": source.state_dict()}, tmp_path / "source.pth")
    model = small(tubelet_size=after, num_frames=4)
    report = load_pretrained(model, tmp_path / "source.pth")
    assert report.adapted == {"patch_embed.proj.weight": f"spread over tubelets of {after} frames, from {before}"}
    still = torch.randn(1, 1, 3, 32, 32).expand(1, 4, 3, 32, 32)
    with torch.no_grad():
        old = source.patch_embed(still.movedim(2, -1))
        new = model.patch_embed(still.movedim(2, -1))
    torch.testing.assert_close(new[:, 0], old[:, 0], atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------ video models


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_released_checkpoint_with_its_config_object_gives_the_same_logits(prefix, legacy, tmp_path):
    source = small(seed=3)
    path = released_checkpoint(tmp_path / "ckpt_epoch_119.pth", source, prefix, legacy)
    model = small()
    report = load_pretrained(model, path, layout="video", complete=True)
    assert sorted(report.loaded) == sorted(model.state_dict()) and report.share == 1.0
    clip = torch.randn(1, 2, 3, 32, 32)
    assert torch.equal(model(clip), source(clip))


def test_the_config_objects_class_need_not_exist_and_none_of_its_code_runs(tmp_path, monkeypatch):
    ran = tmp_path / "ran"

    class TheirNode(dict):
        def __setstate__(self, state):
            ran.touch()

    TheirNode.__module__, TheirNode.__qualname__ = "their_config", "TheirNode"
    module = types.ModuleType("their_config")
    module.TheirNode = TheirNode
    monkeypatch.setitem(sys.modules, "their_config", module)
    node = TheirNode(a=1)
    node.frozen = True
    source = small(seed=3)
    torch.save({"model": source.state_dict(), "config": node}, tmp_path / "theirs.pth")
    torch.load(tmp_path / "theirs.pth", weights_only=False)
    assert ran.exists()  # so it would
    ran.unlink()
    assert load_pretrained(small(), tmp_path / "theirs.pth").share == 1.0
    monkeypatch.delitem(sys.modules, "their_config")
    assert load_pretrained(small(), tmp_path / "theirs.pth").share == 1.0
    assert not ran.exists()


def test_our_own_file_and_a_head_for_other_classes(tmp_path):
    overrides = {"embed_dim": 8, "depths": [1, 1, 2, 1]}
    description = NetworkDescription("video_focalnet_tiny", list("abcdefg"), 2, 32, overrides)
    source = drawn(description.build(), seed=3)
    path = tmp_path / "weights.safetensors"
    save_weights(path, source, description)
    model = small()
    assert load_pretrained(model, path, classes=list("abcdefg"), complete=True).share == 1.0
    assert torch.equal(model.head.weight, source.head.weight)
    model = small()
    head = model.head.weight.clone()
    report = load_pretrained(model, path, classes=list("gfedcba"))
    assert report.adapted["head.weight"] == "head drawn anew: the file's classes are others"
    assert_every_weight_is_told(report, model)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.norm.weight, source.norm.weight)
    assert "the file's classes are others" in refusal(small(), path, classes=list("gfedcba"), complete=True)


def test_a_head_of_as_many_classes_is_loaded_and_a_lacking_one_is_told(tmp_path):
    source = small(seed=3)
    torch.save(source.state_dict(), tmp_path / "whole.pth")
    model = small()
    assert {"head.weight", "head.bias"} <= set(load_pretrained(model, tmp_path / "whole.pth").loaded)
    assert torch.equal(model.head.weight, source.head.weight)
    torch.save({k: v for k, v in source.state_dict().items() if "head" not in k}, tmp_path / "headless.pth")
    report = load_pretrained(model, tmp_path / "headless.pth")
    assert report.initial == dict.fromkeys(("head.weight", "head.bias"), "the file has no head")
    torch.save({k: v for k, v in source.state_dict().items() if k != "head.bias"}, tmp_path / "half.pth")
    assert "1 weights missing (for example head.bias)" in refusal(small(), tmp_path / "half.pth")


# ----------------------------------------------------------------------------------------------------------- refusals


def test_another_architecture_is_refused(tmp_path, timm_tiny):
    def saved(model: nn.Module) -> Path:
        torch.save({"model": model.state_dict()}, tmp_path / "other.pth")
        return tmp_path / "other.pth"

    assert "another shape" in refusal(small(), saved(small(embed_dim=12)))
    assert "of another shape" in refusal(small(), saved(small(focal_levels=(3, 3, 3, 3))))
    assert "gamma_1" in refusal(small(), saved(small(use_layerscale=True)))
    assert "weights missing" in refusal(small(use_layerscale=True), saved(small()))
    assert "nothing of it fits VideoFocalNet: it has 0.weight" in refusal(
        small(), saved(nn.Sequential(nn.Conv2d(3, 4, 1)))
    )
    assert "of another shape" in refusal(small(), saved(timm_tiny))
    lacking = small().state_dict()
    del lacking["layers.0.blocks.0.modulation.f_temporal.weight"]
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    assert "f_temporal" in refusal(small(), tmp_path / "lacking.pth")


def test_too_little_is_refused(tmp_path):
    torch.save(small(depths=(1, 1, 1, 1)).state_dict(), tmp_path / "shallow.pth")
    assert "too little to start from" in refusal(small(depths=(2, 2, 18, 2)), tmp_path / "shallow.pth")
    report = load_pretrained(small(depths=(1, 1, 2, 1)), tmp_path / "shallow.pth")
    assert set(report.initial.values()) == {"of blocks that the file does not have"}


def test_another_layout_than_it_was_said_to_be_is_refused(tmp_path):
    torch.save({"model": small().state_dict()}, tmp_path / "video.pth")
    assert "is of layout 'video', not 'timm'" in refusal(small(), tmp_path / "video.pth", layout="timm")


def test_weights_that_replace_the_training_must_fit_whole(tmp_path):
    torch.save({"model": small(num_classes=9).state_dict()}, tmp_path / "other.pth")
    line = refusal(small(), tmp_path / "other.pth", complete=True)
    assert "9 classes in the file, 7 here" in line and "start_from" in line
    torch.save({"model": spatial(small())}, tmp_path / "image.pth")
    assert TEMPORAL in refusal(small(), tmp_path / "image.pth", complete=True)
    torch.save({"model": small(depths=(1, 1, 3, 1)).state_dict()}, tmp_path / "deeper.pth")
    assert "blocks that the model does not have" in refusal(small(), tmp_path / "deeper.pth", complete=True)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_and_foreign_files_are_refused(tmp_path, legacy):
    whole = released_checkpoint(tmp_path / "whole.pth", small(), legacy=legacy).read_bytes()
    for size in (0, 10, 1000, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / f"cut{size}.pth"
        cut.write_bytes(whole[:size])
        line = refusal(small(), cut)
        assert "cannot be read as weights" in line and "make or fetch it again" in line
    page = tmp_path / "page.pth"
    page.write_text("<!doctype html><title>Sign in</title>")
    assert "cannot be read as weights" in refusal(small(), page)
    assert "no such weights file" in refusal(small(), tmp_path / "none.pth")
    torch.save({"model": {"epoch": 3}}, tmp_path / "empty.pth")
    assert "holds no weights by name" in refusal(small(), tmp_path / "empty.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    assert "holds no weights by name" in refusal(small(), tmp_path / "tensor.pth")


class Calls:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("place", ["beside", "within"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, place, legacy):
    for function, arguments in {
        os.system: (f"touch {tmp_path}/ran",),
        os.mkdir: (f"{tmp_path}/ran",),
        subprocess.check_call: (["touch", f"{tmp_path}/ran"],),
        eval: (f"open('{tmp_path}/ran', 'w')",),
        shutil.copy: (__file__, f"{tmp_path}/ran"),
        getattr: ("text", "upper"),
    }.items():
        bad = Calls(function, *arguments)
        state = dict(small().state_dict())
        content = {"model": state, "config": bad} if place == "beside" else {"model": state | {"head.bias": bad}}
        path = tmp_path / "bad.pth"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        line = refusal(small(), path)
        assert function.__name__ in line
        assert "would call" in line and "nothing of it was run" in line
    assert not (tmp_path / "ran").exists()
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path}/ran")))
    refusal(small(), plain)
    assert not (tmp_path / "ran").exists()
