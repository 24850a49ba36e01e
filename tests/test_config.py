"""A wrong config stops before any work, with the key's full path, what was given and what is allowed."""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from dvfl.ablate.trials import study_trials
from dvfl.config import (
    DEFAULT_CONFIG,
    Config,
    ConfigError,
    check_config,
    digest,
    flatten,
    load_config,
    merge,
    network_train,
    override,
)
from dvfl.config.loading import read_yaml
from dvfl.models import VideoFocalNet
from dvfl.models.overrides import ELSEWHERE
from dvfl.models.registry import VIDEO_FOCALNET_ARGUMENTS

FOLDER = DEFAULT_CONFIG.parent
RAW: dict[str, Any] = {
    "datasets": ["mine"],
    "dataset_definitions": {"mine": {"kind": "folder", "root": "/clips"}},
    "teacher": {"model": "video_focalnet_small"},
    "student": {"model": "video_focalnet_tiny"},
    "arms": {
        "teacher": {"network": "teacher"},
        "student": {"network": "student"},
        "distilled": {"network": "student", "distil_from": "teacher"},
    },
    "ablation": {"studies": {"sweep": {"arms": ["distilled"], "grid": {"distill.alpha": [0.2, 0.8]}}}},
}


def nested(key: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for a/b: a key may itself have dots."""
    for part in reversed(key.split("/")):
        value = {part: value}
    return value


def raw(key: str, value: Any) -> dict[str, Any]:
    return merge(RAW, nested(key, value))


def complaint(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        check_config(values)
    return str(error.value)


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    """The model and all models that its fields hold, at any depth."""

    def inside(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return sections(annotation)
        return [found for part in get_args(annotation) for found in inside(part)]

    found = [model, *(s for field in model.model_fields.values() for s in inside(field.annotation))]
    return list(dict.fromkeys(found))


def test_a_sound_config_passes_with_its_defaults():
    config = check_config(RAW)
    assert config.distill.temperature == 10.0
    assert config.train.optimizer == "adamw"
    assert "motions" in config.dataset_definitions  # the registry's are known as well


@pytest.mark.parametrize(
    "file", sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "protocols.yaml"}), ids=lambda file: file.name
)
def test_every_config_of_the_project_loads(file):
    if file.name == "datasets.yaml":
        load_config(DEFAULT_CONFIG, registry=file)
        return
    raw = yaml.safe_load(file.read_text())
    if file.name == "weights.yaml":
        assert load_config(DEFAULT_CONFIG).weights_definitions.keys() == raw.keys()
        return
    own = raw.get("dataset_definitions", {})
    rootless = any(
        own.get(name, {}).get("kind") == "folder" and "root" not in own[name] for name in raw.get("datasets", [])
    )
    config = load_config(DEFAULT_CONFIG, file, values={"root": "/clips"} if rootless else {})
    loaded = flatten(config.model_dump(mode="json"))
    for key, value in flatten({part: raw.get(part, {}) for part in ("train", "input", "distill")}).items():
        assert value == {} or loaded[key] == value, f"{key} of {file.name} does not arrive"


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_is_described(section):
    bare = [
        name
        for name, field in section.model_fields.items()
        if not field.description
        and not any(issubclass(s, BaseModel) for s in [field.annotation] if isinstance(s, type))
    ]
    assert not bare


def test_the_walk_over_the_sections_finds_the_deep_ones():
    names = {section.__name__ for section in sections()}
    assert {"Config", "MotionsConfig", "StudyConfig", "ArmConfig", "DistillConfig"} <= names


# ----------------------------------------------------------------------------------------------------- wrong keys


@pytest.mark.parametrize(
    ("key", "path", "nearest"),
    [
        ("trian", "trian", "train"),
        ("train/epoch", "train.epoch", "epochs"),
        ("train/warm_up", "train.warm_up", "warmup"),
        ("distill/temprature", "distill.temprature", "temperature"),
        ("input/img_sise", "input.img_sise", "img_size"),
        ("evaluate/crop", "evaluate.crop", "crops"),
        ("tracking/url", "tracking.url", "uri"),
        ("dataset_definitions/mine/split_sed", "dataset_definitions.mine.split_sed", "split_seed"),
        ("dataset_definitions/motions/split_sed", "dataset_definitions.motions.split_sed", "split_seed"),
        (
            "dataset_definitions/motions/motions/test_group",
            "dataset_definitions.motions.motions.test_group",
            "test_groups",
        ),
        ("arms/student/netwrok", "arms.student.netwrok", "network"),
        ("arms/student/distill_from", "arms.student.distill_from", "distil_from"),
        ("ablation/studdies", "ablation.studdies", "studies"),
        ("ablation/studies/sweep/evaluate", "ablation.studies.sweep.evaluate", "evaluate_on"),
        ("teacher/modell", "teacher.modell", "model"),
        ("teacher/train/epoch", "teacher.train.epoch", "epochs"),
        ("student/train/learning_rates", "student.train.learning_rates", None),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_one(key, path, nearest):
    line = complaint(raw(key, 1))
    assert line.startswith(f"{path}: there is no such key")
    assert "\n" not in line
    if nearest:
        assert f"did you mean {nearest!r}" in line
    else:
        assert "known: " in line and "lr" in line


def test_a_data_set_called_like_a_key_gets_the_suggestions_of_a_data_set():
    values = merge(RAW, {"dataset_definitions": {"root": {"kind": "folder", "root": "/x", "min_frame": 2}}})
    assert "did you mean 'min_frames'" in complaint(values)


# --------------------------------------------------------------------------------------------------- wrong values


def test_numbers_are_taken_as_yaml_has_them():
    values = yaml.safe_load("{train: {lr: 1e-3, weight_decay: 1.5e2, mixup: 1}, input: {crop_area: [1e-1, 1]}}")
    assert values["train"]["lr"] == "1e-3"  # what PyYAML makes of it
    config = check_config(merge(RAW, values))
    assert (config.train.lr, config.train.weight_decay, config.train.mixup) == (0.001, 150.0, 1.0)
    assert config.input.crop_area == (0.1, 1.0)
    assert network_train(override(config, {"student.train.lr": "2e-3"}), "student").lr == 0.002


def test_numbers_are_numbers_in_grids_too():
    """There, no type says what a value is to be; as text, 1e-1 and 0.1 would be two trials."""
    study = {"arms": ["distilled"], "grid": {"distill.alpha": ["1e-1", 0.1, "5e-1"]}}
    config = check_config(merge(RAW, {"ablation": {"studies": {"mine": study}}}))
    assert list(study_trials(config.ablation.studies["mine"])) == ["alpha=0.1", "alpha=0.5"]


def test_arguments_of_a_videofocalnet_are_told_without_torch():
    known = set(inspect.signature(VideoFocalNet).parameters) - set(ELSEWHERE)
    assert set(VIDEO_FOCALNET_ARGUMENTS) == known
    code = (
        "import sys; from dvfl.models.overrides import unknown_override as u; "
        "assert u('vfl_net', {'embed_dims': 7})[0] == 'embed_dims' and u('vfl_net', {'depths': 7}) is None; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mappings_may_be_merged_from_two_others(tmp_path):
    file = tmp_path / "merged.yaml"
    file.write_text("a: &a {epochs: 3}\nb: &b {lr: 1e-2}\ntrain:\n  <<: *a\n  <<: *b\n")
    assert read_yaml(file)["train"] == {"epochs": 3, "lr": 0.01}


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("distill/alpha", 1.5, "less than or equal to 1"),
        ("distill/alpha", -0.1, "greater than or equal to 0"),
        ("distill/temperature", 0, "greater than 0"),
        ("distill/divergence", "forward", "'forward_kl', 'reverse_kl', 'symmetric_kl', "),
        ("input/frames", 0, "greater than or equal to 1"),
        ("input/crop_area", [1.0, 0.5], "the smaller first"),
        ("input/views", 0, "greater than or equal to 1"),
        ("input/interpolation", "nearest", "'bilinear' or 'bicubic'"),
        ("input/mean", [0.5, 0.5], "needs three numbers, of red, green and blue"),
        ("input/mean", 0.5, "needs three numbers, of red, green and blue"),
        ("input/std", [0.2, 0.2, 0.2, 0.2], "needs three numbers, of red, green and blue"),
        ("evaluate/drop_last", True, "valid integer"),  # it counts clips
        ("evaluate/drop_last", 1, "greater than or equal to 2"),
        ("train/epochs", "ten", "valid integer"),
        ("train/epochs", 2.5, "integer"),
        ("train/epochs", True, "valid integer"),
        ("train/epochs", "3", "valid integer, not text"),
        ("train/lr", float("inf"), "finite number"),
        ("train/lr", "0.1", "valid number, not text"),
        ("train/clip_grad_norm", float("inf"), "finite number"),
        ("train/compile", 1, "valid boolean"),
        ("train/compile", "yes", "valid boolean, not text"),
        ("train/device", "gpu", "is not a device; use auto, cpu, cuda or cuda:<n>"),
        ("train/device", "cuda:one", "is not a device"),
        ("distill/alpha", True, "valid number"),
        ("distill/temperature", float("inf"), "finite number"),
        ("evaluate/crops", True, "1 or 3"),
        ("dataset_definitions/mine/root", 3, "should be the path of a folder"),
        ("train/lr", 0, "greater than 0"),
        ("train/label_smoothing", 1.0, "less than 1"),
        ("train/workers", -1, "greater than or equal to 0"),
        ("train/precision", "half", "'auto', 'float32', 'bfloat16' or 'float16'"),
        ("seeds", [], "at least 1"),
        ("seeds", [-1], "greater than or equal to 0"),
        ("seeds", ["1"], "valid integer, not text"),
        ("seeds", [True], "valid integer"),
        ("datasets", "mine", "valid list"),
        ("evaluate/crops", 2, "1 or 3"),
        ("protocol", "as_imagined", "'as_described'"),
        ("teacher/model", "video_focalnet_tinny", "did you mean 'video_focalnet_tiny'"),
        ("dataset_definitions/mine/group", "(?P<grp>.+)", "named group"),
        ("dataset_definitions/mine/group", "(", "not a regular expression"),
        ("dataset_definitions/mine/kind", "zip", "'folder' or 'motions'"),
        ("dataset_definitions/mine/test_fraction", 0.9, "less than or equal to 0.5"),
        ("arms/student/network", "pupil", "'teacher' or 'student'"),
        ("ablation/studies/sweep/evaluate_on", "train", "'validation' or 'test'"),
    ],
)
def test_an_impossible_value_is_shown_with_what_is_allowed(key, value, allowed):
    line = complaint(raw(key, value))
    assert line.startswith(key.replace("/", "."))
    assert allowed in line
    shown = value[0] if key == "seeds" and value else value
    assert repr(shown) in line


@pytest.mark.parametrize(
    ("key", "wrong", "said"),
    [
        ("std", 0.0, "greater than 0"),
        ("std", -0.2, "greater than 0"),
        ("std", 58.395, "less than or equal to 1"),  # of levels up to 255
        ("std", "a", "valid number"),
        ("mean", 123.675, "less than or equal to 1"),
        ("mean", float("nan"), ""),
        ("mean", None, "valid number"),
    ],
)
def test_one_colour_that_cannot_be_normalised_by_is_named(key, wrong, said):
    line = complaint(raw(f"input/{key}", [0.5, wrong, 0.5]))
    assert line.startswith(f"input.{key}.1: ") and said in line and repr(wrong) in line


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": {"mixup": 0.8, "batch_size": 7}}, "even batch_size, not 7"),
        ({"train": {"cutmix": 1.0, "batch_size": 1}}, "even batch_size, not 1"),
        ({"input": {"img_size": 64, "short_side": 48}}, "short_side 48 is smaller than img_size 64"),
        ({"dataset_definitions": {"mine": {"kind": "motions"}}}, "needs the key 'motions'"),
        ({"dataset_definitions": {"mine": {"motions": {}}}}, "belongs to kind 'motions' only"),
        ({"dataset_definitions": {"mine": {"root": None}}}, "dataset_definitions.mine.root is missing"),
        ({"datasets": ["mien"]}, "datasets: 'mien' is not defined; did you mean 'mine'?"),
        ({"arms": {"distilled": {"distil_from": "teecher"}}}, "arms.distilled.distil_from: 'teecher' is not an arm"),
        (
            {"arms": {"again": {"network": "student", "distil_from": "distilled"}}},
            "arms.again.distil_from: 'distilled' is itself distilled",
        ),
        ({"ablation": {"run": ["swep"]}}, "ablation.run: 'swep' is not a study; did you mean 'sweep'?"),
        (
            {"ablation": {"studies": {"sweep": {"arms": ["pupil"]}}}},
            "ablation.studies.sweep.arms: 'pupil' is not an arm",
        ),
        ({"ablation": {"studies": {"sweep": {"grid": None}}}}, "ablation.studies.sweep"),
        ({"ablation": {"studies": {"sweep": {"grid": {"distill.alpha": []}}}}}, "without values"),
        ({"ablation": {"studies": {"sweep": {"points": [{}]}}}}, "without keys"),
        ({"chosen_by": ["swep"]}, "chosen_by: 'swep' is not a study; did you mean 'sweep'?"),
        (
            {"chosen_by": ["sweep"], "ablation": {"studies": {"sweep": {"evaluate_on": "test"}}}},
            "test chooses nothing",
        ),
        ({"arms": {"a/b": {"network": "student"}}}, "arms.a/b"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, said):
    assert said in complaint(merge(RAW, values))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seeds", [0, 1, 0]),
        ("arms/student/seeds", [3, 3]),
        ("ablation/studies/sweep/seeds", [0, 0]),
        ("ablation/studies/sweep/arms", ["distilled", "distilled"]),
        ("ablation/run", ["sweep", "sweep"]),
        ("chosen_by", ["sweep", "sweep"]),
        ("datasets", ["mine", "mine"]),
        ("dataset_definitions/mine/splits", ["fold*of3", "fold2of3"]),
        ("profile/batch_sizes", [4, 4]),
    ],
)
def test_what_is_named_twice_is_refused(key, values):
    line = complaint(raw(key, values))
    assert line.startswith(f"{key.replace('/', '.')}: names {values[-1]!r} twice; leave one of them out")
    assert "\n" not in line


def test_each_of_several_mistakes_has_a_line_of_its_own():
    values = merge(RAW, {"train": {"epoch": 3, "lr": -1}, "distill": {"alpha": 2}, "sead": [1]})
    lines = complaint(values).splitlines()
    assert [line.split(":")[0] for line in lines] == ["train.lr", "train.epoch", "distill.alpha", "sead"]


def test_a_missing_section_is_named():
    values = copy.deepcopy(RAW)
    del values["teacher"], values["arms"]["student"]["network"]
    assert complaint(values).splitlines() == ["teacher: is missing", "arms.student.network: is missing"]


@pytest.mark.parametrize(
    ("values", "place", "said"),
    [
        ({"arms": {"student": {"set": {"distill.alpha": 3}}}}, "arms.student.set: distill.alpha", "less than or equal"),
        ({"arms": {"student": {"set": {"distil.alpha": 0.3}}}}, "arms.student.set: distil.alpha", "'distill'"),
        ({"arms": {"student": {"set": {"train.epoch": 3}}}}, "arms.student.set: train.epoch", "'epochs'"),
        (
            {"arms": {"student": {"set": {"student.train.epoch": 3}}}},
            "arms.student.set: student.train.epoch",
            "'epochs'",
        ),
        (
            {"ablation": {"studies": {"sweep": {"grid": {"distill.alpa": [0.1]}}}}},
            "ablation.studies.sweep: distill.alpa",
            "'alpha'",
        ),
        (
            {"ablation": {"studies": {"sweep": {"grid": {"distill.alpha": [0.1, 7]}}}}},
            "ablation.studies.sweep: distill.alpha",
            "given: 7",
        ),
        (
            {"ablation": {"studies": {"sweep": {"points": [{"distill.temperature": -1}]}}}},
            "ablation.studies.sweep: distill.temperature",
            "greater than 0",
        ),
        (
            {"ablation": {"studies": {"sweep": {"set": {"student.train.lr": 0}}}}},
            "ablation.studies.sweep",
            "student.train.lr",
        ),
    ],
)
def test_keys_of_arms_and_studies_are_checked_before_anything_runs(values, place, said):
    line = complaint(merge(RAW, values))
    assert line.startswith(place)
    assert said in line


@pytest.mark.parametrize(
    ("model", "key", "said"),
    [
        ("vfl_net", "embed_dims", "there is no such argument of vfl_net; did you mean 'embed_dim'?"),
        ("vfl_net", "num_classes", "is how many classes the data set has; leave it out"),
        ("vfl_net", "num_frames", "is set by input.frames; leave it out here"),
        ("timm/test_resnet", "img_size", "is set by input.img_size; leave it out here"),
        ("timm/test_resnet", "drop_pathrate", "there is no such argument of timm/test_resnet"),
        ("r3d_18", "zero_init", "there is no such argument of r3d_18"),
    ],
)
def test_an_argument_that_a_model_does_not_take_is_refused_before_anything_runs(model, key, said):
    values = {"student": {"model": model, "model_overrides": {key: 1}}}
    assert complaint(merge(RAW, values)) == f"student.model_overrides.{key}: {said}"


def test_arguments_that_a_model_takes_pass_and_those_of_trials_are_checked_too():
    for model, overrides in (
        ("vfl_net", {"embed_dim": 24, "use_postln": True}),
        ("timm/test_resnet", {"drop_rate": 0.1}),
        ("r3d_18", {"zero_init_residual": True}),
    ):
        check_config(merge(RAW, {"student": {"model": model, "model_overrides": overrides}}))
    trial = {"ablation": {"studies": {"sweep": {"points": [{"student.model_overrides.dephts": [1, 1]}]}}}}
    assert complaint(merge(RAW, trial)) == (
        "ablation.studies.sweep: student.model_overrides.dephts: there is no such argument of video_focalnet_tiny; "
        "did you mean 'depths'?"
    )


# ------------------------------------------------------------------------------------------------ merging, overriding


def test_later_files_win_and_leave_the_rest(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml.safe_dump(merge(RAW, {"train": {"epochs": 5, "lr": 0.1}, "seeds": [0, 1]})))
    second.write_text("train: {epochs: 7}\nseeds: [4]\n")
    config = load_config(first, second)
    assert (config.train.epochs, config.train.lr, config.seeds) == (7, 0.1, [4])
    assert load_config(second, first).train.epochs == 5
    assert load_config(first, second, values={"train": {"epochs": 9}}).train.epochs == 9


def test_merging_leaves_what_it_merges_as_it_was():
    base, over = {"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}}
    merged = merge(base, over)
    merged["a"]["c"].append(3)
    assert (base, over) == ({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}})


def test_null_drops_an_arm_a_study_and_a_key_of_a_grid():
    values = merge(RAW, {"arms": {"student": None}, "ablation": {"studies": {"sweep": None}}})
    config = check_config(values)
    assert list(config.arms) == ["teacher", "distilled"]
    assert config.ablation.studies == {}
    grid = {"ablation": {"studies": {"sweep": {"grid": {"distill.alpha": None, "distill.temperature": [1]}}}}}
    assert check_config(merge(RAW, grid)).ablation.studies["sweep"].grid == {"distill.temperature": [1]}


def test_null_is_a_value_where_a_key_may_be_null():
    values = merge(RAW, {"input": {"views": None}, "arms": {"student": {"set": {"student.clips_per_class": None}}}})
    config = check_config(values)
    assert config.input.views is None
    assert config.arms["student"].set == {"student.clips_per_class": None}


def test_root_is_short_for_the_only_folder_data_set():
    values = merge(RAW, {"root": "/elsewhere", "datasets": ["motions", "mine"]})
    config = check_config(values)
    assert config.dataset_definitions["mine"].root == Path("/elsewhere")
    assert config.dataset_definitions["motions"].root != Path("/elsewhere")


@pytest.mark.parametrize("datasets", [["motions"], ["mine", "other"]])
def test_root_is_refused_where_it_is_not_clear_whose_it_is(datasets):
    other = {"dataset_definitions": {"other": {"kind": "folder", "root": "/other"}}}
    line = complaint(merge(merge(RAW, other), {"root": "/elsewhere", "datasets": datasets}))
    assert line.startswith("root: ")
    assert "dataset_definitions.<name>.root" in line


def test_override_sets_dotted_keys_and_leaves_the_config_alone():
    config = check_config(RAW)
    changed = override(
        config, {"distill.alpha": 0.9, "student.train.epochs": 3, "student.model_overrides.embed_dim": 8}
    )
    assert changed.distill.alpha == 0.9
    assert network_train(changed, "student").epochs == 3
    assert network_train(changed, "teacher").epochs == config.train.epochs
    assert changed.student.model_overrides == {"embed_dim": 8}
    assert config.distill.alpha == 0.2
    assert config.student.train == {}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("distill.alhpa", "did you mean 'alpha'"),
        ("distil.alpha", "did you mean 'distill'"),
        ("distill.alpha.more", "there is no such key"),
        ("nothing_like_it", "there is no such key"),
    ],
)
def test_override_refuses_a_key_that_is_not_there(key, said):
    with pytest.raises(ConfigError) as error:
        override(check_config(RAW), {key: 1})
    assert str(error.value).startswith(f"{key}: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("- a\n- b\n", "must be `key: value` pairs"), ("a: [1", "not valid YAML"), ("\xff\xfe\x00", "give a YAML file")],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, said):
    file = tmp_path / "odd.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(file) in str(error.value) and said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", ":3: is not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", ":2: is not valid YAML: found character '\\t' that cannot start any token"),
        ("a: \x07\n", ": is not valid YAML: unacceptable character"),
        ("seeds: [0]\ntrain: {epochs: 3}\nseeds: [1]\n", ":3: is not valid YAML: 'seeds' stands there a second time"),
        ("train:\n  lr: 1\n  lr: 2\n", ":3: is not valid YAML: 'lr' stands there a second time; leave one"),
    ],
)
def test_what_is_no_yaml_is_shown_in_one_line(tmp_path, content, said):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{file}{said}"), line


def test_a_key_may_replace_what_a_merge_brings(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: &a {epochs: 1}\nb: &b {<<: *a, epochs: 2}\nc: {<<: *b, epochs: 3}\nd: {<<: *b}\n")
    assert read_yaml(file) == {name: {"epochs": epochs} for name, epochs in zip("abcd", (1, 2, 3, 2), strict=True)}


def test_a_config_file_that_is_not_there_or_is_a_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_an_empty_file_changes_nothing(tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing yet\n")
    assert load_config(DEFAULT_CONFIG, empty) == load_config(DEFAULT_CONFIG)


def test_a_checked_config_cannot_change():
    with pytest.raises(ValueError, match="frozen"):
        check_config(RAW).train.epochs = 3


def test_digest_ignores_the_order_of_keys_and_nothing_else():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    assert digest({"a": 1}) != digest({"a": "1"})
    assert digest({"a": None}) != digest({})


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}


# ------------------------------------------------------------------------------------------------- weights by name


def test_weights_are_given_by_path_or_by_a_name_that_is_known():
    for value in ("focalnet_tiny_srf", "mine.pth", "/weights/mine"):
        assert load_config(DEFAULT_CONFIG, values={"teacher": {"start_from": value}}).teacher.start_from == value
    for key in ("start_from", "weights"):
        with pytest.raises(ConfigError, match=rf"student\.{key}: 'focalnet_tiny'.* did you mean 'focalnet_tiny_srf'"):
            load_config(DEFAULT_CONFIG, values={"student": {key: "focalnet_tiny"}})
    arm = {"arms": {"student": {"set": {"student.start_from": "focalnet_huge_srf"}}}}
    with pytest.raises(ConfigError, match=r"arms\.student\.set: student\.start_from: 'focalnet_huge_srf'"):
        load_config(DEFAULT_CONFIG, values=arm)


def test_an_address_of_weights_is_theirs_by_name_wherever_it_stands():
    one, other = "https://example.org/a/big.pth", "https://example.org/b/big.pth?download=1"
    values = {
        "teacher": {"weights": one},
        "arms": {"student": {"set": {"student.start_from": other}}},
        "ablation": {
            "studies": {"sweep": {"arms": ["student"], "grid": {"student.start_from": [one, other, None]}}},
            "tune": {"search": {"arm": "student", "space": {}}},
        },
    }
    choice = {"type": "categorical", "choices": [one, None]}
    values["ablation"]["tune"]["search"]["space"] = {"student.start_from": choice}
    config = load_config(DEFAULT_CONFIG, values=values)
    (a,), (b,) = (
        [name for name, weights in config.weights_definitions.items() if weights.urls == [url]] for url in (one, other)
    )
    assert a != b and all(
        re.fullmatch(r"big-[0-9a-f]{8}\.pth", config.weights_definitions[name].file) for name in (a, b)
    )
    assert config.teacher.weights == a and config.arms["student"].set == {"student.start_from": b}
    assert config.ablation.studies["sweep"].grid == {"student.start_from": [a, b, None]}
    assert config.ablation.tune["search"].space["student.start_from"].choices == [a, None]


def test_a_user_adds_weights_and_no_two_share_a_file():
    mine = {"file": "mine.pth", "urls": ["https://example.org/mine.pth"], "layout": "video"}
    mine |= {"licence": "mine", "citation": "me"}
    config = load_config(DEFAULT_CONFIG, values={"weights_definitions": {"mine": mine}})
    assert {"mine", "focalnet_tiny_srf"} <= set(config.weights_definitions)
    mine["file"] = "focalnet_tiny_srf.pth"
    with pytest.raises(ConfigError, match="that of another entry"):
        load_config(DEFAULT_CONFIG, values={"weights_definitions": {"mine": mine}})


def test_the_paper_starts_from_imagenet_and_its_sizes_from_theirs():
    config = load_config(DEFAULT_CONFIG, FOLDER / "paper.yaml")
    assert (config.teacher.start_from, config.student.start_from) == ("focalnet_base_srf", "focalnet_tiny_srf")
    for size in ("small", "tiny"):
        own = override(config, config.arms[f"teacher_{size}"].set).teacher
        assert (own.model, own.start_from) == (f"video_focalnet_{size}", f"focalnet_{size}_srf")


# ---------------------------------------------------------------------------------- parameters of single divergences


def with_study(values: dict[str, Any], **distill: Any) -> dict[str, Any]:
    return merge(RAW, {"distill": distill, "ablation": {"studies": {"sweep": {"grid": {}} | values}}})


def without_grid(values: dict[str, Any]) -> dict[str, Any]:
    raw = with_study(values)
    raw["ablation"]["studies"]["sweep"]["grid"] = {}
    return raw


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (merge(RAW, {"distill": {"dkd": {"beta": 2}}}), "distill.dkd"),
        (
            merge(RAW, {"distill": {"divergence": "dist", "alpha_divergence": {"skew": 0.5}}}),
            "distill.alpha_divergence",
        ),
        (merge(RAW, {"arms": {"distilled": {"set": {"distill.dist.beta": 3}}}}), "arms.distilled.set: distill.dist"),
        (with_study({"set": {"distill.dkd.beta": 2}}), "ablation.studies.sweep.set: distill.dkd"),
        (
            without_grid({"points": [{"distill.divergence": "dist", "distill.dkd.beta": 2}]}),
            "ablation.studies.sweep.points.0: distill.dkd",
        ),
        (
            with_study({"grid": {"distill.divergence": ["cosine", "dist"], "distill.dkd.beta": [1, 2]}}),
            "ablation.studies.sweep.grid: distill.dkd",
        ),
    ],
)
def test_a_parameter_that_nothing_reads_is_refused_where_it_stands(values, place):
    line = complaint(values)
    assert line.startswith(place) and "\n" not in line
    assert "is read by divergence" in line and "set distill.divergence: " in line


@pytest.mark.parametrize(
    "values",
    [
        merge(RAW, {"distill": {"divergence": "dkd", "dkd": {"beta": 2}}}),
        merge(RAW, {"arms": {"distilled": {"set": {"distill.divergence": "dist", "distill.dist.beta": 3}}}}),
        # A base for a sweep over divergences: each reads its own.
        with_study({"grid": {"distill.divergence": ["cosine", "dkd"]}}, dkd={"beta": 2}),
        with_study({"grid": {"distill.divergence": ["forward_kl", "dkd"], "distill.dkd.beta": [1, 2]}}),
        with_study({"points": [{"distill.divergence": "dkd"}], "set": {"distill.dkd.beta": 2}}),
    ],
)
def test_a_parameter_that_something_reads_is_fine(values):
    check_config(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [("dkd/alpha", -1), ("dkd/beta", -1), ("dist/gamma", -1), ("features/weight", -0.5), ("alpha_divergence/skew", 1)],
)
def test_parameters_have_limits(key, value):
    assert complaint(raw(f"distill/{key}", value)).startswith(f"distill.{key.replace('/', '.')}: ")


def test_features_need_the_teacher_in_the_loop():
    stored = {"distill": {"features": {"weight": 1.0}, "targets": "stored"}}
    assert "distill.targets: online" in complaint(merge(RAW, stored))
    for targets in ("auto", "online"):
        config = check_config(merge(RAW, {"distill": {"features": {"weight": 1.0}, "targets": targets}}))
        assert config.distill.in_loop
        with pytest.raises(ConfigError, match="no modulators"):
            override(config, {"distill.targets": "stored"})


@pytest.mark.parametrize("reference", [{"distill.alpha": 0.3}, {"distill.temperature": 4}, {}])
def test_a_reference_is_one_of_the_studys_points(reference):
    line = complaint(with_study({"reference": reference}))
    assert line.startswith("ablation.studies.sweep: has a `reference` that is none of its points")
    check_config(with_study({"reference": {"distill.alpha": 0.8}}))
