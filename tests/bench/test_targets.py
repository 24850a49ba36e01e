"""The benchmark's two ways of an epoch learn the same, and the stored one never asks the teacher."""

from __future__ import annotations

import pytest

from dvfl.bench import targets
from dvfl.distill.targets import OnlineTargets


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_epoch_has_the_same_losses_with_the_teacher_in_the_loop_and_with_what_it_said(monkeypatch, precision):
    names = ("video_focalnet_w24_d1121", "video_focalnet_w12_d1121")
    size = {"clips": 8, "batch_size": 4, "img_size": 32, "num_classes": 5, "threads": 1}
    epoch = targets.distillation_epoch(*names, **size, precision=precision)
    online = epoch.online()
    assert len(online) == 2 and online[0] != online[1]
    monkeypatch.setattr(OnlineTargets, "__call__", None)
    assert epoch.stored() == online
