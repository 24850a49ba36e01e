"""From a trained run to its predictions and scores; from any clip to its top classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from dvfl import paths, plan
from dvfl.config import Config
from dvfl.data.reader import probe
from dvfl.errors import UserError
from dvfl.evaluate.score import score_predictions
from dvfl.files import atomic, read_json, required, sha256, write_json
from dvfl.run import Run, trained_input

if TYPE_CHECKING:
    from dvfl.train.distributed import Processes


def test_run(config: Config, run: Run) -> None:
    """Predicts every clip that the run is evaluated on and writes predictions.parquet; on as many processes as train.

    However many there are, every clip is predicted once, and the bytes are those of one process.
    """
    from dvfl.train.distributed import run_on_processes
    from dvfl.train.inputs import with_choices

    run_on_processes(with_choices(config, run)[0].train, _test, config, run)


def _test(processes: Processes, config: Config, run: Run) -> None:
    from dvfl.evaluate.predict import predict_dataset
    from dvfl.models.weights import load_network
    from dvfl.train.inputs import clip_dataset, import_plugins, load_run_data, with_choices
    from dvfl.train.loop import resolve

    import_plugins(config)
    settings, _ = with_choices(config, run)
    processes.take_gpu(settings.train)
    torch.set_num_threads(settings.train.threads)
    data = load_run_data(config, run)
    dataset = clip_dataset(data, settings, [settings.evaluated_on])
    recipe = resolve(settings.train, run.seed, len(data.classes))
    model, _ = load_network(run.directory / "weights.safetensors")
    evaluate = plan.evaluation(config, run)
    model.to(recipe.device)
    predictions = predict_dataset(model, dataset, evaluate, recipe.device, settings.train.workers, processes)
    if processes.first:
        with atomic(run.directory / "predictions.parquet") as partial:
            predictions.to_parquet(partial, index=False)


def score_run(config: Config, run: Run) -> dict[str, Any]:
    """Scores the run's predictions and writes scores.json."""
    scores = compute_scores(config, run)
    write_json(run.directory / "scores.json", scores)
    _track_scores(config, run, scores)
    return scores


def compute_scores(config: Config, run: Run) -> dict[str, Any]:
    """What scores.json holds of the run's predictions."""
    from dvfl.data.index import read_index
    from dvfl.data.splits import read_split

    index = read_index(required(paths.index_path(run.dataset)))
    split = read_split(required(paths.split_path(run.dataset, run.split)))
    subset = plan.run_settings(config, run).evaluated_on
    evaluate = plan.evaluation(config, run)
    clip_ids = sorted(split.loc[split["subset"] == subset, "clip_id"])
    predictions = required(run.directory / "predictions.parquet")
    scores = score_predictions(
        pd.read_parquet(predictions),
        index,
        index.drop_duplicates("label").sort_values("label")["class_name"].tolist(),
        expected_clip_ids=clip_ids[: evaluate.tested(len(clip_ids))],
        resamples=config.evaluate.resamples,
    )
    about = {
        **{key: getattr(run, key) for key in ("dataset", "split", "protocol", "arm", "seed", "study", "trial")},
        "subset": subset,
        "views": f"{evaluate.clips}x{evaluate.crops}",
        "clips_dropped": len(clip_ids) - scores["n_clips"],
        "predictions_sha256": sha256(predictions),
    }
    return about | scores


def _track_scores(config: Config, run: Run, scores: dict[str, Any]) -> None:
    """Scores join the MLflow run of their training."""
    from dvfl.train.job import open_tracker

    key = read_json(required(run.directory / "run.json"))["key"]
    subset = plan.run_settings(config, run).evaluated_on
    with open_tracker(config, run, key, rule="evaluate", reopen=True) as tracker:
        tracker.metrics({f"{subset}.{name}": metric["value"] for name, metric in scores["metrics"].items()})
        tracker.artifact(run.directory / "scores.json")


def check_motion(config: Config, run: Run, out: Path) -> None:
    """Tests the run's network with the motion taken away and writes what came out."""
    from dvfl.evaluate.motion import motion_check
    from dvfl.models.weights import load_network
    from dvfl.train.inputs import clip_dataset, load_run_data

    if config.dataset_definitions[run.dataset].kind != "motions":
        raise UserError(f"{run.dataset}: only the embedded data set has mirror classes to check against")
    settings = plan.run_settings(config, run)
    torch.set_num_threads(settings.train.threads)
    dataset = clip_dataset(load_run_data(config, run), settings, [settings.evaluated_on])
    model, _ = load_network(run.directory / "weights.safetensors")
    write_json(out, {"run": str(run), **motion_check(model, dataset, torch.device("cpu"))})


def predict_clip(clip: Path, directory: Path, top: int = 5) -> list[tuple[str, float]]:
    """The `top` most probable classes of a clip with their probabilities, by the run in `directory`."""
    from dvfl.data.clips import read_test_views
    from dvfl.evaluate.predict import view_probabilities
    from dvfl.models.weights import load_network

    input = trained_input(directory)
    model, network = load_network(directory / "weights.safetensors")
    views = read_test_views(clip, probe(clip).frames, input)
    probabilities = view_probabilities(model, views, input, torch.device("cpu")).mean(0)
    best = probabilities.topk(min(top, len(network.classes)))
    return [(network.classes[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
