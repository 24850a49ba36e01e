"""Every clip once, probabilities averaged over its views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dvfl.config import EvaluateConfig, InputConfig
from dvfl.evaluate.predict import predict_dataset, view_probabilities

CPU = torch.device("cpu")


INPUT = InputConfig()


class Clips:
    """Stands for a ClipDataset: clip i's view v is one level of grey everywhere."""

    input = INPUT

    def __init__(self, count: int = 7):
        self.clip_ids = [f"class/{i}.avi" for i in range(count)]
        self.labels = np.arange(count) % 3
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.clip_ids)

    def level(self, i: int, view: int) -> int:
        return (37 * i + 61 * view) % 256

    def test_views(self, i: int, clips: int, crops: int, random: bool = False) -> torch.Tensor:
        self.asked.append(i)
        levels = [self.level(i, view) for view in range(clips * crops)]
        return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 4, 4)


class Steep(nn.Module):
    """Logits that depend steeply on the level, so that means of logits and of probabilities differ."""

    def forward(self, views):
        level = views.mean((1, 2, 3, 4))
        return torch.stack([6 * level, -4 * level, 5 * level**2], 1)


def test_probabilities_of_a_view_are_its_softmax_in_double_precision():
    views = torch.randint(0, 256, (4, 2, 3, 4, 4), dtype=torch.uint8)
    probabilities = view_probabilities(Steep(), views, INPUT, CPU)
    assert probabilities.dtype == torch.float64 and probabilities.shape == (4, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("batch_size", [1, 5, 24, 1000])
@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (4, 3)])
def test_every_clip_is_predicted_once_with_the_mean_over_its_views(batch_size, clips, crops):
    dataset = Clips()
    evaluate = EvaluateConfig(clips=clips, crops=crops, batch_size=batch_size)
    table = predict_dataset(Steep(), dataset, evaluate, CPU)
    assert dataset.asked == list(range(7))
    assert table["clip_id"].tolist() == dataset.clip_ids
    assert table["label"].tolist() == dataset.labels.tolist()
    for i, found in enumerate(table["probabilities"]):
        views = dataset.test_views(i, clips, crops)
        assert len(views) == clips * crops
        expected = view_probabilities(Steep(), views, INPUT, CPU).mean(0)
        assert found == pytest.approx(expected.tolist(), abs=1e-6)
        assert sum(found) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("count", [7, 8])
@pytest.mark.parametrize(("clips", "crops", "batch_size"), [(1, 1, 32), (4, 3, 2), (4, 3, 32), (4, 3, 60)])
def test_a_batch_of_two_that_is_dropped_counts_clips_and_not_views(count, clips, crops, batch_size):
    """As released: two clips with all their views, so an odd number loses one clip and an even one none."""
    dataset = Clips(count)
    evaluate = EvaluateConfig(clips=clips, crops=crops, batch_size=batch_size, drop_last=2)
    tested = predict_dataset(Steep(), dataset, evaluate, CPU)["clip_id"].tolist()
    assert tested == dataset.clip_ids[: count - count % 2]
    assert dataset.asked == list(range(count - count % 2))


def test_it_is_probabilities_that_are_averaged_and_not_logits():
    table = predict_dataset(Steep(), Clips(3), EvaluateConfig(clips=4, crops=3), CPU)
    views = torch.stack([Clips(3).test_views(i, 4, 3) for i in range(3)]).flatten(0, 1)
    from dvfl.data.transforms import normalise

    of_mean_logits = Steep()(normalise(views, INPUT)).view(3, 12, 3).mean(1).softmax(1)
    assert not np.allclose(np.stack(table["probabilities"].to_list()), of_mean_logits.numpy(), atol=0.01)


def test_the_network_is_in_eval_mode():
    model = nn.Sequential(Steep(), nn.Dropout(0.9)).train()
    one, two = (predict_dataset(model, Clips(), EvaluateConfig(), CPU) for _ in range(2))
    assert one["probabilities"].tolist() == two["probabilities"].tolist()
    assert not any((np.array(row) == np.array(row)[0]).all() for row in one["probabilities"])
