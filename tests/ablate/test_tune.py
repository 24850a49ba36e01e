"""Searches: every trial is answered once, however many workers there are, and whichever of them are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import optuna
import pandas as pd
import pytest
from docutils.core import publish_parts
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from dvfl import paths, plan
from dvfl.ablate import tune
from dvfl.ablate.job import made_from
from dvfl.ablate.storage import StorageError, journal_path, open_journal, open_storage
from dvfl.ablate.tune import AnotherStudy, by_slot, finish, forget, open_search, work
from dvfl.config import ConfigError, check_config, merge
from dvfl.errors import Stopped, UserError
from dvfl.files import read_json
from dvfl.report import style
from dvfl.report.figures.tuning import draw
from dvfl.run import Run
from dvfl.steps import PICTURES
from dvfl.train.loop import Diverged
from tests.ablate import postgres
from tests.ablate.mine import MINE

FORK = multiprocessing.get_context("fork")
EPOCHS = 4
RAW: dict[str, Any] = {
    **MINE,
    "ablation": {
        "heartbeat": 3,
        "tune": {
            "search": {
                "arm": "distilled",
                "trials": 12,
                "startup_trials": 4,
                "warmup_epochs": 1,
                "space": {
                    "distill.alpha": {"type": "float", "low": 0.1, "high": 0.9},
                    "student.train.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
                    "distill.divergence": {"type": "categorical", "choices": ["forward_kl", "reverse_kl"]},
                },
            }
        },
    },
}

NEEDS_POSTGRES = [
    pytest.mark.postgres,
    pytest.mark.skipif(postgres.why_not() is not None, reason=str(postgres.why_not())),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.postgres() as url:
        yield url


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new database."""
    import psycopg

    name = f"test_{abs(hash(request.node.name)) % 10**9}"
    with psycopg.connect(server, password=postgres.PASSWORD, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    return server.removesuffix("postgres") + name


@pytest.fixture(params=["journal", pytest.param("postgres", marks=NEEDS_POSTGRES)])
def storage(request: pytest.FixtureRequest) -> str | None:
    """What `ablation.storage` names."""
    return None if request.param == "journal" else request.getfixturevalue("database")


def raw(storage: str | None = None, **search: Any) -> dict[str, Any]:
    return merge(RAW, {"ablation": {"storage": storage, "tune": {"search": search}}})


def good(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
    trial.set_user_attr("name", "it")
    return [0.9 - (point["distill.alpha"] - 0.6) ** 2]


def run_worker(values: dict[str, Any], worker: int, seconds: float, hang_at: int) -> None:
    """A worker whose trials cost `seconds` an epoch; at slot `hang_at` it stops for good, so that it can be killed."""

    def answer(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        slot = trial.user_attrs["slot"]
        with Path("begun.jsonl").open("a") as lines:
            lines.write(json.dumps({"slot": slot, "worker": worker, "number": trial.number, **point}) + "\n")
        top1 = good(trial, point)[0]
        told = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch in range(1, EPOCHS + 1):
            time.sleep(seconds)
            if epoch == 2 and slot == hang_at:
                Path(f"hangs.{worker}").touch()
                time.sleep(600)
            if epoch not in told:
                trial.report(top1 * epoch / EPOCHS, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return [top1]

    answered = work(check_config(values), "mine", "search", worker, answer)
    Path(f"answered.{worker}").write_text(str(answered))


def started(values: dict[str, Any], worker: int, seconds: float = 0, hang_at: int = -1) -> Process:
    """A worker in a process of its own; forked, since importing everything anew would take longer than its trials."""
    process = FORK.Process(target=run_worker, args=(values, worker, seconds, hang_at))
    process.start()
    return process


def ended(process: Process, worker: int) -> int:
    """How many trials it answered."""
    process.join(600)  # seconds on a machine at rest, minutes on one that is busy
    assert process.exitcode == 0
    return int(Path(f"answered.{worker}").read_text())


def begun() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("begun.jsonl").read_text().splitlines()]


def trials_of(values: dict[str, Any]) -> list[optuna.trial.FrozenTrial]:
    config = check_config(values)
    name = "mine/search"
    return optuna.load_study(study_name=name, storage=open_storage(config, "mine", "search")).trials


# --------------------------------------------------------------------------------------------- many at once, and killed


@pytest.mark.parametrize(("kind", "workers"), [("journal", 8), pytest.param("postgres", 16, marks=NEEDS_POSTGRES)])
def test_many_workers_lose_nothing_and_do_nothing_twice(kind, workers, request):
    values = raw(
        None if kind == "journal" else request.getfixturevalue("database"), trials=32, workers=workers, prune=False
    )
    processes = [started(values, worker, 0.01) for worker in range(workers)]
    answered = [ended(process, worker) for worker, process in enumerate(processes)]
    assert sum(answered) == 32
    trials = trials_of(values)
    assert sorted(trial.user_attrs["slot"] for trial in trials) == list(range(32))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert Counter(line["slot"] for line in begun()) == dict.fromkeys(range(32), 1)
    for trial in trials:
        assert trial.params["distill.alpha"] == next(
            line["distill.alpha"] for line in begun() if line["slot"] == trial.user_attrs["slot"]
        )
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.value == pytest.approx(0.9 - (trial.params["distill.alpha"] - 0.6) ** 2)


def killed_at(values: dict[str, Any], worker: int, slot: int) -> None:
    """A worker that is killed in the middle of a trial."""
    process = started(values, worker, 0, slot)
    hangs(process, worker)
    process.kill()
    process.join()


def hangs(process: Process, worker: int) -> None:
    """Waits until it does."""
    deadline = time.monotonic() + 120
    while not Path(f"hangs.{worker}").exists():
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.05)


def test_a_killed_workers_trial_is_gone_on_with_by_its_rerun_and_counts_once(storage):
    values = raw(storage, prune=False, trials=6)
    killed_at(values, worker=3, slot=2)
    assert [trial.state.name for trial in trials_of(values)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert ended(started(values, 3), 3) == 4
    trials = trials_of(values)
    assert len(trials) == 7 and trials[2].state.name == "FAIL"
    last = {trial.user_attrs["slot"]: trial for trial in trials}
    assert sorted(last) == list(range(6)) and all(trial.state.name == "COMPLETE" for trial in last.values())
    assert last[2].number == 3, "it is taken up again before anything new"
    assert last[2].params == trials[2].params
    assert last[2].intermediate_values.keys() == {1, 2, 3, 4}
    config = check_config(values)
    assert finish(config, "mine", "search")["trials"] == {"complete": 6, "pruned": 0, "failed": 0}
    table = pd.read_csv(paths.trials_path("mine", "search"))
    assert table["number"].tolist() == list(range(6)) and table["begun"].tolist() == [1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("storage", [pytest.param("postgres", marks=NEEDS_POSTGRES)], indirect=True)
def test_on_postgres_another_worker_notices_that_one_was_killed(storage):
    values = raw(storage, prune=False, trials=8)
    killed_at(values, worker=0, slot=1)
    assert ended(started(values, 1, 0.5), 1) == 7, "the six that were left, and the one that gave no sign of life"
    last = {trial.user_attrs["slot"]: trial for trial in trials_of(values)}
    assert sorted(last) == list(range(8)) and {trial.state.name for trial in last.values()} == {"COMPLETE"}
    assert last[1].user_attrs["worker"] == 1


def test_who_is_killed_while_it_writes_the_journal_does_not_stop_the_others(monkeypatch):
    """The journal's lock stays behind."""
    monkeypatch.setattr("dvfl.ablate.storage.LOCK_SECONDS", 3)
    writing = FORK.Process(target=lambda: open_journal("mine", "search")._backend._lock.acquire())
    writing.start()
    writing.join()
    assert journal_path("mine", "search").with_name("optuna.journal.lock").is_file()
    process = started(raw(trials=2), 0)
    process.join(120)
    process.kill()
    process.join()
    assert Path("answered.0").read_text() == "2"


def test_a_killed_search_ends_as_one_that_was_not(tmp_path, monkeypatch):
    found = []
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        values = raw(trials=8)
        if name == "killed":
            killed_at(values, worker=0, slot=5)
        work(check_config(values), "mine", "search", 0, good)
        config = check_config(values)
        found.append([t.params for _, t in sorted(by_slot(open_search(config, "mine", "search", {})).items())])
    assert found[0] == found[1]


def test_who_kills_its_workers_is_given_up(monkeypatch):
    monkeypatch.setattr(tune, "RETRIES", 2)
    values = raw(trials=1)
    for _ in range(3):
        Path("hangs.0").unlink(missing_ok=True)
        killed_at(values, worker=0, slot=0)
    assert work(check_config(values), "mine", "search", 0, good) == 0
    assert [trial.state.name for trial in trials_of(values)] == ["FAIL"] * 3


def test_a_worker_that_is_asked_to_end_gives_its_trial_back(storage):
    config = check_config(raw(storage, trials=3))

    def stopped(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        raise Stopped("asked to end")

    for _ in range(2):
        with pytest.raises(Stopped):
            work(config, "mine", "search", 0, stopped)
    assert work(config, "mine", "search", 1, good) == 3
    assert {trial.user_attrs["slot"] for trial in trials_of(raw(storage))} == {0, 1, 2}


def test_who_was_taken_for_dead_leaves_its_trial_to_the_other_and_goes_on(storage):
    """A machine that stood still for a while, and whose trial was given to another worker meanwhile."""
    config = check_config(raw(storage, trials=3))

    def stood_still(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        if trial.number == 0:
            trial.study.tell(trial.number, state=TrialState.FAIL)
            assert work(config, "mine", "search", 1, good) == 3
        trial.report(0.5, 1)
        return good(trial, point)

    assert work(config, "mine", "search", 0, stood_still) == 0
    last = by_slot(open_search(config, "mine", "search", {}))
    assert {slot: (trial.state.name, trial.user_attrs["worker"]) for slot, trial in last.items()} == dict.fromkeys(
        range(3), ("COMPLETE", 1)
    )


def test_what_would_only_fail_again_is_failed_and_counts():
    config = check_config(raw(trials=4))

    def diverges(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        if trial.user_attrs["slot"] == 1:
            raise Diverged("the gradient is not finite")
        return good(trial, point)

    assert work(config, "mine", "search", 0, diverges) == 4
    choice = finish(config, "mine", "search")
    assert choice["trials"] == {"complete": 3, "pruned": 0, "failed": 1}
    table = pd.read_csv(paths.trials_path("mine", "search"))
    assert table["state"].tolist() == ["complete", "failed", "complete", "complete"]
    assert table.loc[1, "error"] == "the gradient is not finite"


# ---------------------------------------------------------------------------------------------------- proposals, choice


def test_proposals_depend_on_the_seed_alone():
    def proposed(folder: str, **search: Any) -> list[dict[str, Any]]:
        Path(folder).mkdir()
        os.chdir(folder)
        work(check_config(raw(**search)), "mine", "search", 0, good)
        os.chdir("..")
        return [trial.params for trial in _journal(folder)]

    def _journal(folder: str) -> list[optuna.trial.FrozenTrial]:
        os.chdir(folder)
        trials = trials_of(raw())
        os.chdir("..")
        return trials

    one, other, third = proposed("a"), proposed("b"), proposed("c", sampler_seed=1)
    assert one == other != third
    assert len({trial["distill.alpha"] for trial in one}) == 12


def test_the_best_validation_top1_is_chosen_and_more_trials_go_on():
    assert work(check_config(raw(trials=5)), "mine", "search", 0, good) == 5
    config = check_config(raw(trials=9))
    assert work(config, "mine", "search", 0, good) == 4
    choice = finish(config, "mine", "search")
    best = max(trials_of(raw()), key=lambda trial: trial.value)
    assert choice["value"] == best.value and choice["values"] == best.params
    assert (choice["subset"], choice["metric"]) == ("validation", "top1")
    assert read_json(paths.study_directory("mine", "search") / "choice.json")["number"] == best.number
    table = pd.read_csv(paths.trials_path("mine", "search"))
    assert table.loc[table["chosen"], "number"].tolist() == [best.number]


def test_hopeless_trials_are_pruned():
    config = check_config(raw(trials=12))

    def answer(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        top1 = 0.1 if trial.user_attrs["slot"] == 8 else good(trial, point)[0]
        for epoch in range(1, 4):
            trial.report(top1, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return [top1]

    work(config, "mine", "search", 0, answer)
    choice = finish(config, "mine", "search")
    table = pd.read_csv(paths.trials_path("mine", "search"))
    pruned = table[table["state"] == "pruned"]
    assert 8 in pruned["number"].tolist() and len(pruned) == choice["trials"]["pruned"]
    assert pruned["top1"].isna().all() and (pruned["last_epoch"] == 1).all()


def test_two_objectives_choose_a_front_and_prune_nothing():
    config = check_config(raw(trials=10, objectives=["top1", "gmacs"]))
    assert not config.ablation.tune["search"].prunes

    def answer(trial: optuna.Trial, point: dict[str, Any]) -> list[float]:
        return [point["distill.alpha"], point["distill.alpha"] ** 2 + (trial.number == 3)]

    work(config, "mine", "search", 0, answer)
    choice = finish(config, "mine", "search")
    assert [each["number"] for each in choice["best"]] == [0, 1, 2, 4, 5, 6, 7, 8, 9] or 3 in [
        each["number"] for each in choice["best"]
    ]
    table = pd.read_csv(paths.trials_path("mine", "search"))
    for row in table.itertuples():
        beaten = ((table["top1"] >= row.top1) & (table["gmacs"] < row.gmacs)).any()
        assert row.chosen == (not beaten)
    with pytest.raises(ConfigError, match="chosen_by: study 'search' has two objectives"):
        check_config(raw(objectives=["top1", "gmacs"]) | {"chosen_by": ["search"]})


def test_a_search_whose_trials_have_not_ended_is_not_finished():
    values = raw(trials=3)
    killed_at(values, worker=0, slot=1)
    with pytest.raises(UserError, match=r"trials 1 have not ended; run the workers again"):
        finish(check_config(values), "mine", "search")


# ------------------------------------------------------------------------------------------------------------ bad input


def test_another_space_is_refused(storage):
    work(check_config(raw(storage, trials=2)), "mine", "search", 0, good, {"settings": {"epochs": 3}})
    changed = {"distill.alpha": {"type": "float", "low": 0.2, "high": 0.9}}
    other = check_config(raw(storage, trials=2, space=changed))
    with pytest.raises(AnotherStudy, match=r"another search space \(space\.distill\.alpha\.low: 0\.1 then, 0\.2 now\)"):
        work(other, "mine", "search", 0, good, {"settings": {"epochs": 3}})
    with pytest.raises(AnotherStudy, match=r"another values|settings\.epochs: 3 then, 4 now"):
        work(check_config(raw(storage, trials=2)), "mine", "search", 0, good, {"settings": {"epochs": 4}})
    forget(other, "mine", "search")
    assert work(other, "mine", "search", 0, good, {"settings": {"epochs": 3}}) == 2


def test_the_same_name_in_another_folder_is_refused(storage, tmp_path, monkeypatch):
    if storage is None:
        pytest.skip("a journal lies in the folder itself")
    work(check_config(raw(storage, trials=1)), "mine", "search", 0, good)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(AnotherStudy, match="was not begun in this folder"):
        work(check_config(raw(storage, trials=1)), "mine", "search", 0, good)


def test_the_same_worker_twice_is_refused():
    values = raw(trials=1)
    process = started(values, 0, 0, 0)
    hangs(process, 0)
    with pytest.raises(UserError, match="is already working on this"):
        work(check_config(values), "mine", "search", 0, good)
    process.kill()
    process.join()


@pytest.mark.parametrize("what", ["wrong password", "no password", "no database", "nobody there"])
@pytest.mark.parametrize("storage", [pytest.param("postgres", marks=NEEDS_POSTGRES)], indirect=True)
def test_a_database_that_refuses_says_so_and_gives_nothing_away(storage, what, monkeypatch):
    url = storage
    if what == "wrong password":
        monkeypatch.setenv("PGPASSWORD", "hunter2")
    elif what == "no password":
        monkeypatch.delenv("PGPASSWORD")
        monkeypatch.setenv("PGPASSFILE", "/nowhere")
    elif what == "no database":
        url = storage.rpartition("/")[0] + "/none_such"
    else:
        url = "postgresql://dvfl@127.0.0.1:1/dvfl"
    with pytest.raises(StorageError) as caught:
        work(check_config(raw(url)), "mine", "search", 0, good)
    said = str(caught.value)
    assert said.startswith("ablation.storage: postgresql://***@127.0.0.1") and "\n" not in said
    expected = {"wrong password": "set PGPASSWORD", "no password": "set PGPASSWORD", "no database": "none_such"}
    assert expected.get(what, "see that it runs") in said
    assert "hunter2" not in said and postgres.PASSWORD not in said
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("storage", [pytest.param("postgres", marks=NEEDS_POSTGRES)], indirect=True)
def test_a_database_that_refuses_ends_the_command_in_one_line(storage, project, command, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    space = {"student.drop_path": {"type": "float", "low": 0, "high": 0.1}}
    values = {"ablation": {"storage": storage, "tune": {"search": {"arm": "student", "space": space}}}}
    code, out, err = command("tune", "colours", "search", "--config", project.config_file(values))
    assert (code, out) == (1, "") and "hunter2" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("dvfl:")]
    assert "refuses" in line and "set PGPASSWORD" in line
    assert not list(Path("results").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db/optuna",
        "postgresql://me@db/optuna?password=hunter2",
        "postgresql://me:1/hunter2@db/optuna",
    ],
)
def test_a_password_in_the_config_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match=r"ablation\.storage: holds a password") as caught:
        check_config(raw(url))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("storage", [pytest.param("postgres", marks=NEEDS_POSTGRES)], indirect=True)
def test_the_password_is_in_nothing_that_is_written(storage, project, command):
    """Not in run.json, trials.csv, the journal's copy, MLflow's store, or what is said."""
    search = {"arm": "student", "trials": 1, "space": {"student.drop_path": {"type": "float", "low": 0, "high": 0.1}}}
    values = {"ablation": {"storage": storage, "tune": {"search": search}}}
    file = project.config_file(values)
    said = [command(step, "colours", "search", "--config", file) for step in ("tune", "choose")]
    assert [code for code, *_ in said] == [0, 0]
    store = Path(project.settings["tracking"]["uri"].removeprefix("sqlite:///"))
    written = [path for path in (*project.root.rglob("*"), *store.parent.rglob("*")) if path.is_file()]
    assert {"run.json", "trials.csv", "optuna.journal", store.name} <= {path.name for path in written}
    secret = postgres.PASSWORD.encode()
    assert [path for path in written if secret in path.read_bytes()] == []
    assert postgres.PASSWORD not in str(said)


ALPHA = {"type": "float", "low": 0.1, "high": 0.9}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"distill.alpa": ALPHA}, r"space: distill\.alpa: there is no such key; did you mean 'alpha'"),
        ({"distill.alpha": ALPHA | {"high": 1.5}}, r"distill\.alpha: .* less than or equal to 1 \(given: 1\.5\)"),
        ({"distill.alpha": ALPHA | {"low": 0.9}}, r"space\.distill\.alpha: goes from 0\.9 to 0\.9"),
        ({"distill.temperature": {"low": 1, "high": 9}}, r"temperature\.type: is missing; give float, int or"),
        ({"distill.alpha": ALPHA | {"low": 0.0, "log": True}}, r"begins at 0, which has no logarithm"),
        ({"distill.alpha": ALPHA | {"log": True, "step": 0.1}}, r"has both `log` and `step`"),
        ({"student.train.epochs": {"type": "float", "low": 2, "high": 9}}, r"epochs: .* valid integer"),
        ({"student.train.lrr": ALPHA}, r"lrr: there is no such key; did you mean 'lr'"),
        ({"distill.divergence": {"type": "categorical", "choices": ["forward_kl", "kl"]}}, r"divergence: .*'kl'"),
        ({"teacher.train.lr": ALPHA}, r"teacher\.train\.lr: does not change how arm distilled is trained"),
        ({"evaluate.crops": {"type": "categorical", "choices": [1, 3]}}, r"evaluate\.crops: does not change how arm"),
    ],
)
def test_a_wrong_space_is_named_before_the_first_trial(space, said):
    only = {key: None for key in RAW["ablation"]["tune"]["search"]["space"]} | space
    with pytest.raises(ConfigError, match=said):
        check_config(raw(space=only))


# ------------------------------------------------------------------------------------------------------ a real search

SEARCHES: dict[str, Any] = {
    "student": {"train": {"epochs": 3}},
    "profile": {"repeats_small": 3},
    "ablation": {
        "run": ["search", "front"],
        "tune": {
            "search": {
                "arm": "distilled",
                "trials": 4,
                "startup_trials": 1,
                "warmup_epochs": 1,
                "space": {
                    "distill.alpha": {"type": "float", "low": 0.0, "high": 0.9},
                    "distill.temperature": {"type": "float", "low": 1, "high": 10, "log": True},
                    "input.frames": {"type": "int", "low": 2, "high": 4, "step": 2},
                    "student.drop_path": {"type": "float", "low": 0.0, "high": 0.1},
                },
            },
            "front": {
                "arm": "student",
                "trials": 2,
                "objectives": ["top1", "gmacs"],
                "space": {"input.frames": {"type": "categorical", "choices": [2, 4]}},
            },
        },
    },
}


def test_trials_are_trained_on_train_and_judged_on_validation_to_the_tables_and_pictures(taught, command, monkeypatch):
    from dvfl.ablate import job
    from dvfl.report.ablation import build_ablation
    from dvfl.report.rows import setting_parts
    from dvfl.steps import tune_figures, tuning

    config, file = taught.config(SEARCHES), taught.config_file(SEARCHES)
    teacher = Run("colours", "split1", "as_described", "teacher", 0, "selection")
    assert tuning(config, "colours", "search")[-1] == teacher.directory / "weights.safetensors"
    assert command("train", teacher.directory, "--config", file)[0] == 0

    # The second trial of the search is killed after its first epoch, and goes on from there.
    trained: list[list[int]] = []
    watch = job.Watch.__call__

    def watched(self: Any, epoch: int, top1: float) -> bool:
        if len(trained) < self.trial.number + 1:
            trained.append([])
        trained[self.trial.number].append(epoch)
        if (self.trial.number, epoch) == (1, 1):
            raise KeyboardInterrupt
        return watch(self, epoch, top1)

    monkeypatch.setattr(job.Watch, "__call__", watched)
    assert command("tune", "colours", "search", "--config", file)[0] == 130
    code, _, err = command("tune", "colours", "search", "--config", file, "--out", "done.json")
    assert code == 0 and "worker 0 answered 3 trials, and none is left" in err
    assert read_json("done.json")["answered"] == 3
    assert trained[1] == [1] and trained[2][0] == 2, "from its checkpoint"
    for study in ("search", "front"):
        assert command("tune", "colours", study, "--config", file)[0] == 0
        assert command("choose", "colours", study, "--config", file)[0] == 0
    table = pd.read_csv(paths.trials_path("colours", "search"))
    assert len(table) == 4 and table["begun"].tolist() == [1, 2, 1, 1] and table["chosen"].sum() == 1
    for row in table[table["state"] == "complete"].itertuples():
        scores = read_json(Path(row.run) / "scores.json")
        assert scores["subset"] == "validation" and scores["metrics"]["top1"]["value"] == pytest.approx(row.top1)

    rows = build_ablation(config)
    parts = rows["setting"].map(setting_parts)
    states = [each["state"] for each in parts if each["study"] == "search" and "state" in each]
    assert states == table["state"].tolist()
    assert sum(each.get("chosen") == "yes" and each["study"] == "search" for each in parts) == 1
    assert all("frames=" in each["trial"] for each in parts if "trial" in each)
    assert (rows["metric"] == "gmacs").sum() == 2
    trials = [(each["trial"], model) for each, model in zip(parts, rows["model"], strict=True) if "trial" in each]
    assert all((".4frames" in model) == ("frames=4" in trial) for trial, model in trials)
    for figure in tune_figures(config):
        dataset, study, picture, _ = Path(figure).name.split(".")
        assert command("tune-figure", dataset, study, picture, "--config", file)[0] == 0
        assert Path(figure).stat().st_size > 5000
    assert len(tune_figures(config)) == 12


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_pictures_show_every_trial_and_hide_none():
    """The worst trials are drawn in a colour, legends lie outside, and what is whole has whole ticks, as epochs do that
    were looked at but once."""
    study = optuna.create_study(direction="maximize")
    distributions = {
        "alpha": FloatDistribution(0, 1),
        "clips_per_class": IntDistribution(2, 4),
        "lr": FloatDistribution(1e-4, 1e-2, log=True),
    }
    for number, top1 in enumerate((25.0, 75.0, 100.0)):
        params = {"alpha": number / 2, "clips_per_class": (3, 4, 2)[number], "lr": 10.0 ** (-4 + number)}
        looks = {6: top1}
        trial = create_trial(value=top1, params=params, distributions=distributions, intermediate_values=looks)
        study.add_trial(trial)
    with style.style():
        drawn = {name: draw(study, name, ["top1"]) for name in PICTURES if name != "pareto"}
        for figure in drawn.values():
            figure.canvas.draw()
    history, parallel, intermediate = (drawn[name] for name in ("history", "parallel", "intermediate"))
    axes = history.axes[0]
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1
    (lines,) = parallel.axes[0].collections
    assert max(min(colour[:3]) for colour in lines.get_colors()) < 0.9
    assert [tick for tick in intermediate.axes[0].get_xticks() if tick % 1] == []
    of_clips = [axes.xaxis for name in ("slice", "contour") for axes in drawn[name].axes]
    of_clips = [axis for axis in of_clips if axis.get_label_text() == "clips_per_class"]
    of_clips += [axes.yaxis for axes in parallel.axes if axes.get_ylim() == (2, 4)]
    assert len(of_clips) == 3
    for axis in of_clips:
        assert {2, 3, 4} <= set(axis.get_ticklocs()) and not [tick for tick in axis.get_ticklocs() if tick % 1]


@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_has_a_caption_of_its_own(picture):
    """As Snakemake renders it for its report."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    source = (Path(__file__).parents[2] / "workflow/report/tune_figure.rst").read_text()
    wildcards = {"dataset": "colours", "study": "search", "picture": picture}
    text = environment.from_string(source).render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(**wildcards)))
    html = publish_parts(text, writer="html")["body"]
    told, about = html.strip().split("</p>\n<p>")
    assert told.startswith("<p><strong>") and "Study search on colours" in about


def test_a_trial_on_two_processes_is_pruned(project, command):
    """Optuna's study goes to the process that asks it; validation is looked at by both."""
    space = {"student.train.lr": {"type": "float", "low": 1e-9, "high": 1e-8}}  # learns nothing
    search = {"arm": "student", "trials": 3, "startup_trials": 1, "warmup_epochs": 0, "space": space}
    values = {
        "train": {"batch_size": 2, "accumulate": 2, "processes": 2},
        "student": {"train": {"epochs": 4}},
        "ablation": {"tune": {"search": search}},
    }
    config = project.config(values)
    before = open_search(config, "colours", "search", made_from(config, "colours", "search"))
    for slot in (0, 1):  # that learnt all at once
        before.add_trial(
            create_trial(
                value=1.0,
                params={"student.train.lr": 1e-8},
                distributions={"student.train.lr": FloatDistribution(1e-9, 1e-8)},
                intermediate_values=dict.fromkeys(range(1, 5), 1.0),
                user_attrs={"slot": slot},
            )
        )
    assert command("tune", "colours", "search", "--config", project.config_file(values))[0] == 0
    last = by_slot(before)[2]
    assert last.state.name == "PRUNED" and list(last.intermediate_values) == [1]
    assert not list(project.root.glob("results/**/checkpoint.pt"))


def test_a_search_can_choose_for_the_arms(taught):
    values = merge(SEARCHES, {"chosen_by": ["search"]})
    config = taught.config(values)
    distilled, student = (Run("colours", "split1", "as_described", arm, 0) for arm in ("distilled", "student"))
    path = paths.study_directory("colours", "search") / "choice.json"
    assert plan.choices_of(config, distilled) == [path] and plan.choices_of(config, student) == [path]
    (_, trial), *_ = plan.tune_corners(config, "colours", "search")
    assert plan.choices_of(plan.tune_corners(config, "colours", "search")[0][0], trial) == []
