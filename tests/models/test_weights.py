"""Weights come back as they went; what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch

from dvfl.errors import UserError
from dvfl.models.weights import NetworkDescription, WeightsError, load_into, load_network, save_weights

CLASSES = ["blue", "green", "red"]


def described(classes=CLASSES, embed_dim: int = 4) -> NetworkDescription:
    overrides = {"embed_dim": embed_dim, "depths": [1, 1, 1, 1]}
    return NetworkDescription("video_focalnet_tiny", list(classes), 2, 32, overrides)


def built(description: NetworkDescription, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return description.build()


@pytest.fixture
def file(tmp_path):
    description = described()
    save_weights(tmp_path / "weights.safetensors", built(description), description)
    return tmp_path / "weights.safetensors"


def refusal(load, *arguments) -> str:
    with pytest.raises(WeightsError) as error:
        load(*arguments)
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_network_comes_back_with_its_description_and_answers_the_same(file):
    model, description = load_network(file)
    assert description == described()
    assert not model.training
    clip = torch.randn(1, 2, 3, 32, 32)
    assert torch.equal(model(clip), built(described()).eval()(clip))


def test_the_same_weights_give_the_same_bytes_and_others_others(file, tmp_path):
    description = described()
    save_weights(tmp_path / "again.safetensors", built(description), description)
    save_weights(tmp_path / "other.safetensors", built(description, seed=1), description)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != file.read_bytes()


def test_a_model_may_lie_in_memory_as_it_likes(tmp_path, file):
    model = built(described())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.set_(parameter.t().contiguous().t())
    save_weights(tmp_path / "other.safetensors", model, described())
    assert (tmp_path / "other.safetensors").read_bytes() == file.read_bytes()


def test_another_width_is_refused_and_the_model_stays_as_it_was(file):
    model = built(described(embed_dim=6), seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    line = refusal(load_into, model, file)
    assert str(file) in line and "another shape" in line and "same model, width and number of classes" in line
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_number_of_classes_is_refused(file):
    line = refusal(load_into, built(described(classes=["a", "b"])), file)
    assert "2 weights of another shape (for example head.bias)" in line


def test_another_depth_is_refused_with_what_is_missing_and_what_is_unknown(file, tmp_path):
    deeper = NetworkDescription("video_focalnet_tiny", CLASSES, 2, 32, {"embed_dim": 4, "depths": [2, 1, 1, 1]})
    line = refusal(load_into, built(deeper), file)
    assert "weights missing (for example layers.0.blocks.1." in line
    save_weights(tmp_path / "deeper.safetensors", built(deeper), deeper)
    assert "weights that the model does not have" in refusal(
        load_into, built(described()), tmp_path / "deeper.safetensors"
    )


@pytest.mark.parametrize("load", [load_network, lambda path: load_into(built(described()), path)])
def test_a_missing_a_truncated_and_a_foreign_file_are_named(file, tmp_path, load):
    missing = tmp_path / "none.safetensors"
    assert refusal(load, missing) == f"{missing}: no such weights file"
    for size in (0, 5, 1000, file.stat().st_size - 1):
        cut = tmp_path / f"cut{size}.safetensors"
        cut.write_bytes(file.read_bytes()[:size])
        line = refusal(load, cut)
        assert str(cut) in line and "not a complete safetensors file" in line and "make or fetch it again" in line
    text = tmp_path / "text.safetensors"
    text.write_text("these are no weights, whatever the name says")
    assert str(text) in refusal(load, text)


def test_weights_without_a_description_fit_a_model_but_build_none(file, tmp_path):
    from safetensors.torch import load_file, save_file

    bare = tmp_path / "bare.safetensors"
    save_file(load_file(file), bare)
    assert "does not say which network it belongs to" in refusal(load_network, bare)
    model = built(described(), seed=1)
    load_into(model, bare)
    stored = load_file(bare)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
