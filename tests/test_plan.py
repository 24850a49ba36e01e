"""Which runs there are, where they lie, what teaches them, and which values change which of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dvfl import paths, plan, stores
from dvfl.ablate.trials import study_trials
from dvfl.config import Config, ConfigError, StudyConfig, check_config, merge
from dvfl.run import Run

RAW: dict[str, Any] = {
    "datasets": ["mine"],
    "dataset_definitions": {"mine": {"kind": "folder", "root": "/clips", "splits": ["split1", "split2"]}},
    "seeds": [0, 1, 2],
    "train": {"batch_size": 8},
    "teacher": {"model": "video_focalnet_small", "train": {"lr": 0.01}},
    "student": {"model": "video_focalnet_tiny", "clips_per_class": 10},
    "arms": {
        "teacher": {"network": "teacher", "seeds": [0, 5]},
        "student": {"network": "student"},
        "distilled": {"network": "student", "distil_from": "teacher"},
        "teacher_few": {"network": "teacher", "seeds": [7], "set": {"teacher.clips_per_class": 10}},
    },
    "ablation": {
        "studies": {
            "sweep": {
                "arms": ["distilled"],
                "grid": {"distill.alpha": [0.0, 0.2, 0.9], "distill.temperature": [1, 4.5]},
            },
            "labels": {
                "arms": ["student", "distilled"],
                "evaluate_on": "test",
                "seeds": [0, 3],
                "points": [{"student.clips_per_class": 4}, {"student.clips_per_class": 10}],
            },
        }
    },
}
FINAL = {arm: Run("mine", "split1", "as_described", arm, 0) for arm in RAW["arms"]}


def config_of(**values: Any) -> Config:
    return check_config(merge(RAW, values))


@pytest.fixture
def config() -> Config:
    return config_of()


def trial(study: str, name: str, arm: str = "distilled", seed: int = 0) -> Run:
    stage = "final" if study == "labels" else "selection"
    return Run("mine", "split1", "as_described", arm, seed, stage, study, name)


# ------------------------------------------------------------------------------------------------------- directories


def test_directories_are_those_that_users_were_promised():
    assert str(FINAL["student"]) == "results/runs/mine/split1/as_described/student/seed0"
    assert (
        str(trial("sweep", "alpha=0.2,temperature=1"))
        == "results/ablation/mine/sweep/alpha=0.2,temperature=1/distilled/seed0"
    )
    selection = Run("mine", "split1", "as_described", "teacher", 5, "selection")
    assert str(selection) == "results/ablation/mine/selection/teacher/seed5"
    assert paths.index_path("mine").as_posix() == "results/data/mine/index.parquet"
    assert paths.split_path("mine", "split2").as_posix() == "results/data/mine/splits/split2.csv"
    assert paths.profile_path("vfl_net").as_posix() == "results/profile/vfl_net.json"


def test_names_in_mlflow_are_those_that_users_were_promised():
    assert FINAL["student"].name == "split1/as_described/student/seed0"
    assert trial("sweep", "alpha=0").name == "split1/as_described/sweep/alpha=0/distilled/seed0"
    assert Run("mine", "split1", "p", "teacher", 1, "selection").name == "split1/p/selection/teacher/seed1"


def test_resume_state_lies_beside_the_outputs_and_is_keyed(config):
    run = FINAL["student"]
    one, other = paths.resume_directory(run, "a"), paths.resume_directory(run, "b")
    assert one != other
    assert run.directory not in one.parents
    assert one.parents[1] == run.directory.parent


def test_final_runs_are_all_arms_on_all_splits_with_their_seeds(config):
    found = [(run.split, run.arm, run.seed) for run in plan.final_runs(config)]
    seeds = {"teacher": [0, 5], "student": [0, 1, 2], "distilled": [0, 1, 2], "teacher_few": [7]}
    assert found == [(split, arm, seed) for split in ("split1", "split2") for arm in seeds for seed in seeds[arm]]


def test_no_two_runs_share_a_directory_or_a_name(config):
    runs = list(plan.all_runs(config))
    assert len(runs) == len(set(runs)) == len({str(run) for run in runs}) == len({run.name for run in runs})


def test_every_teacher_is_among_all_runs(config):
    runs = list(plan.all_runs(config))
    teachers = [plan.teacher_of(config, run) for run in runs]
    assert any(teachers)
    assert all(teacher in runs for teacher in teachers if teacher)
    assert Run("mine", "split1", "as_described", "teacher", 0, "selection") in runs  # of the sweep alone


# ------------------------------------------------------------------------------------------------------------ trials


def test_trials_are_named_by_what_they_set_and_alpha_0_is_one_trial(config):
    trials = study_trials(config.ablation.studies["sweep"])
    assert trials == {
        "alpha=0": {"distill.alpha": 0.0},
        "alpha=0.2,temperature=1": {"distill.alpha": 0.2, "distill.temperature": 1},
        "alpha=0.2,temperature=4.5": {"distill.alpha": 0.2, "distill.temperature": 4.5},
        "alpha=0.9,temperature=1": {"distill.alpha": 0.9, "distill.temperature": 1},
        "alpha=0.9,temperature=4.5": {"distill.alpha": 0.9, "distill.temperature": 4.5},
    }


def study(*points: dict[str, Any]):
    raw = {"arms": ["student"], "points": list(points)}
    return config_of(ablation={"studies": {"own": raw}}).ablation.studies["own"]


def test_points_that_differ_get_names_that_differ():
    trials = study_trials(study({"teacher.train.lr": 0.1}, {"student.train.lr": 0.1}, {"train.lr": 0.1}))
    assert len(trials) == 3
    assert [*trials.values()] == [{"teacher.train.lr": 0.1}, {"student.train.lr": 0.1}, {"train.lr": 0.1}]


def test_points_that_cannot_be_told_apart_by_name_are_refused():
    with pytest.raises(ConfigError, match="two points named"):
        study_trials(study(*({"student.weights": weights} for weights in ("a/b.pth", "a b.pth", "a,b.pth"))))


def test_numbers_that_are_close_are_told_apart():
    trials = study_trials(study({"train.lr": 0.100000001}, {"train.lr": 0.100000002}, {"train.lr": 0.1}))
    assert list(trials) == ["lr=0.100000001", "lr=0.100000002", "lr=0.1"]


def test_a_name_is_no_longer_than_a_files_may_be():
    one, other = study_trials(study(*({"student.weights": f"{'k' * 300}{number}.pth"} for number in range(2))))
    assert one != other and max(len(one), len(other)) <= 200


def test_a_point_given_twice_is_one_trial():
    assert study_trials(study({"train.lr": 0.1}, {"train.lr": 0.1})) == {"lr=0.1": {"train.lr": 0.1}}


@pytest.mark.parametrize("value", ["a/b c", "../up", "x,y=z.pth", "ünï.pth"])
def test_a_trials_name_is_one_folder(value):
    (name,) = study_trials(study({"student.weights": value}))
    assert name.startswith("weights=")
    assert "/" not in name and " " not in name


def test_trials_run_on_the_first_split_with_the_studys_seeds(config):
    runs = plan.trial_runs(config, "mine", "sweep")
    assert {(run.split, run.seed, run.stage, run.study) for run in runs} == {("split1", 0, "selection", "sweep")}
    assert len(runs) == 5


def test_a_trial_that_equals_a_final_run_is_that_run(config):
    runs = plan.trial_runs(config, "mine", "labels")
    by_key = {(run.arm, run.seed): run for run in runs if not run.study}
    # 10 clips a class is what the arms have anyway; seed 3 is no seed of theirs.
    assert set(by_key) == {("student", 0), ("distilled", 0)}
    assert by_key["student", 0] == FINAL["student"]
    assert {run.trial for run in runs if run.seed == 3} == {"clips_per_class=4", "clips_per_class=10"}
    assert len(runs) == 8


def test_a_trial_of_the_selection_stage_is_never_a_final_run():
    same = {"studies": {"sweep": {"grid": {"distill.alpha": [0.2], "distill.temperature": [10.0]}}}}
    runs = plan.trial_runs(config_of(ablation=same), "mine", "sweep")
    assert [run.stage for run in runs] == ["selection"]


# ---------------------------------------------------------------------------------------------------------- teachers


@pytest.mark.parametrize(("seed", "taught_by"), [(0, 0), (1, 5), (2, 0)])
def test_teachers_seeds_are_taken_in_turn(config, seed, taught_by):
    run = Run("mine", "split2", "as_described", "distilled", seed)
    assert plan.teacher_of(config, run) == Run("mine", "split2", "as_described", "teacher", taught_by)


def test_a_seed_that_the_teacher_has_too_is_taught_by_it():
    config = config_of(seeds=[5])
    assert plan.teacher_of(config, Run("mine", "split1", "as_described", "distilled", 5)).seed == 5


def test_a_trial_is_taught_by_a_teacher_of_its_stage(config):
    teacher = plan.teacher_of(config, trial("sweep", "alpha=0.2,temperature=1"))
    assert teacher == Run("mine", "split1", "as_described", "teacher", 0, "selection")
    few = plan.teacher_of(config, trial("labels", "clips_per_class=4"))
    assert few == FINAL["teacher"]


def test_nobody_teaches_without_distillation(config):
    assert plan.teacher_of(config, FINAL["student"]) is None
    assert plan.teacher_of(config, FINAL["teacher"]) is None
    assert plan.teacher_of(config, trial("sweep", "alpha=0")) is None
    assert plan.run_settings(config, trial("sweep", "alpha=0")).distill is None


# ------------------------------------------------------------------------------------------------------------ parsing


@pytest.mark.parametrize("dressed", ["{}", "{}/", "./{}", f"{Path.cwd()}/{{}}"])
def test_a_run_is_found_by_its_directory(config, dressed):
    for run in plan.all_runs(config):
        assert plan.parse_run(config, dressed.format(run)) == run


@pytest.mark.parametrize(
    "wanted",
    [
        "results/runs/mine/split1/as_described/student/seed9",
        "results/runs/mine/split1/as_described/studnet/seed0",
        "student",
        "",
        "/somewhere/else/results/runs/mine/split1/as_described/student/seed0",
        "xresults/runs/mine/split1/as_described/student/seed0",
    ],
)
def test_an_unknown_run_is_refused_with_examples(config, wanted):
    with pytest.raises(ConfigError) as error:
        plan.parse_run(config, wanted)
    assert "no such run" in str(error.value)
    assert "results/runs/mine/split1/as_described/teacher/seed0" in str(error.value)


# ---------------------------------------------------------------------------------- which value changes which run


STUDENTS = {"student", "distilled"}
TEACHERS = {"teacher", "teacher_few"}
ALL = STUDENTS | TEACHERS
CHANGES = [
    # key, other value, arms whose digest changes
    ("train.workers", 3, set()),
    ("train.device", "cpu", set()),
    ("train.threads", 2, ALL),
    ("train.epochs", 31, ALL),
    ("train.batch_size", 16, ALL),
    ("train.precision", "bfloat16", ALL),
    ("train.include_validation", False, ALL),
    ("train.lr", 0.5, STUDENTS),  # the teacher has one of its own
    ("teacher.train.lr", 0.5, TEACHERS),
    ("teacher.model_overrides", {"embed_dim": 8}, TEACHERS),
    ("teacher.clips_per_class", 20, {"teacher"}),  # teacher_few sets its own
    ("student.clips_per_class", 20, STUDENTS),
    ("student.train.epochs", 3, STUDENTS),
    ("student.model", "vfl_net", STUDENTS),
    ("input.img_size", 24, ALL),
    ("input.views", 3, ALL),
    ("input.interpolation", "bicubic", ALL),
    ("input.mean", [0.5, 0.5, 0.5], ALL),
    ("input.std", [0.5, 0.5, 0.5], ALL),
    ("input.frame_store", {}, ALL),
    ("distill.alpha", 0.3, {"distilled"}),
    ("distill.temperature", 3.0, {"distilled"}),
    ("distill.divergence", "reverse_kl", {"distilled"}),
    ("distill.t_squared", False, {"distilled"}),
    ("distill.targets", "online", {"distilled"}),
    ("distill.targets", "stored", set()),  # the same numbers
    ("distill.targets_precision", "float16", {"distilled"}),
    ("arms.student.set", {"train.epochs": 2}, {"student"}),
    ("arms.student.seeds", [0, 4], set()),
    ("arms.extra", {"network": "student"}, set()),
    ("seeds", [0, 1], set()),
    ("evaluate.clips", 4, set()),
    ("evaluate.crops", 3, set()),
    ("evaluate.resamples", 500, set()),
    ("evaluate.batch_size", 5, set()),
    ("evaluate.drop_last", 2, set()),
    ("profile.repeats", 9, set()),
    ("tracking.uri", "http://127.0.0.1:1", set()),
    ("ablation.studies.sweep.seeds", [3], set()),
    ("dataset_definitions.mine.split_seed", 1, ALL),
    ("dataset_definitions.mine.horizontal_flip", False, ALL),
    ("dataset_definitions.mine.splits", ["split1"], set()),
    ("dataset_definitions.motions.split_seed", 1, set()),
]


@pytest.mark.parametrize(("key", "value", "changed"), CHANGES, ids=[key for key, *_ in CHANGES])
def test_a_run_changes_when_and_only_when_a_value_that_it_uses_changes(config, key, value, changed):
    values: Any = value
    for part in reversed(key.split(".")):
        values = {part: values}
    other = check_config(merge(RAW, values))
    assert other != config
    found = {
        arm
        for arm, run in FINAL.items()
        if plan.run_settings(other, run).digest != plan.run_settings(config, run).digest
    }
    assert found == changed


def test_how_many_jobs_store_the_frames_changes_no_run(config):
    asked = [{}, {"shards": 3}, {"quality": 80}, {"short_side": 128}]
    configs = [check_config(merge(RAW, {"input": {"frame_store": store}})) for store in asked]
    one, sharded, *others = (plan.run_settings(each, FINAL["student"]).digest for each in configs)
    assert one == sharded and len({one, *others}) == 3
    assert [path.name for path in paths.frames_written("mine", configs[1].input)] == [f"{k}of3.json" for k in range(3)]


def test_a_data_set_has_the_frame_stores_that_its_runs_read(config):
    assert stores.frame_stores(config, "mine") == {} and paths.frames_written("mine", config.input) == []
    arm = {"network": "student", "set": {"input.frame_store": {"short_side": 128, "quality": 80}}}
    one = check_config(merge(RAW, {"arms": {"extra": arm}}))
    assert list(stores.frame_stores(one, "mine")) == ["128px_bilinear_q80"] and stores.frame_stores(one, "other") == {}
    two = check_config(merge(RAW, {"arms": {"extra": arm}, "input": {"frame_store": {}, "short_side": 48}}))
    assert set(stores.frame_stores(two, "mine")) == {"128px_bilinear_q80", "48px_bilinear_q90"}


def test_parameters_count_for_the_divergence_that_reads_them():
    def digest(distill: dict[str, Any]) -> str:
        # The extra arm reads whatever parameter there is, so that none is refused.
        extra = {"network": "student", "distil_from": "teacher", "set": {"distill.divergence": "dkd"}}
        other = check_config(merge(RAW, {"distill": distill, "arms": {"extra": extra}}))
        return plan.run_settings(other, FINAL["distilled"]).digest

    assert digest({}) == digest({"dkd": {"beta": 3}}) == digest({"dkd": {"alpha": 3}})
    dkd = [{"divergence": "dkd"} | values for values in ({}, {"dkd": {"beta": 3}}, {"dkd": {"alpha": 3}})]
    online = [{"targets": "online"} | values for values in ({}, {"features": {"weight": 1}})]
    assert len({digest(values) for values in [{}, *dkd, *online]}) == 6


# ---------------------------------------------------------------------------------------------------- teacher's targets


def stores_of(**values: Any) -> list[list[str]]:
    """The runs of each store, as study/trial or arm/seed."""
    found = stores.target_stores(config_of(**values))
    assert all(store.parent == Path("results/targets/mine") for store in found)
    return [[f"{run.study}/{run.trial or run.arm}/{run.seed}" for run in runs] for runs in found.values()]


SWEEP = [f"sweep/alpha={alpha},temperature={t}/0" for alpha in (0.2, 0.9) for t in (1, 4.5)]


def test_runs_of_a_study_share_targets_from_three_on():
    sweep = {"ablation": {"studies": {"sweep": {"seeds": [0]}}}}
    assert stores_of(**sweep) == [SWEEP]  # alpha 0 has no teacher
    fewer = {"sweep": {"seeds": [0], "grid": {"distill.alpha": [0.2], "distill.temperature": [1, 4.5]}}}
    assert stores_of(ablation={"studies": fewer}) == []
    assert stores_of(**sweep, distill={"targets": "online"}) == []
    assert stores_of(**sweep, distill={"features": {"weight": 1}}) == []


def test_a_study_that_is_added_changes_no_other_runs_inputs():
    added = {"evaluate_on": "test", "seeds": [0], "arms": ["distilled"], "grid": {"distill.alpha": [0.3, 0.4, 0.5]}}
    own = stores_of(ablation={"studies": {"sweep": None, "added": added}})
    assert own == [[f"added/alpha={alpha}/0" for alpha in (0.3, 0.4, 0.5)]]
    shared = stores_of(ablation={"studies": {"sweep": None, "added": added}}, distill={"targets": "stored"})
    assert ["/distilled/0", *own[0]] in shared  # asked for, all wait for one store


@pytest.mark.parametrize(
    ("key", "values", "stores"),
    [
        ("distill.divergence", ["forward_kl", "reverse_kl", "dkd"], 1),
        ("student.model", ["video_focalnet_tiny", "video_focalnet_small", "vfl_net"], 1),
        ("student.train.lr", [0.1, 0.2, 0.3], 1),
        ("student.train.epochs", [1, 2, 3], 1),  # few views, and not mixed: the same in every epoch
        ("input.flip", [0.0, 0.1, 0.2], 0),
        ("student.clips_per_class", [2, 3, 4], 0),
        ("train.batch_size", [2, 4, 6], 0),
        ("distill.teacher_head", ["trained", "random"], 0),
    ],
)
def test_runs_share_targets_where_and_only_where_their_inputs_are_the_same(key, values, stores):
    studies = {"sweep": None, "own": {"arms": ["distilled"], "seeds": [0], "grid": {key: values}}}
    found = stores_of(ablation={"studies": studies})
    assert len(found) == stores and all(len(runs) == 3 for runs in found)


def test_an_epoch_more_is_another_store_where_every_epoch_is_another():
    studies = {"sweep": None, "own": {"arms": ["distilled"], "seeds": [0], "grid": {"student.train.epochs": [1, 2, 3]}}}
    for values in ({"train": {"mixup": 0.8}}, {"input": {"views": None}}):
        assert stores_of(ablation={"studies": studies}, **values) == []


def test_a_choice_of_what_is_shown_keeps_targets_apart_and_one_of_what_is_made_of_them_does_not(config):
    grid = {"student.train.epochs": [1, 2]}
    for key, same in (("distill.alpha", True), ("student.train.lr", False)):
        chosen = {"arms": ["distilled"], "seeds": [0], "grid": {key: [0.1, 0.2]}}
        values = {"ablation": {"studies": {"chosen": chosen, "sweep": {"grid": grid}}}, "chosen_by": ["chosen"]}
        other = config_of(**values)
        run = FINAL["distilled"]
        assert (stores.targets_directory(other, run) == stores.targets_directory(config, run)) == same


def test_a_grid_over_a_parameter_has_one_trial_of_each_divergence_that_does_not_read_it():
    grid = {"distill.divergence": ["forward_kl", "dkd"], "distill.dkd.beta": [1, 8]}
    points = [{"distill.alpha": 0, "distill.divergence": "dkd", "distill.targets": "online"}]
    study = StudyConfig(arms=["distilled"], grid=grid, points=points)
    assert study_trials(study) == {
        "divergence=forward_kl": {"distill.divergence": "forward_kl"},
        "divergence=dkd,beta=1": {"distill.divergence": "dkd", "distill.dkd.beta": 1},
        "divergence=dkd,beta=8": {"distill.divergence": "dkd", "distill.dkd.beta": 8},
        "alpha=0": {"distill.alpha": 0},
    }


def test_seed_split_and_stage_change_a_run(config):
    run = FINAL["student"]
    others = [
        Run("mine", "split1", "as_described", "student", 1),
        Run("mine", "split2", "as_described", "student", 0),
        Run("mine", "split1", "as_described", "student", 0, "selection"),
    ]
    digests = {plan.run_settings(config, each).digest for each in [run, *others]}
    assert len(digests) == 4


def test_a_trials_values_reach_its_settings_and_no_other_trials(config):
    settings = plan.run_settings(config, trial("sweep", "alpha=0.9,temperature=4.5"))
    assert (settings.distill.alpha, settings.distill.temperature) == (0.9, 4.5)
    assert plan.run_settings(config, FINAL["distilled"]).distill.alpha == config.distill.alpha


def test_a_trials_own_value_wins_over_its_studys_and_that_over_its_arms():
    config = config_of(
        arms={"student": {"set": {"train.epochs": 1, "train.warmup": 0.5, "train.weight_decay": 0.2}}},
        ablation={
            "studies": {
                "own": {
                    "arms": ["student"],
                    "set": {"train.epochs": 2, "train.warmup": 0.6},
                    "points": [{"train.epochs": 3}],
                }
            }
        },
    )
    train = plan.run_settings(config, trial("own", "epochs=3", "student")).train
    assert (train.epochs, train.warmup, train.weight_decay) == (3, 0.6, 0.2)


def test_final_runs_train_on_validation_too_unless_told_otherwise_and_are_tested_on_test(config):
    final, chosen = (plan.run_settings(config, run) for run in (FINAL["student"], trial("sweep", "alpha=0")))
    assert (final.subsets, final.evaluated_on) == (["train", "validation"], "test")
    assert (chosen.subsets, chosen.evaluated_on) == (["train"], "validation")
    alone = plan.run_settings(config_of(train={"include_validation": False}), FINAL["student"])
    assert (alone.subsets, alone.evaluated_on) == (["train"], "test")


def test_only_what_distils_waits_for_a_choice():
    config = config_of(chosen_by=["sweep"])
    choice = paths.study_directory("mine", "sweep") / "choice.json"
    assert plan.choices_of(config, FINAL["distilled"]) == [choice]
    assert plan.choices_of(config, FINAL["student"]) == []
    assert plan.choices_of(config, trial("sweep", "alpha=0.2,temperature=1")) == []  # not its own outcome
    assert plan.choices_of(config, trial("labels", "clips_per_class=4")) == [choice]


# ------------------------------------------------------------------------------------------------------- pretraining

PRETRAIN = {"dataset": "motions", "set": {"teacher.train.epochs": 3, "input.frames": 2}}


def test_pretraining_is_one_run_on_all_labels_of_another_data_set_for_all_arms_of_a_network():
    config = config_of(teacher={"pretrain": PRETRAIN, "clips_per_class": 5})
    first = plan.pretraining_of(config, FINAL["teacher"])
    assert first == Run("motions", "split1", "as_described", "teacher", 0, "pretraining")
    assert str(first) == "results/pretraining/motions/teacher/seed0"
    assert plan.pretraining_of(config, FINAL["teacher_few"]) == first
    assert plan.pretraining_of(config, FINAL["student"]) is None and plan.pretraining_of(config, first) is None
    settings = plan.run_settings(config, first)
    assert (settings.train.epochs, settings.input.frames, settings.network.clips_per_class) == (3, 2, None)
    assert settings.network.start_from is None and settings.subsets == ["train", "validation"]
    assert [run for run in plan.all_runs(config) if run.stage == "pretraining"] == [first]
    assert plan.parse_run(config, "results/pretraining/motions/teacher/seed0") == first
    assert plan.used_datasets(config) == ["mine", "motions"]


def test_a_pretrained_network_starts_from_what_came_out_and_trains_as_it_would_have():
    config = config_of(teacher={"pretrain": PRETRAIN})
    own = plan.run_settings(config, FINAL["teacher"])
    assert own.network.start_from == "results/pretraining/motions/teacher/seed0/weights.safetensors"
    without = plan.run_settings(config_of(), FINAL["teacher"])
    assert (own.train, own.input) == (without.train, without.input)
    assert own.digest != without.digest


def test_no_choice_is_made_for_pretraining():
    config = config_of(teacher={"pretrain": PRETRAIN}, chosen_by=["sweep"])
    assert plan.choices_of(config, plan.pretraining_of(config, FINAL["teacher"])) == []


def test_an_arm_goes_without_pretraining_but_cannot_have_another():
    teacher = {"pretrain": PRETRAIN}
    config = config_of(teacher=teacher, arms={"teacher_few": {"set": {"teacher.pretrain": None}}})
    assert plan.pretraining_of(config, FINAL["teacher_few"]) is None
    assert plan.pretraining_of(config, FINAL["teacher"]) is not None
    other = {"teacher_few": {"set": {"teacher.pretrain": {"dataset": "ucf50"}}}}
    with pytest.raises(ConfigError, match=r"arms\.teacher_few\.set: teacher\.pretrain: null is all"):
        config_of(teacher=teacher, arms=other)


def test_pretraining_is_checked_before_anything_runs():
    with pytest.raises(
        ConfigError, match=r"teacher\.pretrain\.dataset: 'motion' is not defined; did you mean 'motions'"
    ):
        config_of(teacher={"pretrain": {"dataset": "motion"}})
    with pytest.raises(ConfigError, match=r"teacher\.pretrain\.set: teacher\.train\.epochs"):
        config_of(teacher={"pretrain": {"dataset": "motions", "set": {"teacher.train.epochs": 0}}})
