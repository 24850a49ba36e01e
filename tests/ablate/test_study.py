"""Trials are recorded once each, by many processes at once; a study chooses on validation or not at all."""

from __future__ import annotations

import multiprocessing
from typing import Any, get_args

import pytest
import yaml

from dvfl import plan
from dvfl.ablate.job import run_trial
from dvfl.ablate.study import choose, record_missing, record_trial, recorded_trials
from dvfl.ablate.trials import study_trials
from dvfl.config import PROJECT, ConfigError, check_config, merge
from dvfl.config.divergences import DivergenceName
from dvfl.files import MissingInput, read_json, write_json
from dvfl.run import Run
from tests.ablate.mine import MINE

RAW: dict[str, Any] = {
    **MINE,
    "ablation": {
        "studies": {
            "sweep": {
                "arms": ["distilled"],
                "grid": {"distill.alpha": [0.2, 0.5, 0.9], "distill.temperature": [1, 10]},
                "points": [{"distill.alpha": 0.0}, {"distill.alpha": 0.5, "distill.divergence": "reverse_kl"}],
                "seeds": [0, 1],
            }
        }
    },
}
CONFIG = check_config(RAW)
TRIALS = plan.trial_runs(CONFIG, "mine", "sweep")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def recorded() -> dict[tuple[str, int], float]:
    return {(t.user_attrs["trial"], t.user_attrs["seed"]): t.value for t in recorded_trials(CONFIG, "mine", "sweep")}


def test_a_trial_is_recorded_with_its_values_its_curve_and_whose_it_is():
    run = next(run for run in TRIALS if run.trial == "alpha=0.5,temperature=10")
    record_trial(CONFIG, run, 0.625, {10: 0.25, 20: 0.5})
    (trial,) = recorded_trials(CONFIG, "mine", "sweep")
    assert trial.params == {"distill.alpha": 0.5, "distill.temperature": 10}
    assert trial.value == 0.625
    assert trial.intermediate_values == {10: 0.25, 20: 0.5}
    assert trial.user_attrs == {"trial": run.trial, "arm": "distilled", "seed": 0, "run": str(run)}
    assert trial.state.name == "COMPLETE"


def test_every_kind_of_point_can_be_recorded():
    for number, run in enumerate(TRIALS):
        record_trial(CONFIG, run, number / 100, {})
    assert recorded() == {(run.trial, run.seed): number / 100 for number, run in enumerate(TRIALS)}
    assert len(TRIALS) == 2 * 8


def test_a_trial_done_again_replaces_its_earlier_outcome_alone():
    one, other = TRIALS[0], TRIALS[2]
    record_trial(CONFIG, one, 0.1, {1: 0.1, 2: 0.1})
    record_trial(CONFIG, other, 0.2, {1: 0.2})
    record_trial(CONFIG, one, 0.3, {1: 0.3})
    assert recorded() == {(one.trial, 0): 0.3, (other.trial, 0): 0.2}
    curves = {t.user_attrs["trial"]: t.intermediate_values for t in recorded_trials(CONFIG, "mine", "sweep")}
    assert curves == {one.trial: {1: 0.3}, other.trial: {1: 0.2}}
    kept = next(t for t in recorded_trials(CONFIG, "mine", "sweep") if t.user_attrs["trial"] == other.trial)
    assert kept.params == study_trials(CONFIG.ablation.studies["sweep"])[other.trial]


def test_the_best_trial_is_the_one_with_the_highest_value():
    from dvfl.ablate.study import open_study

    for run, value in zip(TRIALS[:3], (0.2, 0.7, 0.3), strict=True):
        record_trial(CONFIG, run, value, {})
    assert open_study(CONFIG, "mine", "sweep").best_trial.user_attrs["run"] == str(TRIALS[1])


def test_four_processes_at_once_lose_nothing():
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)

    def work(share: int) -> None:
        barrier.wait()
        for number, run in list(enumerate(TRIALS))[share::4]:
            record_trial(CONFIG, run, 0.5, {})  # and again, better
            record_trial(CONFIG, run, number / 100, {1: number / 200})

    processes = [fork.Process(target=work, args=(share,)) for share in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert recorded() == {(run.trial, run.seed): number / 100 for number, run in enumerate(TRIALS)}
    assert len(recorded_trials(CONFIG, "mine", "sweep")) == len(TRIALS)


# ---------------------------------------------------------------------------------------------------------- choosing


def scored(values: dict[str, tuple[float, float]], default: float = 0.1) -> None:
    """Files of all trials: top-1 of seeds 0 and 1 by trial, and a history that was never looked at."""
    for run in TRIALS:
        top1 = values.get(run.trial, (default, default))[run.seed]
        write_json(run.directory / "scores.json", {"metrics": {"top1": {"value": top1}, "top5": {"value": 1.0}}})
        (run.directory / "history.csv").write_text("epoch,loss\n1,2.0\n")


def test_it_chooses_the_best_mean_over_seeds_and_reports_the_baseline():
    scored({"alpha=0.2,temperature=1": (0.9, 0.1), "alpha=0.9,temperature=10": (0.6, 0.7), "alpha=0": (0.3, 0.5)})
    choice = choose(CONFIG, "mine", "sweep")
    assert choice["trial"] == "alpha=0.9,temperature=10"
    assert choice["values"] == {"distill.alpha": 0.9, "distill.temperature": 10}
    assert choice["value"] == pytest.approx(0.65)
    assert choice["baseline"] == pytest.approx(0.4)
    assert choice["trials"]["alpha=0.2,temperature=1"] == pytest.approx(0.5)
    assert (choice["subset"], choice["metric"], choice["seeds"]) == ("validation", "top1", [0, 1])


def test_what_a_kill_cost_the_storage_is_recorded_again():
    scored({TRIALS[0].trial: (0.4, 0.6)})
    record_trial(CONFIG, TRIALS[0], 0.4, {1: 0.2})
    (TRIALS[1].directory / "history.csv").write_text("epoch,val_top1\n1,0.25\n2,0.5\n")
    record_missing(CONFIG, "mine", "sweep")
    assert len(recorded()) == len(recorded_trials(CONFIG, "mine", "sweep")) == len(TRIALS)
    curves = {t.user_attrs["run"]: t.intermediate_values for t in recorded_trials(CONFIG, "mine", "sweep")}
    assert curves[str(TRIALS[0])] == {1: 0.2}  # as it was
    assert curves[str(TRIALS[1])] == {1: 0.25, 2: 0.5}


def test_the_trial_without_distillation_is_never_chosen():
    scored({"alpha=0": (1.0, 1.0), "alpha=0.2,temperature=10": (0.2, 0.2)})
    choice = choose(CONFIG, "mine", "sweep")
    assert choice["trial"] == "alpha=0.2,temperature=10"
    assert choice["baseline"] == 1.0


def test_ties_go_to_the_earlier_trial():
    scored({"alpha=0.5,temperature=1": (0.1, 0.5), "alpha=0.9,temperature=1": (0.3, 0.3)})
    assert choose(CONFIG, "mine", "sweep")["trial"] == "alpha=0.5,temperature=1"


def test_a_chosen_divergence_is_among_the_values():
    scored({"alpha=0.5,divergence=reverse_kl": (0.8, 0.8)})
    assert choose(CONFIG, "mine", "sweep")["values"] == {"distill.alpha": 0.5, "distill.divergence": "reverse_kl"}


def test_a_study_without_a_baseline_has_none():
    without = check_config(merge(RAW, {"ablation": {"studies": {"sweep": {"points": []}}}}))
    scored({})
    assert choose(without, "mine", "sweep")["baseline"] is None


def test_a_study_evaluated_on_test_refuses_to_choose():
    on_test = check_config(merge(RAW, {"ablation": {"studies": {"sweep": {"evaluate_on": "test"}}}}))
    scored({})
    with pytest.raises(ConfigError, match=r"ablation\.studies\.sweep: is evaluated on test, and test chooses nothing"):
        choose(on_test, "mine", "sweep")


def test_a_trial_without_scores_is_named():
    scored({})
    (TRIALS[3].directory / "scores.json").unlink()
    with pytest.raises(MissingInput, match=r"scores\.json: not there yet"):
        choose(CONFIG, "mine", "sweep")


# ------------------------------------------------------------------------------------------------------ a real study


def test_trials_are_trained_scored_and_recorded_and_the_choice_teaches_the_arm(project, command):
    values = {
        "student": {"train": {"epochs": 2}},
        "chosen_by": ["sweep"],
        "ablation": {
            "studies": {"sweep": {"arms": ["distilled"], "points": [{"distill.alpha": 0.0}, {"distill.alpha": 0.4}]}}
        },
    }
    config = project.config(values)
    file = project.config_file(values)
    teacher = Run("colours", "split1", "as_described", "teacher", 0, "selection")
    assert command("train", teacher.directory, "--config", file)[0] == 0
    for run in plan.trial_runs(config, "colours", "sweep"):
        value = run_trial(config, run)
        assert read_json(run.directory / "scores.json")["metrics"]["top1"]["value"] == value
        assert read_json(run.directory / "scores.json")["subset"] == "validation"
    trials = recorded_trials(config, "colours", "sweep")
    assert [trial.user_attrs["trial"] for trial in trials] == ["alpha=0", "alpha=0.4"]
    assert all(list(trial.intermediate_values) == [1, 2] for trial in trials)
    for trial in trials:  # the last look at validation is at the weights that are scored
        assert trial.intermediate_values[2] == pytest.approx(trial.value)
    code, _, err = command("choose", "colours", "sweep", "--config", file)
    assert code == 0 and "colours sweep: chose alpha=0.4, validation top-1" in err
    choice = read_json("results/ablation/colours/sweep/choice.json")
    assert choice["values"] == {"distill.alpha": 0.4}
    assert choice["baseline"] == trials[0].value


def test_the_study_of_divergences_runs_its_trials_at_equal_budget(taught):
    study = yaml.safe_load((PROJECT / "config/divergences.yaml").read_text())["ablation"]["studies"]["divergences"]
    study["set"] |= {"student.train.epochs": 1, "student.clips_per_class": 1}
    config = taught.config({"ablation": {"run": ["divergences"], "studies": {"divergences": study}}})
    runs = plan.trial_runs(config, "colours", "divergences")
    names = dict.fromkeys(run.trial for run in runs)
    assert len(names) == 13 and len(runs) == 39
    settings = [plan.run_settings(config, run) for run in runs]
    assert len({(each.train.model_dump_json(), each.input.model_dump_json()) for each in settings}) == 1
    distilled = [each.distill for each in settings if each.distill]
    assert {each.divergence for each in distilled} == set(get_args(DivergenceName))
    assert {(each.alpha, each.temperature) for each in distilled} == {(0.9, 4)}
    for trial in ("divergence=dkd", "divergence=dist", "weight=1,targets=online"):
        run = next(run for run in runs if run.trial == trial)
        assert 0 <= run_trial(config, run) <= 1
    assert [trial.user_attrs["trial"] for trial in recorded_trials(config, "colours", "divergences")] == [
        "divergence=dkd",
        "divergence=dist",
        "weight=1,targets=online",
    ]
