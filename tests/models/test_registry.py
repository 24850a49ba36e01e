"""Models by name: the sizes agree with released checkpoints, names are checked without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dvfl import models
from dvfl.models import create_model, model_names, register_model

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]
PARAMETERS = {
    "video_focalnet_base": 157_082_741,
    "video_focalnet_small": 88_505_237,
    "video_focalnet_tiny": 49_323_341,
    "vfl_net": 22_214_723,
}
RELEASED_NAMES = dict(zip(PARAMETERS, ("base", "small", "tiny", "nano"), strict=True))


@pytest.fixture
def registry(monkeypatch):
    """Whatever a test registers is forgotten after it."""
    monkeypatch.setattr(models.registry, "_builders", dict(models.registry._builders))


def build_without_memory(name: str, **arguments) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=101, **arguments)


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_and_shapes_are_those_of_released_checkpoints(name):
    model = build_without_memory(name)
    table = (GOLDEN / f"state_dict_{RELEASED_NAMES[name]}_101_classes.tsv").read_text()
    released = dict(line.split("\t") for line in table.splitlines())
    ours = {key: ",".join(map(str, value.shape)) for key, value in model.state_dict().items()}
    assert ours == released
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["video_focalnet_w24_d1121", "video_focalnet_w12_d1121"])
def test_reduced_sizes_run_and_bear_their_size_in_their_name(name):
    model = create_model(name, num_classes=12, num_frames=8, img_size=32)
    width, depths = name.removeprefix("video_focalnet_w").split("_d")
    assert model.patch_embed.proj.out_channels == int(width)
    assert [len(stage.blocks) for stage in model.layers] == [int(depth) for depth in depths]
    assert model(torch.zeros(1, 8, 3, 32, 32)).shape == (1, 12)


def test_reduced_sizes_start_as_narrow_networks_need():
    for name in model_names():
        if name.startswith("video_focalnet_w"):
            modulation = create_model(name, num_classes=12).layers[0].blocks[0].modulation
            assert (modulation.h.bias == 1).all() and (modulation.h_temporal.bias == 1).all()


def test_overrides_replace_a_sizes_arguments():
    model = build_without_memory("vfl_net", num_frames=16, drop_path_rate=0.0, tubelet_size=2)
    assert model.patch_embed.proj.weight.shape == (96, 3, 2, 4, 4)
    assert model.layers[3].blocks[0].drop_path.rate == 0.0
    with pytest.raises(TypeError, match="no_such_option"):
        build_without_memory("vfl_net", no_such_option=1)


def test_unknown_name_is_answered_with_the_nearest_and_all_names():
    with pytest.raises(ValueError, match="did you mean 'vfl_net'") as error:
        create_model("vflnet", num_classes=2)
    assert all(name in str(error.value) for name in model_names())
    with pytest.raises(ValueError, match="did you mean"):
        create_model("", num_classes=2)


def test_a_model_of_ones_own_takes_one_line(registry):
    @register_model
    def my_net(*, num_classes, num_frames, img_size, bias=True):
        pixels = num_frames * 3 * img_size**2
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, num_classes, bias=bias))

    assert model_names()[-1] == "my_net"
    model = create_model("my_net", num_classes=3, num_frames=2, img_size=4, bias=False)
    assert model(torch.zeros(5, 2, 3, 4, 4)).shape == (5, 3)
    with pytest.raises(ValueError, match="'my_net' is registered already"):
        register_model(my_net)


def test_names_are_known_without_importing_torch():
    script = "import sys; from dvfl.models import model_names; model_names(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "dvfl.models.registry" in loaded
    assert "torch" not in loaded


def test_the_package_exports_the_network():
    assert isinstance(build_without_memory("vfl_net"), models.VideoFocalNet)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = models.no_such_name
