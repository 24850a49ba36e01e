"""What a trial is: train, predict, score, and record or tell what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
import torch

from dvfl import plan
from dvfl.ablate import tune
from dvfl.ablate.study import open_study, record_trial, validation_curve
from dvfl.config import Config
from dvfl.errors import Pruned
from dvfl.evaluate.job import test_run
from dvfl.evaluate.scoring import score_run
from dvfl.files import read_json
from dvfl.models.weights import load_network
from dvfl.profile.compute import count_compute
from dvfl.profile.latency import measure
from dvfl.run import Run
from dvfl.track import outbox_directory, run_id
from dvfl.train.inputs import input_hashes, key_of, with_choices
from dvfl.train.job import train_run
from dvfl.train.loop import resolve


def run_trial(config: Config, run: Run, wait: bool = False) -> float:
    """Top-1 of the trial on the subset that its study is evaluated on, as a fraction."""
    open_study(config, run.dataset, run.study)  # a database that refuses says so before hours of training
    train_run(config, run, wait)
    value = _top1(config, run)
    record_trial(config, run, value, validation_curve(run))
    return value


def _top1(config: Config, run: Run) -> float:
    test_run(config, run)
    return score_run(config, run)["metrics"]["top1"]["value"]


# ----------------------------------------------------------------------------------------------------------- searching


def run_worker(config: Config, dataset: str, study: str, worker: int, wait: bool = False) -> int:
    """Runs trials of a search until it has as many as it is to have; how many this worker answered."""
    settings = config.ablation.tune[study]

    def answer(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        of_trial, run = plan.tune_trial(config, dataset, study, point)
        trial.set_user_attr("name", run.trial)
        trial.set_user_attr("run", str(run))
        watch = Watch(trial, settings.prunes) if len(settings.objectives) == 1 else None
        try:
            train_run(of_trial, run, wait=True, watch=watch)
        except Pruned:
            trial.set_user_attr("mlflow_run_id", _mlflow_id(of_trial, run))
            raise optuna.TrialPruned from None
        top1 = _top1(of_trial, run)
        trial.set_user_attr("mlflow_run_id", read_json(run.directory / "run.json")["mlflow_run_id"])
        if watch is not None:
            watch.complete(validation_curve(run))
        return [top1, *(_cost(of_trial, run, objective) for objective in settings.objectives[1:])]

    return tune.work(config, dataset, study, worker, answer, made_from(config, dataset, study), wait)


@dataclass
class Watch:
    """Tells Optuna how a training goes, from whichever process runs it, and asks whether it is to be ended."""

    trial: optuna.Trial
    prunes: bool

    def __call__(self, epoch: int, top1: float) -> bool:
        self.complete({epoch: top1})
        return self.prunes and self.trial.should_prune()

    def complete(self, curve: dict[int, float]) -> None:
        """Reports what was not yet: a training that went on has told its earlier epochs before."""
        reported = self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values
        for epoch, top1 in curve.items():
            if epoch not in reported:
                self.trial.report(top1, epoch)


def made_from(config: Config, dataset: str, study: str) -> dict[str, Any]:
    """What all trials of a search have in common: where it changes, trials before and after do not compare."""
    first = {key: range.examples[0] for key, range in config.ablation.tune[study].space.items()}
    of_trial, run = plan.tune_trial(config, dataset, study, first)
    return {"settings": with_choices(of_trial, run)[0].decisive, "inputs": input_hashes(of_trial, run)}


def _mlflow_id(config: Config, run: Run) -> str | None:
    key = key_of(with_choices(config, run)[0], input_hashes(config, run))
    return run_id(outbox_directory(run.directory, key), config.tracking)


def _cost(config: Config, run: Run, objective: str) -> float:
    """What one clip costs the trained network: milliseconds (median of passes), or 10^9 multiply-adds."""
    settings = plan.run_settings(config, run)
    model, network = load_network(run.directory / "weights.safetensors")
    device = resolve(settings.train, run.seed, len(network.classes)).device
    size = settings.input.img_size
    clip = torch.zeros(1, settings.input.frames, 3, size, size, device=device)
    model.to(device)
    if objective == "gmacs":
        return count_compute(model, clip).macs / 1e9
    torch.set_num_threads(settings.train.threads)
    profile = config.profile
    measured = measure(model, clip, repeats=profile.repeats_small, precision=profile.precision)
    return measured.summary(1)["latency_ms"]
