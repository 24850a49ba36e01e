"""A study that searches: Optuna proposes, workers side by side answer, and none of the trials is lost or counted twice.

A trial's place in the study is its slot, from 0. One whose worker ended goes on as a new trial in the same slot, with
the same values, so a slot counts once however often it was begun. Workers take trials one at a time, under a lock.
"""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from dvfl import paths
from dvfl.ablate.storage import RETRIES, database_errors, journal_path, open_journal, open_storage
from dvfl.config import Choices, Config, ConfigError, FloatRange, IntRange, TuneConfig, flatten, without_unread
from dvfl.errors import UserError
from dvfl.files import atomic, read_json, write_json
from dvfl.randomness import derive_seed
from dvfl.train.lease import lease
from dvfl.train.loop import Diverged

# The values of a trial's objectives at a point; raises optuna.TrialPruned for one that is not worth finishing.
Answer = Callable[[optuna.Trial, dict[str, Any]], list[float]]
DIRECTIONS = {"top1": "maximize", "latency_ms": "minimize", "gmacs": "minimize"}
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class AnotherStudy(UserError):
    """The storage has a study of this name that was begun otherwise; the message says what differs."""


def work(
    config: Config,
    dataset: str,
    study: str,
    worker: int,
    answer: Answer,
    made_from: Mapping[str, Any] | None = None,
    wait: bool = False,
) -> int:
    """Answers trials until the study has as many as it is to have; how many this worker answered.

    `made_from`: plain values that all trials have in common. Raises StorageError, AnotherStudy where the study was
    begun with another space or from something else, and LeaseTaken where this worker is already at work and `wait` is
    off. What `answer` raises ends the worker and leaves its trial to be gone on with, but for what would only happen
    again: Diverged and ConfigError fail the trial.
    """
    answered = 0
    with lease(paths.worker_path(dataset, study, worker).with_suffix(""), wait), database_errors(config):
        search = open_search(config, dataset, study, made_from or {})
        _leave_unfinished(search, config, dataset, study, worker)
        while (taken := _take(search, config, dataset, study, worker)) is not None:
            # One that was given to another, while this machine stood still, is left to that one.
            with _heartbeat(search, config, taken), suppress(UpdateFinishedTrialError):
                _answer(search, taken, _point(taken, config.ablation.tune[study]), answer)
                answered += 1
    return answered


def open_search(config: Config, dataset: str, study: str, made_from: Mapping[str, Any]) -> optuna.Study:
    """The study, begun if it is not. Raises AnotherStudy."""
    tune = config.ablation.tune[study]
    pruner = MedianPruner(tune.startup_trials, tune.warmup_epochs) if tune.prunes else NopPruner()
    space = {key: range.model_dump(mode="json") for key, range in tune.space.items()}
    mark = paths.study_directory(dataset, study) / "begun.json"
    # Tables are made by one process; connecting to those that are there takes a while, and need not hold up others.
    storage = open_storage(config, dataset, study) if mark.exists() else None
    with _lock(dataset, study):
        search = optuna.create_study(
            storage=storage or open_storage(config, dataset, study),
            study_name=f"{dataset}/{study}",
            directions=[DIRECTIONS[objective] for objective in tune.objectives],
            pruner=pruner,
            load_if_exists=True,
        )
        begun = search.user_attrs.get("begun")
        if begun is None and not search.get_trials(deepcopy=False):
            begun = {"id": uuid.uuid4().hex, "space": space, "objectives": tune.objectives, **made_from}
            write_json(mark, {"id": begun["id"]})
            search.set_user_attr("begun", begun)
        here = read_json(mark)["id"] if mark.exists() else None
    remedy = f"give the study another name, or forget its trials with `dvfl tune {dataset} {study} --forget`"
    if begun is None or begun["id"] != here:
        raise AnotherStudy(
            f"ablation.tune.{study}: the storage has trials of a study {dataset}/{study} that was not begun in this "
            f"folder; {remedy}"
        )
    for what, now in (("search space", {"space": space, "objectives": tune.objectives}), ("values", made_from)):
        then = {key: begun.get(key) for key in now}
        if changed := _changes(then, now):
            raise AnotherStudy(
                f"ablation.tune.{study}: was begun with another {what} ({'; '.join(changed)}); give back the former, "
                f"{remedy}"
            )
    return search


def forget(config: Config, dataset: str, study: str) -> None:
    """Deletes the study and its trials from the storage; what they trained stays."""
    with database_errors(config), _lock(dataset, study), suppress(KeyError):
        optuna.delete_study(study_name=f"{dataset}/{study}", storage=open_storage(config, dataset, study))


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    then, now = flatten(then), flatten(now)
    return [
        f"{key}: {then.get(key, 'nothing')} then, {now.get(key, 'nothing')} now"
        for key in {**then, **now}
        if then.get(key) != now.get(key)
    ]


def _lock(dataset: str, study: str) -> FileLock:
    """Held while trials are taken: which is the next is then the same for all."""
    folder = paths.study_directory(dataset, study)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "tune.lock")


# ------------------------------------------------------------------------------------------------------------ one trial


def by_slot(search: optuna.Study) -> dict[int, FrozenTrial]:
    """The last trial of each slot."""
    return _last_of_slots(search.get_trials(deepcopy=False))


def _last_of_slots(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    return {trial.user_attrs["slot"]: trial for trial in sorted(trials, key=lambda trial: trial.number)}


def _leave_unfinished(search: optuna.Study, config: Config, dataset: str, study: str, worker: int) -> None:
    """Ends the trials that an earlier process of this worker left running: whoever holds its lease runs none."""
    with _lock(dataset, study):
        for trial in search.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if trial.user_attrs.get("worker") == worker:
                search.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _take(search: optuna.Study, config: Config, dataset: str, study: str, worker: int) -> optuna.Trial | None:
    """A trial that was left unfinished, else a new one; None where the study has all."""
    tune = config.ablation.tune[study]
    with _lock(dataset, study), warnings.catch_warnings():
        # We give the sign of life ourselves, since `optimize` would take more trials than there are to be.
        warnings.simplefilter("ignore")
        optuna.storages.fail_stale_trials(search)  # where there are heartbeats: of workers that gave none
        _queue_unfinished(search)
        waiting = search.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if not waiting:
            slot = len(by_slot(search))
            if slot >= tune.trials:
                return None
            search.enqueue_trial({}, user_attrs={"slot": slot})
            waiting = search.get_trials(deepcopy=False, states=[TrialState.WAITING])
        search._storage.set_trial_user_attr(waiting[0]._trial_id, "worker", worker)
        # Proposals are a function of the slot and of what is known, not of which worker asks, or how often it began.
        search.sampler = TPESampler(
            n_startup_trials=tune.startup_trials,
            seed=derive_seed(tune.sampler_seed, "proposal", study, waiting[0].user_attrs["slot"]) % 2**32,
            constant_liar=tune.workers > 1,
        )
        trial = search.ask()
        _beat(search, config, trial)
        _point(trial, tune)
    return trial


def _queue_unfinished(search: optuna.Study) -> None:
    """Puts back into the queue what ended without an answer; given up where it may be what ends its workers."""
    trials = search.get_trials(deepcopy=False)
    for slot, last in _last_of_slots(trials).items():
        if last.state == TrialState.FAIL and "error" not in last.user_attrs:
            ended = [t for t in trials if t.user_attrs["slot"] == slot and t.user_attrs.get("stopped") != t.number]
            if len(ended) <= RETRIES:
                RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(search, last)


def _point(trial: optuna.Trial, tune: TuneConfig) -> dict[str, Any]:
    """The trial's values by key, drawn now where they are not yet."""
    return {key: _suggest(trial, key, range) for key, range in tune.space.items()}


def _suggest(trial: optuna.Trial, key: str, range: FloatRange | IntRange | Choices) -> Any:
    if isinstance(range, Choices):
        return trial.suggest_categorical(key, range.choices)
    suggest = trial.suggest_float if isinstance(range, FloatRange) else trial.suggest_int
    return suggest(key, range.low, range.high, step=range.step, log=range.log)


def _answer(search: optuna.Study, trial: optuna.Trial, point: dict[str, Any], answer: Answer) -> None:
    """Answers and tells. Raises UpdateFinishedTrialError where the trial has ended meanwhile."""
    values, state = None, TrialState.COMPLETE
    try:
        values = answer(trial, point)
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except (Diverged, ConfigError) as error:
        trial.set_user_attr("error", str(error))
        state = TrialState.FAIL
    except BaseException:
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr("stopped", trial.number)
        search.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise
    search.tell(trial, values, state=state, skip_if_finished=True)


@contextmanager
def _heartbeat(search: optuna.Study, config: Config, trial: optuna.Trial) -> Iterator[None]:
    """Signs of life in the block, where the storage takes them."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(config.ablation.heartbeat):
            with suppress(OptunaError, OSError):  # a database that is started again hears the next one
                _beat(search, config, trial)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(search: optuna.Study, config: Config, trial: optuna.Trial) -> None:
    if config.ablation.storage is not None:
        search._storage.record_heartbeat(trial._trial_id)


# ------------------------------------------------------------------------------------------------------- what it found


def finish(config: Config, dataset: str, study: str) -> dict[str, Any]:
    """Once all trials have ended: a copy of them beside the results, trials.csv, and choice.json, which is returned."""
    path = journal_path(dataset, study)
    if config.ablation.storage is not None:
        with database_errors(config):
            path.unlink(missing_ok=True)
            name = f"{dataset}/{study}"
            storage = open_storage(config, dataset, study)
            optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=open_journal(dataset, study))
    trials = by_slot(load_finished(dataset, study))
    if left := [slot for slot, trial in trials.items() if trial.state not in STATES]:
        raise UserError(
            f"ablation.tune.{study}: trials {', '.join(map(str, left))} have not ended; run the workers again that "
            f"were killed"
        )
    choice = choose_trial(config, dataset, study)
    with atomic(paths.trials_path(dataset, study)) as partial:
        _table(config, study, trials, choice).to_csv(partial, index=False, lineterminator="\n")
    write_json(paths.study_directory(dataset, study) / "choice.json", choice)
    return choice


def load_finished(dataset: str, study: str) -> optuna.Study:
    """The study as the results hold it, whatever storage it was made with."""
    return optuna.load_study(study_name=f"{dataset}/{study}", storage=open_journal(dataset, study))


def choose_trial(config: Config, dataset: str, study: str) -> dict[str, Any]:
    """The values with the best top-1 on validation; with two objectives, the trials that no other beats in both.

    Ties go to the earlier trial. Raises UserError where no trial was finished.
    """
    tune = config.ablation.tune[study]
    trials = by_slot(load_finished(dataset, study))
    complete = {slot: trial for slot, trial in trials.items() if trial.state == TrialState.COMPLETE}
    if not complete:
        raise UserError(f"ablation.tune.{study}: none of its {len(trials)} trials was finished, so it chooses nothing")
    found = {
        "study": study,
        "metric": tune.objectives[0],
        "subset": "validation",
        "seeds": [tune.seed],
        "trials": {name: sum(trial.state == state for trial in trials.values()) for state, name in STATES.items()},
    }
    if len(tune.objectives) > 1:
        return found | {"values": {}, "best": [_described(slot, complete[slot], tune) for slot in _front(complete)]}
    best = max(complete, key=lambda slot: (complete[slot].values[0], -slot))
    return found | _described(best, complete[best], tune)


def _described(slot: int, trial: FrozenTrial, tune: TuneConfig) -> dict[str, Any]:
    values = dict(zip(tune.objectives, trial.values, strict=True))
    name = trial.user_attrs.get("name", "")
    return {"number": slot, "trial": name, "values": without_unread(trial.params), "value": values["top1"], **values}


def _front(trials: Mapping[int, FrozenTrial]) -> list[int]:
    """Slots of the trials that no other beats: more accurate and no dearer, or as accurate and cheaper."""

    def beats(one: FrozenTrial, other: FrozenTrial) -> bool:
        (top1, cost), (top1_there, cost_there) = one.values, other.values
        return top1 >= top1_there and cost <= cost_there and one.values != other.values

    return [slot for slot, trial in trials.items() if not any(beats(other, trial) for other in trials.values())]


def _table(config: Config, study: str, trials: Mapping[int, FrozenTrial], choice: Mapping[str, Any]) -> pd.DataFrame:
    """One row a trial: number, state, chosen, how often it was begun, objectives, last look at validation, values."""
    tune = config.ablation.tune[study]
    chosen = {each["number"] for each in choice.get("best", [choice])}
    rows = []
    for slot, trial in sorted(trials.items()):
        seen = max(trial.intermediate_values, default=None)
        rows.append(
            {
                "number": slot,
                "state": STATES[trial.state],
                "chosen": slot in chosen,
                "begun": 1 + len(trial.system_attrs.get("retry_history", [])),
                **dict.fromkeys(tune.objectives),
                **(dict(zip(tune.objectives, trial.values, strict=True)) if STATES[trial.state] == "complete" else {}),
                "last_epoch": seen,
                "last_top1": None if seen is None else trial.intermediate_values[seen],
                "trial": trial.user_attrs.get("name", ""),
                "run": trial.user_attrs.get("run", ""),
                "mlflow_run_id": trial.user_attrs.get("mlflow_run_id") or "",
                "error": trial.user_attrs.get("error", ""),
                **{key: trial.params.get(key) for key in tune.space},
            }
        )
    return pd.DataFrame(rows).astype({"last_epoch": "Int64"})
