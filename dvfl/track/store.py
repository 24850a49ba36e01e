"""Reaching MLflow: a quiet client, and experiments and runs that are created once.

MLflow is imported when a store is first reached, since that takes more than a second.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dvfl.config import TrackingConfig
from dvfl.files import atomic
from dvfl.paths import RESULTS
from dvfl.redaction import redact
from dvfl.track.trouble import attempt, warn

if TYPE_CHECKING:
    from mlflow import MlflowClient

ID_TAG = "dvfl.id"  # finds a run again whose MLflow id was not written down before a kill
PARENT_TAG = "mlflow.parentRunId"

# Read by MLflow when it is imported or when it makes a request. Whoever sets one decides.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it logs whole tracebacks of errors that it raises, too
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # One attempt, and the outbox tries again later: a retry inside MLflow could create the same run
    # twice. Long enough for a slow server; training itself does not wait for it (see Tracker).
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "PGCONNECT_TIMEOUT": "5",
}


_clients: dict[str, MlflowClient] = {}


def connect(tracking: TrackingConfig) -> MlflowClient:
    """A client of the store; a local one is created where it does not exist.

    Raises whatever MLflow raises when the store cannot be reached.
    """
    if tracking.uri not in _clients:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow  # before the lock: it takes seconds

        if is_database(tracking.uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 1  # it would wait 100 s for a database that is down
        # Processes that open a new database together break it; a server is there already.
        with store_lock(tracking) if is_database(tracking.uri) else nullcontext():
            _create_file(tracking.uri)
            _clients[tracking.uri] = mlflow.MlflowClient(tracking_uri=store_uri(tracking))
    return _clients[tracking.uri]


def _create_file(uri: str) -> None:
    """A new SQLite store under another name first: one whose migration was cut short is never mended."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and "?" not in uri and not path.exists():
        import mlflow

        with atomic(path) as partial:
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{partial.absolute()}")


def store_uri(tracking: TrackingConfig) -> str:
    """The store's URI as MLflow takes it: with the driver for PostgreSQL that dvfl depends on."""
    return tracking.uri.replace("postgresql://", "postgresql+psycopg://")


def is_database(uri: str) -> bool:
    """Whether MLflow opens the store itself instead of asking a server."""
    return uri.split(":", 1)[0].split("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def store_key(uri: str) -> str:
    """A short name of a store that does not give its credentials away."""
    return hashlib.sha256(redact(uri).encode()).hexdigest()[:12]


@contextmanager
def store_lock(tracking: TrackingConfig) -> Iterator[None]:
    """One process at a time, of all that use this store from this project.

    Raises filelock.Timeout after a minute; a migration takes a few seconds.
    """
    path = RESULTS / "tracking" / f"store-{store_key(tracking.uri)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=60):
        yield


def experiment_id(client: MlflowClient, tracking: TrackingConfig, name: str) -> str:
    """The id of an experiment, which is created, or taken out of the bin, where needed."""
    found = client.get_experiment_by_name(name)
    if found is None:
        with store_lock(tracking):
            found = client.get_experiment_by_name(name)
            if found is None:
                # A server knows itself where its artifacts go.
                place = Path(tracking.artifacts).absolute().as_uri()
                local = f"{place}/{name}" if is_database(tracking.uri) else None
                return client.create_experiment(name, artifact_location=local)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def find_or_create_run(
    client: MlflowClient,
    tracking: TrackingConfig,
    experiment: str,
    unique_id: str,
    name: str,
    *,
    tags: Mapping[str, str] | None = None,
    start_ms: int | None = None,
    shared: bool = False,
) -> str:
    """MLflow's id of the run with our id, which is created where there is none.

    experiment: MLflow's id of the experiment. shared: whether other processes may ask for it, too.
    """
    with store_lock(tracking) if shared else nullcontext():
        found = client.search_runs([experiment], _ours(unique_id), order_by=["start_time"])
        if found:
            first, *twins = (each.info.run_id for each in found)
            _bin(client, experiment, first, twins)
            return first
        tags = {**(tags or {}), ID_TAG: unique_id}
        run = client.create_run(experiment, start_time=start_ms, tags=tags, run_name=name)
        return run.info.run_id


def bin_twins(client: MlflowClient, run: str, unique_id: str) -> None:
    """Deletes the other runs with our id.

    Each was made by a request that was given up and made again, since the answer did not come, and
    that was carried out all the same; nothing was ever logged to it.
    """
    experiment = client.get_run(run).info.experiment_id
    found = client.search_runs([experiment], _ours(unique_id))
    _bin(client, experiment, run, [each.info.run_id for each in found if each.info.run_id != run])


def _bin(client: MlflowClient, experiment: str, run: str, twins: Iterable[str]) -> None:
    """Deletes the twins of a run. A study's may have trials already, which go to the one that stays."""
    for twin in twins:
        for child in client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{twin}'"):
            client.set_tag(child.info.run_id, PARENT_TAG, run)
        client.delete_run(twin)


def _ours(unique_id: str) -> str:
    return f"tags.`{ID_TAG}` = '{unique_id}'"


def ensure_study_run(client: MlflowClient, tracking: TrackingConfig, experiment: str, study: str) -> str:
    """MLflow's id of a study's parent run, created once. experiment: MLflow's id of it."""
    tags = {"study": study}
    run = find_or_create_run(client, tracking, experiment, f"study:{study}", study, tags=tags, shared=True)
    client.set_terminated(run)  # what holds the trials does nothing itself, and no one trial is the last
    return run


def prepare(tracking: TrackingConfig, studies: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Creates the store, the experiments and the studies' parent runs before parallel use.

    studies: names of studies by data set; a data set without studies has none. May be repeated.
    Where the store cannot be reached, or not within PATIENCE_FOR_ALL seconds, says so, and leaves
    the work to the first delivery.

    Returns what `results/tracking/ready.json` holds: uri (without credentials), reachable, and
    MLflow's ids by name.
    """
    found: dict[str, Any] = {}

    def create() -> None:
        client = connect(tracking)
        for dataset, names in studies.items():
            experiment = experiment_id(client, tracking, experiment_name(dataset))
            runs = {name: ensure_study_run(client, tracking, experiment, name) for name in names}
            found[experiment_name(dataset)] = {"id": experiment, "studies": runs}

    trouble = attempt(create)
    if trouble:
        warn(f"{trouble}; runs are kept and delivered when MLflow is back", tracking)
    return {"uri": redact(tracking.uri), "reachable": trouble is None, "experiments": dict(found)}


def experiment_name(dataset: str) -> str:
    return f"dvfl/{dataset}"
