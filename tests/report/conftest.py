"""A complete results tree of made-up runs, small enough to check tables and figures against."""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dvfl import networks, paths, plan
from dvfl.ablate.trials import study_trials
from dvfl.audit import findings
from dvfl.config import Config, check_config
from dvfl.distill.released_loss import released_loss
from dvfl.evaluate.score import score_predictions
from dvfl.networks import Network, Profiled
from dvfl.report import inputs
from dvfl.report.ablation import runs_by_trial
from dvfl.report.checks import SHOWN
from dvfl.report.tables import TABLES, read_table, write_all, write_table
from dvfl.run import Run

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef"
ACCURACY = {"teacher": 0.9, "student": 0.5, "distilled": 0.7, "teacher_few": 0.55}


def synthetic_config(**changes: Any) -> Config:
    """Two data sets, teacher, student and distilled, a 3x3 grid and a study of labelled clips."""
    raw: dict[str, Any] = {
        "datasets": ["motions", "other_set"],
        "dataset_definitions": {"other_set": {"kind": "folder", "root": "/data/other"}},
        "seeds": [0, 1, 2],
        "teacher": {"model": "video_focalnet_w24_d1121"},
        "student": {"model": "video_focalnet_w12_d1121", "clips_per_class": 10},
        "chosen_by": ["alpha_temperature"],
        "arms": {
            "teacher": {"network": "teacher", "seeds": [0]},
            "student": {"network": "student"},
            "distilled": {"network": "student", "distil_from": "teacher"},
        },
        "evaluate": {"resamples": 100},
        "ablation": {
            "run": ["alpha_temperature", "labelled_clips"],
            "studies": {
                "alpha_temperature": {
                    "arms": ["distilled"],
                    "grid": {
                        "distill.alpha": [0.2, 0.5, 0.9],
                        "distill.temperature": [1, 4, 10],
                    },
                    "points": [{"distill.alpha": 0.0}],
                },
                "labelled_clips": {
                    "arms": ["student", "distilled"],
                    "evaluate_on": "test",
                    "seeds": [0, 1, 2],
                    "points": [
                        {"student.clips_per_class": 4, "student.train.epochs": 75},
                        {"student.clips_per_class": 10},
                        {"student.clips_per_class": 20},
                    ],
                },
            },
        },
    }
    return check_config(raw | changes, registry=ROOT / "config/datasets.yaml")


def write_results(config: Config, classes: int = 4, groups: int = 12, per_group: int = 1) -> None:
    """Everything that the report reads, under results/ of the working directory."""
    names = [f"class_{label:03d}" if label else "Made_Up%Class" for label in range(classes)]
    for dataset in config.datasets:
        index = _write_data(config, dataset, names, groups, per_group)
        runs = dict.fromkeys([*plan.final_runs(config)])
        for study in config.ablation.run:
            trials = runs_by_trial(config, dataset, study)
            runs |= {run: trial for (trial, _), of_trial in trials.items() for run in of_trial}
        for run, trial in runs.items():
            if run.dataset == dataset:
                _write_run(config, run, trial or run.trial, index, names)
        for study in config.ablation.run:
            settings = config.ablation.studies[study]
            if settings.evaluate_on == "validation":
                _write_choice(dataset, study, study_trials(settings))
    paths.released_loss_path().parent.mkdir(parents=True, exist_ok=True)
    released_loss(temperatures=(1, 10, 20)).to_csv(paths.released_loss_path(), index=False)
    for network, profiled in networks.profiled(config).items():
        _write_profile(config, network, profiled, classes)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _write_data(config: Config, dataset: str, names: list[str], groups: int, per_group: int) -> pd.DataFrame:
    rows, subsets = [], []
    for group in range(groups):
        subset = ("train", "validation", "test", "test")[group % 4]
        for label, name in enumerate(names):
            for clip in range(per_group):
                clip_id = f"{name}/v_g{group:02d}_c{clip}.mp4"
                rows.append(
                    {
                        "clip_id": clip_id,
                        "class_name": name,
                        "label": label,
                        "group": f"g{group:02d}",
                        "status": "ok",
                    }
                )
                subsets.append({"clip_id": clip_id, "subset": subset})
    bad = {"clip_id": "bad.mp4", "class_name": names[0], "label": 0, "group": "g99"}
    rows.append(bad | {"status": "unreadable"})
    index = pd.DataFrame(rows)
    path = paths.index_path(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    index.to_parquet(path)
    merged = index.merge(pd.DataFrame(subsets), on="clip_id")
    for split in config.dataset_definitions[dataset].splits:
        for path in (paths.split_path(dataset, split), paths.audit_path(dataset, split)):
            path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(subsets).to_csv(paths.split_path(dataset, split), index=False)
        leak, _ = findings.leaked_by_source(merged, r"_(?P<group>g\d+)_")
        rows = [*findings.contents(merged), *findings.left_out(index, None), *leak]
        pd.DataFrame(rows, columns=findings.COLUMNS).to_csv(paths.audit_path(dataset, split), index=False)
    return merged


def _skill(config: Config, run: Run, trial: str) -> float:
    """Chance of a right answer: arms differ, alpha helps, more clips help the student."""
    skill = ACCURACY.get(run.arm, 0.6)
    if "clips_per_class=" in trial:
        clips = int(trial.split("clips_per_class=")[1].split(",")[0])
        skill = min(0.95, skill + 0.12 * np.log2(clips / 10) * (1 if run.arm == "student" else 0.4))
    if "alpha=" in trial:
        skill = 0.45 + 0.3 * float(trial.split("alpha=")[1].split(",")[0])
    return skill


def _write_run(config: Config, run: Run, trial: str, index: pd.DataFrame, names: list[str]) -> None:
    rng = np.random.default_rng(hash_of(str(run)))
    settings = plan.run_settings(config, run)
    clips = index[index["subset"] == settings.evaluated_on]
    labels = clips["label"].to_numpy()
    # A wrong answer is most often the next class: something for the confusion matrix to show.
    wrong = np.where(rng.random(len(clips)) < 0.6, labels + 1, rng.integers(0, 999, len(clips)))
    right = rng.random(len(clips)) < _skill(config, run, trial)
    answer = np.where(right, labels, wrong % len(names))
    probabilities = rng.random((len(clips), len(names))) + 1
    probabilities[np.arange(len(clips)), answer] += 0.3 * len(names) + 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predictions = pd.DataFrame(
        {"clip_id": clips["clip_id"], "label": labels, "probabilities": list(probabilities)}
    ).sample(frac=1, random_state=run.seed)
    run.directory.mkdir(parents=True, exist_ok=True)
    predictions.to_parquet(run.directory / "predictions.parquet")
    scores = score_predictions(
        predictions,
        index,
        names,
        expected_clip_ids=clips["clip_id"],
        resamples=config.evaluate.resamples,
    )
    _write_json(run.directory / "scores.json", scores)
    teacher = plan.teacher_of(config, run)
    per_class = settings.network.clips_per_class or 25
    _write_json(
        run.directory / "run.json",
        {
            "name": run.name,
            "directory": str(run),
            "arm": run.arm,
            "seed": run.seed,
            "mlflow_run_id": f"id-{hash_of(str(run)):08x}",
            "commit": COMMIT,
            "dirty": False,
            "settings": settings.model_dump(mode="json"),
            "chosen": {"distill.alpha": 0.9, "distill.temperature": 4} if teacher else None,
            "train_clips": per_class * len(names),
            "train_groups": 6,
            "teacher_top1_on_training_clips": 0.98 if teacher else None,
        },
    )
    _write_history(run, settings.train.epochs, teacher is not None, rng)
    if run in plan.motion_checked(config):
        top1 = {name: {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6} for name in SHOWN}
        _write_json(paths.motion_check_path(run), {"clips": 24, "chance": 1 / len(names), "top1": top1})


def _write_history(run: Run, epochs: int, distilled: bool, rng: np.random.Generator) -> None:
    epoch = np.arange(1, epochs + 1)
    fall = np.exp(-3 * epoch / epochs)
    noise = 1 + 0.05 * rng.standard_normal(epochs)
    history = {
        "epoch": epoch,
        "lr": 1e-3,
        "loss": 2.5 * fall * noise,
        "loss_ce": 2.4 * fall * noise + 0.1,
    }
    if distilled:
        history["loss_kd"] = 3.5 * fall * noise
    history["train_top1"] = 1 - 0.9 * fall
    history["grad_norm"] = 1.0
    history["seconds"] = 1.0
    if run.stage == "selection":
        history["val_top1"] = 0.8 - 0.7 * fall
        history["val_loss"] = 2.5 * fall + 0.3
    pd.DataFrame(history).to_csv(run.directory / "history.csv", index=False)


def _write_choice(dataset: str, study: str, trials: dict[str, dict[str, Any]]) -> None:
    chosen = "alpha=0.9,temperature=4"
    _write_json(
        paths.study_directory(dataset, study) / "choice.json",
        {
            "study": study,
            "metric": "top1",
            "subset": "validation",
            "values": trials[chosen],
            "value": 0.7,
            "baseline": 0.5,
        },
    )


PARAMS = {
    "video_focalnet_base": (157_082_741, 220.9),
    "video_focalnet_small": (88_505_237, 124.5),
    "video_focalnet_tiny": (49_323_341, 63.1),
    "vfl_net": (22_214_723, 27.2),
    "video_focalnet_w24_d1121": (2_718_281, 0.0912),
    "video_focalnet_w12_d1121": (361_234, 0.00917),
}


def _write_profile(config: Config, network: Network, profiled: Profiled, classes: int) -> None:
    params, gmacs = PARAMS[network.model]
    if network.model in config.profile.paper_models:
        gmacs *= (network.img_size / 224) ** 2
    overrides = {} if profiled.run is None else plan.run_settings(config, profiled.run).network.model_overrides
    if "embed_dim" in overrides:
        params, gmacs = (value * (overrides["embed_dim"] / 96) ** 2 for value in (params, gmacs))
    _write_json(
        paths.profile_path(profiled.name),
        {
            "model": network.model,
            "num_classes": 101 if profiled.run is None else classes,
            "frames": network.frames,
            "img_size": network.img_size,
            "overrides": overrides,
            "params": params,
            "gmacs": gmacs,
            "gflops": 2 * gmacs,
            "gmacs_by_operator": {"conv": gmacs},
            "other_gops": gmacs / 50,
            "activations_m": gmacs * 2,
            "uncounted": {},
            "weights_mb": params * 4 / 1e6,
            "precision": "float32",
            "device": "cpu",
            "threads": 2,
            "machine": {"cpu": "a CPU", "cores": 2},
            "batches": [
                {
                    "batch": 1,
                    "repeats": 7,
                    "latency_ms": 12 * gmacs + 3,
                    "latency_p95_ms": None,
                    "latencies_ms": [12 * gmacs + 3 + step for step in range(-3, 4)],
                    "clips_per_second": 1000 / (12 * gmacs + 3),
                    "peak_memory_mb": 300 + params / 1e5,
                    "peak_memory_increase_mb": params / 1e5,
                }
            ],
            "name": profiled.name,
            "mlflow_run_id": f"profile-{profiled.name}",
        },
    )


def hash_of(text: str) -> int:
    """A number from a text, the same in every process."""
    return zlib.crc32(text.encode())


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """`make_config(key=value, ...)`: the synthetic config with other values at the top level."""
    return synthetic_config


@pytest.fixture(scope="session")
def default_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the synthetic config, written once; copy them, do not change them."""
    folder = tmp_path_factory.mktemp("default")
    with contextlib.chdir(folder):
        config = synthetic_config()
        write_results(config)
        for name, build in TABLES.items():
            write_table(build(config), f"results/tables/{name}")
    return folder


@pytest.fixture
def tree(tmp_path: Path, default_tree: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """`tree(config, ...)` puts results for a config, without tables, into a fresh working directory."""
    published = tmp_path / "published.csv"
    monkeypatch.setattr(inputs, "PUBLISHED", Path(shutil.copy(inputs.PUBLISHED, published)))
    monkeypatch.chdir(tmp_path)

    def write(config: Config | None = None, **sizes: int) -> Config:
        if config is None and not sizes:
            shutil.copytree(default_tree / "results", "results", ignore=shutil.ignore_patterns("tables"))
            return synthetic_config()
        config = config or synthetic_config()
        write_results(config, **sizes)
        return config

    return write


@pytest.fixture
def tables(default_tree: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    """The tables of the synthetic config, with its results as the working directory: read only."""
    monkeypatch.chdir(default_tree)
    return {name: read_table(f"results/tables/{name}.csv") for name in TABLES}


@pytest.fixture
def make_tables() -> Callable[[Config], None]:
    """`make_tables(config)` writes all tables of the results in the working directory."""

    def make(config: Config) -> None:
        for name, build in TABLES.items():
            write_table(build(config), f"results/tables/{name}")
        write_all([f"results/tables/{name}.csv" for name in TABLES])

    return make
