"""From the outbox to MLflow: in order, as often as it takes, with nothing written twice.

`delivered.json` in the outbox's folder notes for each store MLflow's run id, how far the outbox
has been delivered, and which records the store refused for good. It is written after each
request; a kill in between means that the last records are sent again, which changes nothing:
MLflow keys a metric by run, key, step, time and value, params and tags by their keys, artifacts
by their paths. Only a run itself can be made twice, by a server that answers after it was given
up; the one without records is put into the bin when the other ends.

What has piled up while MLflow was away goes out in as few requests as its limits allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dvfl.config import TrackingConfig
from dvfl.files import read_json, write_json
from dvfl.redaction import redact
from dvfl.track.outbox import MAX_METRICS, MAX_PARAMS, MAX_TAGS, Outbox, from_json
from dvfl.track.store import (
    PARENT_TAG,
    bin_twins,
    connect,
    ensure_study_run,
    experiment_id,
    find_or_create_run,
    store_key,
)
from dvfl.track.trouble import describe, warn

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "delivered.json"

Record = dict[str, Any]


def run_id(directory: Path, tracking: TrackingConfig | None = None) -> str | None:
    """MLflow's id of the run whose outbox lies in the folder; None as long as MLflow has not been reached.

    tracking: names the store. Without it the id is that of the store that had the run first, so that it stays.
    """
    if tracking is not None:
        return _load(directory, tracking)["run_id"]
    return next((state["run_id"] for state in _states(directory).values() if state["run_id"]), None)


def pending(outbox: Outbox, tracking: TrackingConfig) -> bool:
    """Whether something has not been delivered to this store."""
    return _load(outbox.directory, tracking)["offset"] < outbox.size()


def deliver(outbox: Outbox, tracking: TrackingConfig, wait_seconds: float = 0) -> None:
    """Sends what is pending.

    Raises filelock.Timeout where another process still delivers the same outbox after
    `wait_seconds`, and whatever MLflow raises when the store cannot be reached; what was delivered
    until then stays delivered.
    """
    with FileLock(outbox.directory / "delivery.lock", timeout=wait_seconds):
        if not pending(outbox, tracking):
            return
        state = _load(outbox.directory, tracking)
        client = connect(tracking)
        if state["run_id"] is None or not _is_there(client, state["run_id"]):
            state |= {"run_id": _begin(client, outbox, tracking), "offset": 0, "refused": []}
            _save(outbox.directory, tracking, state)
        for records in _requests(outbox.read(state["offset"])):
            for end, refusal in _send(client, state["run_id"], records, outbox):
                state["refused"].append([end, refusal])
                warn(f"refuses a record of {outbox.directory}: {refusal}", tracking)
            state["offset"] = records[-1][1]
            _save(outbox.directory, tracking, state)


def _begin(client: MlflowClient, outbox: Outbox, tracking: TrackingConfig) -> str:
    opening = outbox.opening
    experiment = experiment_id(client, tracking, opening["experiment"])
    tags = dict(opening["tags"])
    if opening["study"]:
        tags[PARENT_TAG] = ensure_study_run(client, tracking, experiment, opening["study"])
    id, name, begun = (opening[key] for key in ("id", "name", "time"))
    return find_or_create_run(client, tracking, experiment, id, name, tags=tags, start_ms=begun)


def _requests(records: Iterable[tuple[Record, int]]) -> Iterator[list[tuple[Record, int]]]:
    """The records, each with the offset after it, by the requests that they go into."""
    together: list[tuple[Record, int]] = []
    counts: Counter[str] = Counter()
    for record, end in records:
        added = Counter({kind: len(record.get(kind, ())) for kind in ("metrics", "params", "tags")})
        batches = record["kind"] == "batch" and together and together[-1][0]["kind"] == "batch"
        if together and not (batches and _fit(counts + added)):
            yield together
            together, counts = [], Counter()
        together.append((record, end))
        counts += added
    if together:
        yield together


def _fit(counts: Counter[str]) -> bool:
    return counts.total() <= MAX_METRICS and counts["params"] <= MAX_PARAMS and counts["tags"] <= MAX_TAGS


def _send(
    client: MlflowClient, run: str, records: list[tuple[Record, int]], outbox: Outbox
) -> Iterator[tuple[int, str]]:
    """Sends records that go into one request; the offset after each that the store refuses, and why."""
    try:
        _request(client, run, [record for record, _ in records], outbox)
    except Exception as error:
        if not _is_refusal(error):
            raise
        if len(records) == 1:
            yield records[0][1], describe(error)
        else:  # no record goes down with another
            for each in records:
                yield from _send(client, run, [each], outbox)


def _request(client: MlflowClient, run: str, records: list[Record], outbox: Outbox) -> None:
    record = records[0]
    if record["kind"] == "batch":
        from mlflow.entities import Metric, Param, RunTag

        metrics = [metric for each in records for metric in each.get("metrics", ())]
        params = {key: value for each in records for key, value in each.get("params", {}).items()}
        tags = {key: value for each in records for key, value in each.get("tags", {}).items()}
        client.log_batch(
            run,
            metrics=[Metric(key, from_json(value), time, step) for key, value, step, time in metrics],
            params=[Param(*item) for item in params.items()],
            tags=[RunTag(*item) for item in tags.items()],
            synchronous=True,
        )
    elif record["kind"] == "artifact":
        client.log_artifact(run, str(outbox.directory / record["path"]), record["folder"] or None)
    elif record["kind"] == "status" and record["status"] == "RUNNING":
        client.update_run(run, status="RUNNING")
    elif record["kind"] == "status":
        bin_twins(client, run, outbox.opening["id"])
        client.set_terminated(run, record["status"], end_time=record["time"])


def _is_there(client: MlflowClient, run: str) -> bool:
    """False where the store was replaced or the run deleted: then it is written anew."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _is_refusal(error: Exception) -> bool:
    """Whether the store answered that it will never take this record."""
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"


def _load(directory: Path, tracking: TrackingConfig) -> dict[str, Any]:
    fresh = {"uri": redact(tracking.uri), "run_id": None, "offset": 0, "refused": []}
    return _states(directory).get(store_key(tracking.uri), fresh)


def _save(directory: Path, tracking: TrackingConfig, state: dict[str, Any]) -> None:
    write_json(directory / FILE, _states(directory) | {store_key(tracking.uri): state})


def _states(directory: Path) -> dict[str, dict[str, Any]]:
    """By store, the one that was reached first first."""
    path = directory / FILE
    return read_json(path) if path.exists() else {}
