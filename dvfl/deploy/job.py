"""From a trained run to a file that others can deploy, written only if it passes its check."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dvfl import plan
from dvfl.config import Config
from dvfl.data.clips import ClipDataset, iterate_test
from dvfl.data.transforms import normalise
from dvfl.deploy.check import agreement, check_accuracy, check_logits, logits_of
from dvfl.deploy.onnx_file import Precision, about_network, as_onnx, set_about
from dvfl.deploy.packages import PACKAGES, ExportError, package, require_packages
from dvfl.deploy.quantise import in_precision
from dvfl.deploy.runtimes import RUNTIMES, Network, load
from dvfl.files import atomic, required, sha256, write_json
from dvfl.models.weights import load_network
from dvfl.profile import package_versions
from dvfl.randomness import generator
from dvfl.run import Run, RunSettings, trained_input
from dvfl.train.inputs import RunData, clip_dataset, load_run_data, with_choices

ORIGINAL = "pytorch"


def export_run(config: Config, run: Run, precision: Precision) -> dict[str, Any]:
    """Writes the run's network to export/PRECISION.onnx in its folder, and what was checked to the JSON beside it.

    Both runtimes are compared with PyTorch's float32 on clips that the run is evaluated on; labels of those are not
    looked at. int8 is calibrated on training clips and judged on the validation subset, which a final run may have
    trained on: the report says so.

    Returns the report. Raises ExportError where a package is missing, the network cannot be exported, or the file does
    not pass; then nothing is written.
    """
    require_packages()
    weights = required(run.directory / "weights.safetensors")
    settings, _ = with_choices(config, run)
    settings = settings.model_copy(update={"input": trained_input(run.directory)})
    data = load_run_data(config, run)
    torch.set_num_threads(settings.train.threads)
    model, network = load_network(weights)
    about = about_network(settings.input, network, precision=precision, run=str(run), weights_sha256=sha256(weights))
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate.onnx"
        graph = as_onnx(model, network.num_frames, network.img_size)
        shown = _clips(data, settings, "train", config.export.calibration_clips) if precision == "int8" else None
        graph = in_precision(graph, precision, _batches(shown, 1) if shown else (), Path(folder))
        set_about(graph, about)
        package("onnx").save(graph, candidate)
        networks = {ORIGINAL: eager(model)} | {
            runtime: load(candidate, runtime, precision, settings.train.threads) for runtime in RUNTIMES
        }
        report = about | _checked(config, run, data, settings, networks, precision)
        target = run.directory / f"export/{precision}.onnx"
        with atomic(target) as partial:
            shutil.copyfile(candidate, partial)
    report |= {
        "calibration_clips": len(shown) if shown else None,
        "file": str(target),
        "bytes": target.stat().st_size,
        "sha256": sha256(target),
        "versions": package_versions(["torch", *PACKAGES]),
    }
    write_json(target.with_suffix(".json"), report)
    return report


def _checked(
    config: Config, run: Run, data: RunData, settings: RunSettings, networks: dict[str, Network], precision: Precision
) -> dict[str, Any]:
    """What the check found. Raises ExportError where the exported networks do not pass it."""
    at_once = plan.evaluation(config, run).batch_size
    report: dict[str, Any] = {}
    if precision == "int8":
        seen = _clips(data, settings, "validation", config.export.check_clips)
        logits = logits_of(networks, _batches(seen, at_once))
        top1 = {name: float((each.argmax(1) == seen.labels).mean()) for name, each in logits.items()}
        original = top1.pop(ORIGINAL)
        check_accuracy(top1, original, len(seen), config.export.max_accuracy_drop)
        report["validation"] = {
            "clips": len(seen),
            "trained_on": "validation" in settings.subsets,
            "top1": {ORIGINAL: original, **top1},
        }
    compared = _clips(data, settings, settings.evaluated_on, config.export.check_clips)
    logits = logits_of(networks, _batches(compared, at_once))
    original_logits = logits.pop(ORIGINAL)
    found = {name: agreement(each, original_logits) for name, each in logits.items()}
    check_logits(found, precision, config.export.bfloat16_tolerance)
    return report | {
        "compared_on": settings.evaluated_on,
        "agreement": {name: each.as_dict() for name, each in found.items()},
    }


def _clips(data: RunData, settings: RunSettings, subset: str, count: int) -> ClipDataset:
    """Clips of a subset, drawn where it has more. Raises ExportError where it has none."""
    ids = sorted(data.split.loc[data.split["subset"] == subset, "clip_id"])
    if not ids:
        raise ExportError(
            f"{settings.dataset}, {settings.split}: int8 needs {subset} clips, and the split has none; give the data "
            f"set a validation_fraction, or take another precision"
        )
    if len(ids) > count:
        ids = generator(settings.seed, "export", subset).choice(ids, count, replace=False).tolist()
    return clip_dataset(data, settings, [subset], ids)


def _batches(dataset: ClipDataset, at_once: int) -> Iterator[NDArray[np.float32]]:
    """Normalised clips (B, T, 3, S, S), one view each: the first alone, then as many as given, so that B varies."""
    for positions, views in iterate_test(dataset, clips=1, crops=1, batch_size=at_once):
        clips = normalise(views.flatten(0, 1), dataset.input).numpy()
        if positions[0] == 0 and len(clips) > 1:
            yield clips[:1]
            clips = clips[1:]
        yield clips


def eager(model: nn.Module) -> Network:
    """PyTorch's network as a function of the same kind as the exported ones, with PyTorch's present threads."""

    def run(clips: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(clips)).numpy()

    return run
