"""What a job uses: record what is measured, and let MLflow have it when it can."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any

from filelock import Timeout

from dvfl.config import Config, TrackingConfig
from dvfl.errors import Stopped
from dvfl.paths import RESULTS
from dvfl.run import Run
from dvfl.track import delivery
from dvfl.track.outbox import FILE, Outbox, find_outboxes, now_ms
from dvfl.track.store import experiment_name
from dvfl.track.trouble import attempt, describe, warn
from dvfl.train.provenance import code_version

FOLDER = "tracking"
OUTBOXES = RESULTS / FOLDER
# A delivery that was waited for t seconds is followed by at least 19 t without one, so that however
# slow MLflow is, and however often it fails, training gives it no more than a twentieth of its time.
SHARE = 1 / 20
PATIENCE = 10.0  # seconds that are waited for a delivery; one that takes longer goes on beside the work
# The same where the run's id is asked for, once at its end: a number in a table without its run is worth the wait.
PATIENCE_FOR_ID = 60.0


def outbox_directory(run_directory: Path, key: str = "", results: Path = RESULTS) -> Path:
    """Where the outboxes of a run lie: a place of their own, since Snakemake removes outputs.

    key: of the settings and inputs that the run was made with. results: the folder of results that holds the run.
    """
    return results / FOLDER / run_directory.relative_to(results) / key


class Tracker:
    """Records one run in its outbox and delivers it to MLflow as it goes.

    No trouble with MLflow gets out of here: it is told once, on one line, and what was not
    delivered is sent at the next call, at the end, or by `deliver_pending`. Whatever MLflow does,
    the work waits for it no longer than PATIENCE seconds when the tracker is opened or closed,
    PATIENCE_FOR_ID when it is asked for the run's id and has none yet, and in between for no more
    than SHARE of its time. Where MLflow cannot be reached at all, it does not wait.

    with Tracker.open(config.tracking, run, outbox_directory(run.directory, key)) as tracker:
        tracker.params({"train.epochs": 25})
        tracker.metrics({"loss": 0.5}, step=1)
    """

    def __init__(self, tracking: TrackingConfig, outbox: Outbox):
        self.tracking = tracking
        self.outbox = outbox
        self._not_before = 0.0  # on the monotonic clock
        self._troubled = False
        self._delivery = Thread()

    @classmethod
    def open(
        cls,
        tracking: TrackingConfig,
        run: Run,
        directory: Path,
        *,
        name: str = "",
        tags: Mapping[str, Any] | None = None,
        reopen: bool = False,
    ) -> Tracker:
        """The tracker of a run.

        A job that was killed or failed goes on with its MLflow run. One that had finished gets a
        new MLflow run when it is done again, unless `reopen`: then it adds to the one before, as
        an evaluation does to its training.

        directory: holds the run's outboxes. name: in MLflow, the run's own unless given.
        """
        return cls.open_named(
            tracking,
            directory,
            experiment=experiment_name(run.dataset),
            name=name or run.name,
            study=run.study,
            tags=tags,
            reopen=reopen,
        )

    @classmethod
    def open_named(
        cls,
        tracking: TrackingConfig,
        directory: Path,
        *,
        experiment: str,
        name: str,
        study: str = "",
        tags: Mapping[str, Any] | None = None,
        reopen: bool = False,
    ) -> Tracker:
        """The tracker of work that is no run of the plan, such as a profile; see `open`.

        study: under whose parent run it is nested.
        """
        outboxes = _outboxes(directory)
        outbox = outboxes[-1] if outboxes else None
        if outbox is not None and (reopen or not outbox.finished):
            outbox.set_status("RUNNING")
            outbox.add_tags(tags or {})
        else:
            outbox = Outbox.create(
                directory / str(len(outboxes)),
                experiment=experiment,
                name=name,
                study=study,
                tags=tags,
            )
        tracker = cls(tracking, outbox)
        tracker.flush()
        return tracker

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped = kind is not None and (issubclass(kind, Stopped) or not issubclass(kind, Exception))  # as by Ctrl-C
        self.close("KILLED" if stopped else "FAILED" if kind else "FINISHED")

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None where MLflow cannot be reached (see `run_id` for later)."""
        if delivery.run_id(self.outbox.directory, self.tracking) is None:
            self._deliver(patience=PATIENCE_FOR_ID)
        return delivery.run_id(self.outbox.directory, self.tracking)

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, by dotted keys. The first value of a key stands; a later one becomes a tag."""
        self.outbox.add_params(values)
        self.flush()

    def tags(self, values: Mapping[str, Any]) -> None:
        """What the run belongs to or was made from. The last value of a key stands."""
        self.outbox.add_tags(values)
        self.flush()

    def metrics(self, values: Mapping[str, float | None], step: int = 0, time_ms: int | None = None) -> None:
        """What was measured at a step (an epoch). The first value of a key and step stands.

        time_ms: milliseconds since 1970; now unless given. None values are left out.
        """
        self.outbox.add_metrics(values, step, now_ms() if time_ms is None else time_ms)
        self.flush()

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file, as it is now. folder: its place among the run's artifacts."""
        self.outbox.add_artifact(path, folder)
        self.flush()

    def flush(self) -> None:
        """Delivers what is pending, unless the last delivery was slow or failed just now."""
        if time.monotonic() >= self._not_before and not self._delivery.is_alive():
            self._deliver()

    def close(self, status: str = "FINISHED") -> None:
        """Records how the run ended and delivers what is pending."""
        self.outbox.set_status(status)
        self._deliver(wait_seconds=PATIENCE)

    def _deliver(self, wait_seconds: float = 0, patience: float | None = None) -> None:
        """Delivers in a thread, since not everything that MLflow does has a timeout.

        wait_seconds: for another process that delivers the same outbox. patience: instead of PATIENCE.
        """
        patience = PATIENCE if patience is None else patience
        begin = time.monotonic()
        if self._delivery.is_alive():
            self._delivery.join(patience)
        if not self._delivery.is_alive():
            # A daemon: a process that has done its work does not stay for MLflow.
            self._delivery = Thread(target=self._try_to_deliver, args=(wait_seconds,), daemon=True)
            self._delivery.start()
            self._delivery.join(max(0, begin + patience - time.monotonic()))
        if self._delivery.is_alive():
            self._tell(f"no answer within {patience:g} s")
        spent = time.monotonic() - begin
        self._not_before = time.monotonic() + spent * (1 / SHARE - 1)

    def _try_to_deliver(self, wait_seconds: float) -> None:
        try:
            delivery.deliver(self.outbox, self.tracking, wait_seconds)
        except Timeout:
            pass  # another process delivers this outbox now
        except Exception as error:  # whatever is wrong with MLflow must not stop the work
            self._tell(describe(error))

    def _tell(self, trouble: str) -> None:
        if not self._troubled:
            kept = f"the run goes on, kept in {self.outbox.directory} until MLflow is back"
            warn(f"{trouble}; {kept}", self.tracking)
        self._troubled = True


def open_tracker(config: Config, run: Run, key: str, rule: str, reopen: bool = False) -> Tracker:
    """The tracker of a run of the plan; `key` is of its settings and inputs, `rule` the work that is done.

    What adds to a run says by which code under its own name, so that the run's tags stay those of its training.
    """
    commit, dirty = code_version()
    tags = {"rule": rule, "commit": commit, "dirty": dirty, "config_hash": key}
    directory = outbox_directory(run.directory, key)
    if reopen and _outboxes(directory):
        tags = {f"{rule}.commit": commit, f"{rule}.dirty": dirty}
    return Tracker.open(config.tracking, run, directory, tags=tags, reopen=reopen)


def run_id(directory: Path, tracking: TrackingConfig | None = None) -> str | None:
    """MLflow's id of the last run whose outbox lies in the folder that `Tracker.open` was given.

    tracking: names the store; without it the id is that of the store that had the run first, so that it stays. None
    where there is no outbox, or it has not been delivered.
    """
    note = delivery_note(directory)
    return delivery.run_id(note.parent, tracking) if note else None


def delivery_note(directory: Path) -> Path | None:
    """The file that keeps the id of the last run whose outbox lies in the folder; it may not be there yet.

    It is all that `run_id` needs: a packed result has it without the outbox.
    """
    numbered = [path for path in directory.glob("*/") if path.name.isdecimal()]
    return max(numbered, key=lambda path: int(path.name)) / delivery.FILE if numbered else None


def _outboxes(directory: Path) -> list[Outbox]:
    """A run's outboxes, from the first to the last."""
    outboxes = [Outbox(path.parent) for path in directory.glob(f"*/{FILE}")]
    return sorted((box for box in outboxes if box.opening), key=lambda box: box.opening["time"])


def deliver_pending(tracking: TrackingConfig, root: Path | None = None) -> int:
    """Delivers what is pending in all outboxes under `root` (results/tracking), for PATIENCE_FOR_ALL seconds at most.

    Runs that are being made meanwhile are left to themselves where they are delivering. Stops at
    the first outbox that cannot be delivered, with one line that says so, and what is pending.

    Returns the number of outboxes with something still pending.
    """
    outboxes = [Outbox(path) for path in find_outboxes(root or OUTBOXES)]
    waiting = _pending([box for box in outboxes if box.opening], tracking)
    if not waiting:
        return 0
    given_up = Event()

    def deliver_all() -> None:
        for outbox in waiting:
            if given_up.is_set():
                return  # nothing new is begun beside the work that follows
            with suppress(Timeout):  # another process delivers this one now
                delivery.deliver(outbox, tracking)

    trouble = attempt(deliver_all)
    given_up.set()
    kept = _pending(waiting, tracking)
    if trouble and kept:
        of = f"{len(kept)} of {len(outboxes)} runs still to be delivered, {kept[0].opening['name']} for one"
        then = "the next `dvfl tables` or `dvfl ui` goes on; until then a run may lack its id in the tables"
        warn(f"{trouble}; {of}; {then}", tracking)
    return len(kept)


def _pending(outboxes: list[Outbox], tracking: TrackingConfig) -> list[Outbox]:
    return [box for box in outboxes if delivery.pending(box, tracking)]
