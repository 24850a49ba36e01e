"""From a trained run to its predictions; from any clip to its top classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dvfl import paths, plan
from dvfl.config import Config, digest
from dvfl.data.reader import probe
from dvfl.errors import UserError
from dvfl.files import atomic, sha256, write_json
from dvfl.run import Run, trained_input

if TYPE_CHECKING:
    from dvfl.train.distributed import Processes


def test_run(config: Config, run: Run) -> None:
    """Predicts every clip that the run is evaluated on and writes predictions.parquet; on as many processes as train.

    However many there are, every clip is predicted once, and the bytes are those of one process. Killed and started
    again, it goes on with what it had a minute before.
    """
    from dvfl.train.distributed import run_on_processes
    from dvfl.train.inputs import with_choices

    run_on_processes(with_choices(config, run)[0].train, _test, config, run)


def _test(processes: Processes, config: Config, run: Run) -> None:
    from dvfl.evaluate.kept import PREFIX, RECIPE, KeptPredictions
    from dvfl.evaluate.predict import predict_dataset
    from dvfl.models.weights import load_network
    from dvfl.train.inputs import clip_dataset, import_plugins, input_hashes, load_run_data, with_choices
    from dvfl.train.loop import resolve
    from dvfl.train.provenance import package_versions

    import_plugins(config)
    settings, _ = with_choices(config, run)
    processes.take_gpu(settings.train)
    torch.set_num_threads(settings.train.threads)
    data = load_run_data(config, run)
    dataset = clip_dataset(data, settings, [settings.evaluated_on])
    recipe = resolve(settings.train, run.seed, len(data.classes))
    weights = run.directory / "weights.safetensors"
    model, _ = load_network(weights)
    evaluate = plan.evaluation(config, run)
    model.to(recipe.device)
    inputs = [sha256(weights), input_hashes(config, run), dataset.clip_ids, package_versions()]
    how = [settings.input.model_dump(), evaluate.model_dump(), str(recipe.device), settings.train.threads]
    folder = paths.resume_directory(run, PREFIX + digest([RECIPE, *inputs, *how]))
    with KeptPredictions(folder) as kept:
        predictions = predict_dataset(
            model, dataset, evaluate, recipe.device, settings.train.workers, processes, kept, f"{run.name}, test"
        )
    if processes.first:
        with atomic(run.directory / "predictions.parquet") as partial:
            predictions.to_parquet(partial, index=False)
        kept.remove()


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
