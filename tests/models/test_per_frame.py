"""timm's image models on clips: each frame by itself, logits averaged."""

import pytest
import torch

from dvfl.models import create_model


def test_logits_are_the_mean_over_frames():
    model = create_model("timm/test_resnet", num_classes=5, num_frames=4, img_size=32).eval()
    clips = torch.randn(3, 4, 3, 32, 32)
    with torch.inference_mode():
        by_frame = torch.stack([model.network(clips[:, frame]) for frame in range(4)])
        torch.testing.assert_close(model(clips), by_frame.mean(0))
        torch.testing.assert_close(model(clips.flip(1)), model(clips))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "focalnet_tiny_srf.ms_in1k"])
@pytest.mark.parametrize("size", [32, 48])
def test_networks_are_made_for_the_size_of_the_frames(name, size):
    with torch.device("meta"):
        model = create_model(f"timm/{name}", num_classes=5, num_frames=2, img_size=size)
        assert model(torch.zeros(3, 2, 3, size, size)).shape == (3, 5)


def test_overrides_reach_timm():
    with torch.device("meta"):
        model = create_model("timm/test_vit", num_classes=5, img_size=32, patch_size=8, drop_rate=0.25)
    assert model.network.patch_embed.grid_size == (4, 4)
    assert model.network.head_drop.p == 0.25


@pytest.mark.parametrize("argument", ["pretrained", "checkpoint_path"])
def test_weights_are_not_fetched(argument):
    with pytest.raises(ValueError, match=f"model_overrides fetch no weights; leave out {argument}"):
        create_model("timm/test_vit", num_classes=5, **{argument: True})


@pytest.mark.parametrize("name", ["resnet81", "", "hf-hub:timm/resnet18", "resnet18.nowhere"])
def test_a_name_that_timm_does_not_know_is_refused(name):
    with pytest.raises(ValueError, match=f"^'timm/{name}' is no image model of timm"):
        create_model(f"timm/{name}", num_classes=5)
