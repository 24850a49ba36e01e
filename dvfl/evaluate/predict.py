"""Predictions of a trained network: probabilities averaged over a clip's test views, every clip exactly once."""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

from dvfl.config import EvaluateConfig, InputConfig
from dvfl.data.clips import ClipDataset, clip_batches, iterate_test
from dvfl.data.transforms import normalise
from dvfl.errors import UserError
from dvfl.evaluate.kept import KeptPredictions
from dvfl.models.inference import for_inference
from dvfl.progress import Progress
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
    kept: KeptPredictions | None = None,
    label: str = "",
) -> pd.DataFrame:
    """One row a clip: clip_id, label, probabilities (C numbers, the mean over the test views).

    The processes share the batches, which do not depend on how many there are; each returns all rows. What is `kept`
    of them is not predicted again. With a `label`, the first process says how far it is.

    Raises UserError where the clips do not fill one batch of those whose last is left out.
    """
    model = for_inference(model)
    kept = kept or KeptPredictions()
    total = evaluate.tested(len(dataset))
    share = processes.share(len(clip_batches(total, evaluate.batch_size, evaluate.clips * evaluate.crops)))
    left = [number for number in share if number not in kept.rows]
    batches = iterate_test(
        dataset,
        evaluate.clips,
        evaluate.crops,
        evaluate.batch_size,
        workers,
        random=evaluate.frames == "random",
        first=total,
        take=lambda _: left,
    )
    with Progress(label, total, silent=not (label and processes.first)) as progress:
        for number, (positions, views) in zip(left, batches, strict=True):
            clips, views_each = views.shape[:2]
            probabilities = view_probabilities(model, views.flatten(0, 1), dataset.input, device)
            means = probabilities.view(clips, views_each, -1).mean(1)
            rows = [
                (dataset.clip_ids[position], dataset.labels[position], mean.tolist())
                for position, mean in zip(positions, means, strict=True)
            ]
            kept.add(number, rows)
            progress.update(min(total, processes.count * (int(positions[-1]) + 1)))
    rows = processes.gathered([row for number in share for row in kept.rows[number]])
    if not rows:
        raise UserError(
            f"evaluate.drop_last: the clips ({len(dataset)}) do not fill one batch of {evaluate.drop_last}, and an "
            f"incomplete one is left out; make it smaller, or null to test every clip"
        )
    return pd.DataFrame(rows, columns=["clip_id", "label", "probabilities"]).sort_values("clip_id", ignore_index=True)
