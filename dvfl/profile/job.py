"""Profiles one of the networks that the tables show, and tracks it."""

from __future__ import annotations

from typing import Any

from dvfl import paths, plan, steps
from dvfl.config import Config
from dvfl.data.index import read_index
from dvfl.errors import UserError
from dvfl.files import write_json
from dvfl.networks import network_of
from dvfl.profile.profile import profile_model
from dvfl.run import Run, RunSettings
from dvfl.track import Tracker, outbox_directory
from dvfl.train.provenance import code_version


def profile_one(config: Config, name: str, threads: int, larger: bool = False) -> dict[str, Any]:
    """Measures a paper-size model, or a network of the run's own as the run builds it, and writes its JSON.

    name: of the profile, one of `steps.profiled_models`. larger: at profile.larger_batches, into a folder of its own.
    """
    run = steps.profiled_runs(config).get(name)
    settings = config.profile
    if run is None:
        if name not in settings.paper_models:
            known = ", ".join(steps.profiled_models(config))
            raise UserError(f"{name!r} is neither in profile.paper_models nor trained by an arm; there are {known}")
        size = {"num_classes": settings.num_classes, "frames": settings.frames, "img_size": settings.img_size}
        model, overrides, repeats, experiment = name, {}, settings.repeats, "paper_models"
    else:
        own = _as_trained(config, run)
        classes = read_index(paths.index_path(run.dataset))["label"].nunique()
        size = {"num_classes": classes, "frames": own.input.frames, "img_size": own.input.img_size}
        model, overrides = own.network.model, own.network.model_overrides
        repeats, experiment = settings.repeats_small, run.dataset
    profile = profile_model(
        model,
        **size,
        overrides=overrides,
        batch_sizes=settings.larger_batches if larger else settings.batch_sizes,
        repeats=repeats,
        precision=settings.precision,
        threads=threads,
        plugins=config.plugins,
        exported=settings.exported,
    )
    key = steps.profile_settings(config, name)
    version = dict(zip(("commit", "dirty"), code_version(), strict=True))
    path = paths.profile_path(f"larger_batches/{name}" if larger else name)
    with Tracker.open_named(
        config.tracking,
        outbox_directory(path.with_suffix(""), key),
        experiment=f"dvfl/{experiment}",
        name=path.with_suffix("").relative_to(paths.RESULTS).as_posix(),
        tags={"rule": "profile", **version, "config_hash": key},
    ) as tracker:
        built = {"model": model, **{f"model_overrides.{each}": value for each, value in overrides.items()}}
        tracker.params({**built, **size, "precision": settings.precision, "threads": threads})
        tracker.metrics({key: profile[key] for key in ("params", "gmacs", "other_gops", "activations_m", "weights_mb")})
        for batch in profile["batches"]:
            tracker.metrics(_named(f"batch{batch['batch']}", batch))
        for form in profile.get("exported", []):
            for batch in form["batches"]:
                tracker.metrics(_named(f"{form['runtime']}.{form['precision']}.batch{batch['batch']}", batch))
        profile |= version | {"name": name, "mlflow_run_id": tracker.run_id, "key": key}
        write_json(path, profile)
        tracker.artifact(path)
    return profile


def _as_trained(config: Config, run: Run) -> RunSettings:
    """The run's settings; with what studies chose only where it is of the network, so that others need not be there."""
    if not network_of(config, run).chosen_by:
        return plan.run_settings(config, run)
    from dvfl.train.inputs import with_choices  # imports torch, hence late

    return with_choices(config, run)[0]


def _named(place: str, batch: dict[str, Any]) -> dict[str, float | None]:
    """What was measured of a batch, as MLflow takes it: its single numbers. Each pass stands in the file."""
    return {f"{place}.{key}": value for key, value in batch.items() if key not in ("batch", "latencies_ms")}
