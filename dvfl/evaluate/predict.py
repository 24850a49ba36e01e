"""Predictions of a trained network: probabilities averaged over a clip's test views, every clip exactly once."""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

from dvfl.config import EvaluateConfig
from dvfl.data.clips import ClipDataset, iterate_test
from dvfl.data.transforms import normalise


@torch.inference_mode()
def view_probabilities(model: nn.Module, views: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Softmax of each view: uint8 (V, T, 3, S, S) -> float64 (V, C) on the CPU."""
    return model(normalise(views.to(device))).double().softmax(1).cpu()


def predict_dataset(
    model: nn.Module,
    dataset: ClipDataset,
    evaluate: EvaluateConfig,
    device: torch.device,
    workers: int = 0,
) -> pd.DataFrame:
    """One row a clip: clip_id, label, probabilities (C numbers, the mean over the test views)."""
    model.eval()
    rows = []
    for positions, views in iterate_test(dataset, evaluate.clips, evaluate.crops, evaluate.batch_size, workers):
        clips, views_each = views.shape[:2]
        probabilities = view_probabilities(model, views.flatten(0, 1), device)
        means = probabilities.view(clips, views_each, -1).mean(1)
        rows += [
            (dataset.clip_ids[position], dataset.labels[position], mean.tolist())
            for position, mean in zip(positions, means, strict=True)
        ]
    return pd.DataFrame(rows, columns=["clip_id", "label", "probabilities"]).sort_values("clip_id", ignore_index=True)
