"""The two protocols: what a preset sets, what wins over it, and that its data say what the keys do."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
import yaml

from dvfl import plan
from dvfl.config import DEFAULT_CONFIG, ConfigError, check_config, flatten, load_config, merge, network_train
from dvfl.config.protocols import effect_trials, findings, measured
from dvfl.report.protocol import as_markdown, departures
from dvfl.run import Run

FOLDER = DEFAULT_CONFIG.parent
RAW: dict[str, Any] = {
    "datasets": ["mine"],
    "dataset_definitions": {"mine": {"kind": "folder", "root": "/clips"}},
    "teacher": {"model": "video_focalnet_small"},
    "student": {"model": "vfl_net"},
    "arms": {
        "teacher": {"network": "teacher"},
        "student": {"network": "student"},
        "distilled": {"network": "student", "distil_from": "teacher"},
    },
}
STUDY = {"arms": ["student", "distilled"], "differences": True, "evaluate_on": "test", "seeds": [0, 1]}
# FACTS of the released code: every finding has its entry.
IDS = [
    "kd_not_a_divergence",
    "teacher_head_random",
    "no_weight_decay_at_all",
    "kd_resumes_baseline",
    "unequal_drop_path",
    "alpha_unequal",
    "hmdb_teacher_classes",
    "hmdb_labels_shifted",
    "mixup_prob_ignored",
    "leaky_split",
    "eval_drops_clips",
    "random_multiview",
    "eval_flag_swallowed",
    "selection_on_test",
    "macs_called_flops",
    "does_not_run",
]


def config_of(**values: Any):
    return check_config(merge(RAW, values))


def value(config, key: str) -> Any:
    return reduce(lambda place, part: place[part], key.split("."), config.model_dump(mode="json"))


def settings(config, arm: str, dataset: str = "mine"):
    return plan.run_settings(config, Run(dataset, "split1", config.protocol, arm, 0))


# -------------------------------------------------------------------------------------------------------- the preset


def test_every_finding_is_there_once():
    assert [finding.id for finding in findings()] == IDS
    assert all(finding.finding.endswith(".") and finding.where for finding in findings())


@pytest.mark.parametrize("protocol", ["as_described", "as_released"])
def test_a_protocol_sets_all_of_its_keys(protocol):
    config = config_of(protocol=protocol)
    for finding in findings():
        for key, expected in finding.values(protocol).items():
            assert value(config, key) == expected, key
    assert list(departures(config)) == []


def test_the_protocols_differ_in_every_key():
    for finding in findings():
        for key, released in finding.values("as_released").items():
            assert finding.values("as_described").get(key) != released


def test_as_described_is_what_the_keys_are_by_default():
    described = config_of()
    defaults = {
        "train": described.train.model_fields,
        "distill": described.distill.model_fields,
        "evaluate": described.evaluate.model_fields,
        "student": described.student.model_fields,
    }
    for finding in findings():
        for key, expected in finding.values("as_described").items():
            section, name = key.split(".")
            assert defaults[section][name].default == expected, key


def test_a_key_that_a_config_file_sets_wins():
    values = {"distill": {"divergence": "reverse_kl"}, "train": {"report_epoch": "last"}}
    config = config_of(protocol="as_released", **values)
    assert (config.distill.divergence, config.train.report_epoch) == ("reverse_kl", "last")
    assert config.distill.teacher_head == "random"  # the others stand
    said = list(departures(config))
    assert len(said) == 2 and said[0].startswith("distill.divergence is reverse_kl, not the protocol's released_code")


def test_the_projects_own_files_leave_the_presets_keys_alone():
    keys = {key for finding in findings() for side in ("as_described", "as_released") for key in finding.values(side)}
    keys |= {key for finding in findings() for key in finding.yields_to}
    for name in ("config.yaml", "paper.yaml", "real_clips.yaml"):
        assert not keys & set(flatten(yaml.safe_load((FOLDER / name).read_text()))), name


def test_the_paper_runs_as_released():
    config = load_config(DEFAULT_CONFIG, FOLDER / "paper.yaml", values={"protocol": "as_released"})
    runs = plan.final_runs(config)
    assert {run.split for run in runs if run.dataset == "ucf101"} == {"released"}
    assert "results/runs/ucf101/released/as_released/distilled/seed0" in {str(run) for run in runs}
    alphas = {run.dataset: plan.run_settings(config, run).distill.alpha for run in runs if run.arm == "distilled"}
    assert alphas == {"ucf50": 0.2, "ucf101": 0.3, "hmdb51": 0.2, "ssv2": 0.2, "kinetics400": 0.2}


def test_the_released_split_needs_its_lists_before_any_work():
    without = {"protocol": "as_released", "datasets": ["ucf101"], "dataset_definitions": {"ucf101": {"lists": None}}}
    with pytest.raises(ConfigError, match=r"dataset_definitions\.ucf101: splits: 'released' needs .* lists\.released"):
        load_config(DEFAULT_CONFIG, values=without)


# ------------------------------------------------------------------------------------------- what the single keys do


def test_alpha_of_a_data_set_stands_over_alpha_and_under_what_an_arm_or_a_config_file_sets():
    by_dataset = {"distill": {"alpha_by_dataset": {"mine": 0.3}}}
    assert settings(config_of(**by_dataset), "distilled").distill.alpha == 0.3
    of_arm = {"arms": {"distilled": {"set": {"distill.alpha": 0.7}}}}
    assert settings(config_of(**by_dataset, **of_arm), "distilled").distill.alpha == 0.7
    config = config_of(protocol="as_released", distill={"alpha": 0.5})
    assert config.distill.alpha_by_dataset == {}


def test_stochastic_depth_is_the_networks_own_unless_given_and_may_differ_for_labels_alone():
    def rates(config):
        return [settings(config, arm).network.model_overrides.get("drop_path_rate") for arm in ("student", "distilled")]

    assert rates(config_of()) == [None, None]
    assert rates(config_of(protocol="as_released")) == [0.2, None]  # vfl_net's own is 0.1
    assert rates(config_of(protocol="as_released", student={"drop_path": 0.1})) == [0.2, 0.1]
    own = {"model_overrides": {"drop_path_rate": 0.4}}
    assert rates(config_of(protocol="as_released", student=own)) == [0.4, 0.4]
    assert rates(config_of(student=own | {"drop_path": 0.3})) == [0.3, 0.3]
    assert settings(config_of(student={"drop_path": 0.1}), "teacher").network.model_overrides == {}


def test_selection_on_test_is_refused_as_described_outside_studies_on_test():
    on_test = {"train": {"report_epoch": "best_on_test"}}
    point = {"arms": ["student"], "points": [{"train.report_epoch": "best_on_test"}]}
    refused = [
        on_test,
        {"student": on_test},
        {"arms": {"student": {"set": {"train.report_epoch": "best_on_test"}}}},
        {"ablation": {"studies": {"own": point}}},
    ]
    for values in refused:
        with pytest.raises(ConfigError, match="best_on_test chooses on test, which protocol as_described never does"):
            config_of(**values)
    config_of(ablation={"studies": {"own": point | {"evaluate_on": "test"}}})
    config_of(protocol="as_released", **on_test)


def test_the_papers_learning_rate_is_scaled_by_the_clips_of_a_step():
    config = load_config(DEFAULT_CONFIG, FOLDER / "paper.yaml")
    for role in ("teacher", "student"):
        train = network_train(config, role)
        assert train.peak_lr == pytest.approx(0.0046875)
        assert train.model_copy(update={"accumulate": 6}).peak_lr == pytest.approx(0.009375)
        assert train.model_copy(update={"lr_batch": None}).peak_lr == 0.1


def test_the_papers_recipe_is_the_released_one():
    config = load_config(DEFAULT_CONFIG, FOLDER / "paper.yaml")
    recipe = {
        "input": {
            "frames": 8,
            "short_side": 256,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "img_size": 224,
            "crop_area": (0.08, 1),
            "crop_aspect": (3 / 4, 4 / 3),
        }
        | {"flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
        | {"greyscale": 0.2, "views": None},
        "train": {
            "epochs": 120,
            "batch_size": 8,
            "accumulate": 3,
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr_floor": 0.01,
        }
        | {"warmup": 1 / 6, "clip_grad_norm": 5, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1, "cutmix_share": 0.5}
        | {"weight_decay": 1e-4, "decay_applies_to": "matrices", "mix_probability": 0.5, "precision": "auto"},
        "distill": {"alpha": 0.2, "temperature": 10, "t_squared": True},
        "evaluate": {"clips": 1, "crops": 1},
    }
    for section, values in recipe.items():
        for key, expected in values.items():
            assert getattr(getattr(config, section), key) == pytest.approx(expected), key
    depths = {"teacher": 0.5, "teacher_small": 0.3, "teacher_tiny": 0.2, "student": 0.1, "distilled": 0.1}
    for arm, rate in depths.items():
        run = next(run for run in plan.final_runs(config) if run.arm == arm)
        assert plan.run_settings(config, run).network.model_overrides == {"drop_path_rate": rate}


# ------------------------------------------------------------------------------------------------------- the effects


def test_every_finding_that_keys_make_has_an_effect_to_measure():
    assert [finding.id for finding in measured()] == [finding.id for finding in findings() if finding.runs]


def test_a_trial_differs_from_its_reference_in_its_finding_alone():
    trials = effect_trials()
    for finding in measured():
        arm, switched = trials[finding.id]
        other_arm, reference = trials[finding.reference]
        changed = {key for key in switched if switched[key] != reference.get(key)}
        assert arm == other_arm
        assert changed == set(finding.effect.switched or finding.values("as_released"))


def test_the_study_trains_each_arm_where_it_matters_and_nothing_twice():
    config = config_of(ablation={"studies": {"effects": STUDY}})
    runs = plan.trial_runs(config, "mine", "effects")
    assert len(runs) == 2 * len(effect_trials())
    arms = {run.trial: run.arm for run in runs if run.study}
    assert {trial for trial, arm in arms.items() if arm == "student"} == {
        "reference.unequal_drop_path",
        "unequal_drop_path",
    }
    leaky = next(run for run in runs if run.trial == "leaky_split")
    assert leaky.split == "clips1" and plan.teacher_of(config, leaky).split == "clips1"
    anew = {run.trial for run in runs if run.study and plan.tested_anew(config, run)}
    assert anew == {"eval_drops_clips", "reference.random_multiview", "random_multiview"}
    # The plain reference is the distilled arm itself where it has that seed.
    assert str(runs[0]) == "results/runs/mine/split1/as_described/distilled/seed0"


def test_a_study_of_differences_has_no_points_of_its_own_and_is_evaluated_on_test():
    for values in ({"points": [{"distill.alpha": 0.1}]}, {"evaluate_on": "validation"}):
        with pytest.raises(ConfigError, match=r"ablation\.studies\.effects"):
            config_of(ablation={"studies": {"effects": STUDY | values}})
    with pytest.raises(ConfigError, match="'effects' has a table of its own"):
        config_of(ablation={"studies": {"effects": STUDY}, "run": ["effects"]})


# ------------------------------------------------------------------------------------------------------------ printing


def test_both_protocols_are_printed_side_by_side_within_100_columns(command):
    code, out, err = command("protocol")
    assert code == 0 and "This config: protocol as_described" in err
    assert all(len(line) <= 100 for line in out.splitlines())
    assert all(finding.id in out for finding in findings())
    assert "[released]" in out and "{ucf101: 0.3}" in out


def test_the_markdown_table_has_a_line_for_each_finding(command):
    code, out, _ = command("protocol", "--markdown")
    lines = out.splitlines()
    assert code == 0 and out.strip() == as_markdown()
    assert len(lines) == 2 + len(findings())
    assert {line.count(" | ") for line in lines if not line.startswith("|---")} == {4}
    assert "`train.report_epoch: best_on_test`" in out
