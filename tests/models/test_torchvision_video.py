"""torchvision's video models as ours: the same networks, for clips of other sizes and another order of dimensions."""

import pytest
import torch
import torchvision
from torch import nn

from dvfl.models import create_model
from dvfl.models.registry import TORCHVISION
from dvfl.models.torchvision_video import ClippedAvgPool3d


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in network.state_dict().items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_logits_are_as_many_as_the_classes_for_small_clips_and_every_weight_learns(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=7, num_frames=8, img_size=36)
        logits = model(torch.zeros(2, 8, 3, 36, 36))
        assert logits.shape == (2, 7)
        logits.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_are_torchvisions_under_a_prefix(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=7)
        ours = create_model(name, num_classes=7, num_frames=16, img_size=224)
    assert shapes(ours) == {f"network.{key}": shape for key, shape in shapes(theirs).items()}


@pytest.mark.parametrize(("name", "frames", "size"), [("mc3_18", 3, 20), ("s3d", 16, 209), ("swin3d_t", 4, 32)])
def test_logits_are_torchvisions_where_it_takes_the_clip(name, frames, size):
    model = create_model(name, num_classes=3, num_frames=frames, img_size=size).eval()
    theirs = torchvision.models.get_model(name, num_classes=3).eval()
    theirs.load_state_dict({key.removeprefix("network."): weight for key, weight in model.state_dict().items()})
    clip = torch.randn(1, frames, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(model(clip), theirs(clip.movedim(1, 2)))


@pytest.mark.parametrize("shape", [(2, 7, 7), (3, 8, 9), (2, 9, 7)])
def test_average_windows_are_torchvisions_where_they_fit(shape):
    x = torch.randn(2, 4, *shape)
    torch.testing.assert_close(ClippedAvgPool3d((2, 7, 7), stride=1)(x), nn.AvgPool3d((2, 7, 7), stride=1)(x))


def test_average_windows_shrink_to_what_there_is():
    x = torch.randn(2, 4, 1, 3, 2)
    torch.testing.assert_close(ClippedAvgPool3d((2, 7, 7), stride=1)(x), x.mean((2, 3, 4), keepdim=True))


def test_positions_of_a_resized_mvit_are_drawn_as_torchvision_draws_them():
    positions = create_model("mvit_v1_b", num_classes=3, num_frames=4, img_size=32).network.pos_encoding
    assert positions.temporal_pos.shape == (2, 96) and positions.spatial_pos.shape == (64, 96)
    assert positions.spatial_pos.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("name", "frames", "size", "said"),
    [
        ("s3d", 4, 224, "s3d takes 5 frames or more of 17 x 17 pixels or more, not 4 of 224 x 224"),
        ("s3d", 8, 16, "not 8 of 16 x 16"),
        ("mvit_v2_s", 7, 224, "mvit_v2_s takes an even number of frames"),
        ("mvit_v1_b", 8, 226, "sides that 4 divides, not 8 of 226 x 226"),
    ],
)
def test_clips_that_a_model_does_not_take_are_refused(name, frames, size, said):
    with pytest.raises(ValueError, match=said):
        create_model(name, num_classes=3, num_frames=frames, img_size=size)


@pytest.mark.parametrize("frames", [5, 6])
def test_the_smallest_clips_of_s3d_pass(frames):
    with torch.device("meta"):
        model = create_model("s3d", num_classes=3, num_frames=frames, img_size=17)
        assert model(torch.zeros(2, frames, 3, 17, 17)).shape == (2, 3)


def test_weights_are_not_fetched():
    with pytest.raises(ValueError, match="model_overrides fetch no weights; leave out weights"):
        create_model("mc3_18", num_classes=3, weights="DEFAULT")
