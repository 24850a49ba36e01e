"""Models of other families and of one's own, through the jobs that Snakemake starts."""

from __future__ import annotations

import re

import yaml

from tests.workflow.conftest import COLOURS, small_config, snakemake, write_clip

PLUGIN = """
import torch
from dvfl.models import register_model

@register_model
def last_frame(*, num_classes, num_frames, img_size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(num_frames * 3 * img_size**2, num_classes))
"""


def test_jobs_know_timms_models_and_ones_own(tmp_path):
    for name, colour in COLOURS.items():
        for group in range(4):
            write_clip(tmp_path / f"clips/{name}/{name}_g{group}_c0.avi", colour)
    config = small_config(tmp_path / "clips") | {
        "plugins": ["my_models.py"],
        "teacher": {"model": "timm/test_resnet", "train": {"epochs": 1}},
        "student": {"model": "last_frame", "clips_per_class": 2, "train": {"epochs": 1}},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "my_models.py").write_text(PLUGIN)
    student = "results/runs/colours/split1/as_described/student/seed0/weights.safetensors"
    run = ["--cores", "2", "--configfile", str(tmp_path / "my.yaml"), "--", student]
    snakemake(tmp_path, *run)
    assert (tmp_path / student).exists()
    (tmp_path / "my_models.py").write_text(PLUGIN + "# changed\n")
    profiles = [f"results/profile/{model}.json" for model in ("last_frame", "timm/test_resnet")]
    planned = snakemake(tmp_path, "-n", *run, *profiles).stdout
    assert re.search(r"Job .*: Training runs/colours/.*\nReason: Updated input files: my_models\.py\n", planned)
    assert all(f"Measuring {model}, alone" in planned for model in ("last_frame", "timm/test_resnet"))
