"""Predictions of a trained network: probabilities averaged over a clip's test views, every clip exactly once."""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

from dvfl.config import EvaluateConfig, InputConfig
from dvfl.data.clips import ClipDataset, iterate_test
from dvfl.data.transforms import normalise
from dvfl.errors import UserError
from dvfl.models.inference import for_inference
from dvfl.train.distributed import ALONE, Processes


@torch.inference_mode()
def view_probabilities(model: nn.Module, views: torch.Tensor, input: InputConfig, device: torch.device) -> torch.Tensor:
    """Softmax of each view of such an input: uint8 (V, T, 3, S, S) -> float64 (V, C) on the CPU."""
    return model(normalise(views.to(device), input)).double().softmax(1).cpu()


def predict_dataset(
    model: nn.Module,
    dataset: ClipDataset,
    evaluate: EvaluateConfig,
    device: torch.device,
    workers: int = 0,
    processes: Processes = ALONE,
) -> pd.DataFrame:
    """One row a clip: clip_id, label, probabilities (C numbers, the mean over the test views).

    The processes share the batches, which do not depend on how many there are; each returns all rows.

    Raises UserError where the clips do not fill one batch of those whose last is left out.
    """
    model = for_inference(model)
    rows = []
    batches = iterate_test(
        dataset,
        evaluate.clips,
        evaluate.crops,
        evaluate.batch_size,
        workers,
        random=evaluate.frames == "random",
        first=evaluate.tested(len(dataset)),
        take=processes.share,
    )
    for positions, views in batches:
        clips, views_each = views.shape[:2]
        probabilities = view_probabilities(model, views.flatten(0, 1), dataset.input, device)
        means = probabilities.view(clips, views_each, -1).mean(1)
        rows += [
            (dataset.clip_ids[position], dataset.labels[position], mean.tolist())
            for position, mean in zip(positions, means, strict=True)
        ]
    rows = processes.gathered(rows)
    if not rows:
        raise UserError(
            f"evaluate.drop_last: the clips ({len(dataset)}) do not fill one batch of {evaluate.drop_last}, and an "
            f"incomplete one is left out; make it smaller, or null to test every clip"
        )
    return pd.DataFrame(rows, columns=["clip_id", "label", "probabilities"]).sort_values("clip_id", ignore_index=True)
