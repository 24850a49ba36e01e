"""From YAML files and dotted keys to a checked config; every mistake in one line of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ValidationError

from dvfl.config.divergences import check_parameters
from dvfl.config.measuring import StudyConfig
from dvfl.config.protocols import Protocol, effect_trials, preset
from dvfl.config.schema import Config
from dvfl.config.section import ConfigError, nearest
from dvfl.config.training import TrainConfig
from dvfl.models.overrides import ELSEWHERE, unknown_override
from dvfl.models.registry import check_model
from dvfl.redaction import redact

WEIGHT_KEYS = ("weights", "start_from")
PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = PROJECT / "config/config.yaml"
REGISTRY = PROJECT / "config/datasets.yaml"
WEIGHTS = PROJECT / "config/weights.yaml"


def load_config(*files: str | Path, values: Mapping[str, Any] | None = None, registry: str | Path = REGISTRY) -> Config:
    """Config of YAML `files`, later ones over earlier ones, `values` over all.

    Raises ConfigError with a line for every mistake found.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = merge(merged, read_yaml(file))
    return check_config(merge(merged, values or {}), registry=registry)


def check_config(raw: Mapping[str, Any], registry: str | Path = REGISTRY) -> Config:
    """The checked config of plain values; what the registries of data sets and of weights define is known."""
    raw = _with_numbers(_without_removed(deepcopy(dict(raw))))
    known = read_yaml(registry)
    if (protocol := raw.get("protocol", "as_described")) in get_args(Protocol):
        below = preset(protocol, raw)
        known = merge(known, {k: v for k, v in below.pop("dataset_definitions", {}).items() if k in known})
        raw = merge(below, raw)
    raw["dataset_definitions"] = merge(known, raw.get("dataset_definitions") or {})
    for name, definition in raw["dataset_definitions"].items():
        if name not in known and isinstance(definition, Mapping) and "kind" not in definition:
            raise ConfigError(
                f"dataset_definitions.{name}: there is no data set of that name, and a new one needs `kind`"
                f"{nearest(name, known)}"
            )
    addresses: dict[str, dict[str, Any]] = {}
    raw = _named_weights(raw, addresses)
    raw["weights_definitions"] = merge(read_yaml(WEIGHTS), raw.get("weights_definitions") or {}) | addresses
    root = raw.get("root")
    if root is not None:
        folders = [
            name
            for name in raw.get("datasets") or []
            if (raw["dataset_definitions"].get(name) or {}).get("kind") == "folder"
        ]
        if len(folders) != 1:
            raise ConfigError(
                f"root: stands for the root of the only folder data set that is run; `datasets` has {len(folders)} "
                f"of them, so name the root under dataset_definitions.<name>.root"
            )
        raw["dataset_definitions"][folders[0]]["root"] = root
    config = _validate(Config, raw)
    _check_overrides(config)
    check_parameters(config)
    return config


# Mappings whose entries have names of the user's choice, or stand over a default's: null drops an entry there.
DROPPABLE = {
    ("dataset_definitions",),
    ("weights_definitions",),
    ("arms",),
    ("ablation", "studies"),
    ("ablation", "tune"),
    *((role, mapping) for role in ("teacher", "student") for mapping in ("train", "model_overrides")),
}


def _without_removed(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Entries that a later file set to null are gone: that is how a user's file drops an arm or a study."""
    if not isinstance(value, dict):
        return value
    droppable = path in DROPPABLE or path[-1:] in (("grid",), ("space",))
    return {
        key: _without_removed(item, (*path, str(key)))
        for key, item in value.items()
        if not (droppable and item is None)
    }


def _named_weights(value: Any, defined: dict[str, Any], of_weights: bool = False) -> Any:
    """The config with a name in place of each address of weights; `defined` gets the names' weights_definitions.

    They stand under `weights` and `start_from`, also as the last part of a dotted key, in a grid or among choices.
    """
    if isinstance(value, dict):
        return {
            key: _named_weights(
                item, defined, str(key).split(".")[-1] in WEIGHT_KEYS or (of_weights and key == "choices")
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_named_weights(item, defined, of_weights) for item in value]
    if not (of_weights and isinstance(value, str) and value.startswith(("https://", "http://"))):
        return value
    # Two addresses may end alike.
    path = PurePosixPath(re.sub(r"[^A-Za-z0-9_./-]", "_", urlsplit(value).path))
    name = f"{path.stem.lstrip('_.-') or 'weights'}-{digest(value)[:8]}{path.suffix}"
    defined[name] = {"file": name, "urls": [value], "layout": None, "licence": "not known", "citation": "not known"}
    return name


def with_texts(value: Any, change: Callable[[str], Any]) -> Any:
    """Plain values with each text in them, but for keys, changed."""
    if isinstance(value, Mapping):
        return {key: with_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _with_numbers(value: Any) -> Any:
    """1e-3, which everybody writes and YAML 1.1 takes for text, since it has no point, as a number everywhere."""
    exponent = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    return with_texts(value, lambda text: float(text) if exponent.fullmatch(text) else text)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Mapping of a YAML file; ConfigError where there is none."""
    try:
        content = yaml.load(Path(file).read_text(), _EachKeyOnce)
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such config file") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not a text file; give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(_place_in_yaml(file, error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be `key: value` pairs, not a {type(content).__name__}")
    return _with_numbers(content)


class _EachKeyOnce(yaml.SafeLoader):
    """YAML whose mappings have each key once: of two values, all but the last would be dropped without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"{key.value!r} stands there a second time; leave one of them out"
                    raise yaml.composer.ComposerError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def _place_in_yaml(file: str | Path, error: yaml.YAMLError) -> str:
    """`file:line: what is wrong`, without the excerpt that PyYAML adds."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:  # a character that YAML does not allow
        return f"{file}: is not valid YAML: {' '.join(str(error).split())}"
    return f"{file}:{mark.line + 1}: is not valid YAML: {problem}"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping, as Snakemake merges its config files."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else deepcopy(value)
    return merged


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with dotted keys set: override(config, {"distill.alpha": 0.9}).

    Raises ConfigError for a key that does not exist or a value that is not allowed.
    """
    if not values:
        return config
    raw = config.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        place = raw
        for part in path:
            if not isinstance(place.get(part), dict):
                raise ConfigError(f"{key}: there is no such key{nearest(part, place)}")
            place = place[part]
        # Free-form mappings (train of a network, overrides of a model) may gain keys; sections may not.
        if last not in place and path[-1:] not in (["train"], ["model_overrides"]):
            raise ConfigError(f"{key}: there is no such key{nearest(last, place)}")
        place[last] = _with_numbers(value)
    return _validate(Config, raw)


def network_train(config: Config, role: Literal["teacher", "student"]) -> TrainConfig:
    """`train` with the differences of one network laid over it."""
    own = getattr(config, role).train
    return _validate(TrainConfig, merge(config.train.model_dump(mode="json"), own), prefix=(role, "train"))


def digest(value: Any) -> str:
    """Hash of plain values (16 hex digits); the same for equal values in any order of keys."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= flatten(item, f"{name}.") if isinstance(item, Mapping) and item else {name: item}
    return flat


def _check_overrides(config: Config) -> None:
    """Every arm and every trial must itself be a valid config: find out now, not in the middle of the night."""
    for role in ("teacher", "student"):
        _check_network(config, role)
        if (pretrain := getattr(config, role).pretrain) is not None:
            with _at(f"{role}.pretrain.set"):
                _check_network(override(config, pretrain.set), role)
    for arm, settings in config.arms.items():
        with _at(f"arms.{arm}.set"):
            own = override(config, settings.set)
            train = _check_network(own, settings.network)
            for role in ("teacher", "student"):
                if getattr(own, role).pretrain not in (None, getattr(config, role).pretrain):
                    raise ConfigError(f"{role}.pretrain: null is all that an arm can set it to; all arms share it")
            if config.protocol == "as_described":
                _refuse_selection_on_test(train)
    for name, study in config.ablation.studies.items():
        with _at(f"ablation.studies.{name}.set"):
            base = override(config, study.set)
        for point in _points(study, config.datasets[0]):
            with _at(f"ablation.studies.{name}"):
                for arm in study.arms:
                    train = _check_network(override(base, point), config.arms[arm].network)
                    if config.protocol == "as_described" and study.evaluate_on == "validation":
                        _refuse_selection_on_test(train)
    for name, tune in config.ablation.tune.items():
        with _at(f"ablation.tune.{name}.set"):
            base = override(config, tune.set)
        for key, searched in tune.space.items():
            with _at(f"ablation.tune.{name}.space"):
                _check_searched(config, key, tune.arm)
                for value in searched.examples:
                    train = _check_network(override(base, {key: value}), config.arms[tune.arm].network)
                    if config.protocol == "as_described":
                        _refuse_selection_on_test(train)


def _check_searched(config: Config, key: str, arm: str) -> None:
    """A search must change what its trials compute, and nothing else."""
    settings = config.arms[arm]
    sections = ["input", "train", settings.network] + (["distill"] if settings.distil_from else [])
    if key.split(".")[0] not in sections:
        raise ConfigError(f"{key}: does not change how arm {arm} is trained; search under {', '.join(sections)}")


def _points(study: StudyConfig, dataset: str) -> list[dict[str, Any]]:
    """What a study's trials set, each value at least once."""
    if study.differences:
        trials = (values for _, values in effect_trials().values())
        return [{key.format(dataset=dataset): value for key, value in values.items()} for values in trials]
    return [{key: value} for key, values in study.grid.items() for value in values] + study.points


def _refuse_selection_on_test(train: TrainConfig) -> None:
    if train.report_epoch != "last":
        raise ConfigError(
            f"train.report_epoch: {train.report_epoch} chooses on test, which protocol as_described never does; it is "
            f"there for `protocol: as_released` and for studies with `evaluate_on: test`"
        )


def _check_network(config: Config, role: Literal["teacher", "student"]) -> TrainConfig:
    """A network's training, which is sound; its model takes the clips, as far as can be told without building it."""
    train = network_train(config, role)
    network, clips = getattr(config, role), config.input
    size = {"num_frames": clips.frames, "img_size": clips.img_size}
    for key in network.model_overrides.keys() & ELSEWHERE.keys():
        raise ConfigError(f"{role}.model_overrides.{key}: {ELSEWHERE[key]}")
    try:
        check_model(network.model, **size, **network.model_overrides)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{role}.model: {error}; change {role}.model, its model_overrides, or input") from error
    if network.model_overrides and (unknown := unknown_override(network.model, network.model_overrides, **size)):
        key, known = unknown
        raise ConfigError(
            f"{role}.model_overrides.{key}: there is no such argument of {network.model}{nearest(key, known)}"
        )
    return train


class _at:
    """Puts the place in front of a ConfigError that is raised inside."""

    def __init__(self, place: str):
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigError):
            raise ConfigError("\n".join(f"{self.place}: {line}" for line in str(error).splitlines())) from error


def _validate(model: type[BaseModel], raw: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Any:
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_explain(model, item, prefix) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _explain(model: type[BaseModel], item: Mapping[str, Any], prefix: tuple[str, ...]) -> str:
    """One line for one mistake: the key's full path, what was given, what is allowed."""
    location = tuple(str(part) for part in item["loc"] if part != "[key]")
    if "space" in location:  # of the ranges pydantic names the type as well, which is no key
        location = tuple(part for part in location if part not in ("float", "int", "categorical"))
    path = ".".join(prefix + location)
    given = item.get("input")
    if item["type"] == "extra_forbidden":
        siblings = _keys_at(model, location[:-1])
        return f"{path}: there is no such key{nearest(location[-1], siblings)}"
    if item["type"] == "missing":
        return f"{path}: is missing"
    if item["type"] == "union_tag_not_found":
        return f"{path}.type: is missing; give float, int or categorical"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if isinstance(given, str) and item["type"] in ("int_type", "float_type", "bool_type"):
        message += ", not text"  # of '1' the quotation marks are easily overlooked
    if not path:  # the whole config: the message names the key itself
        return message
    shown = "" if isinstance(given, (Mapping, BaseModel)) else f" (given: {redact(repr(given))})"
    return f"{path}: {message}{shown}"


def _keys_at(model: type[BaseModel], location: Iterable[str]) -> list[str]:
    """Keys that the section at a path knows."""
    current: Any = model
    for part in location:
        current = _inside(current, part)
    return [key for section in _members(current) if _is_section(section) for key in section.model_fields]


def _inside(annotation: Any, part: str) -> Any:
    """Annotation of an entry of a section, a mapping or a list."""
    for member in _members(annotation):
        if _is_section(member) and part in member.model_fields:
            return member.model_fields[part].annotation
        if get_origin(member) in (dict, list):
            return get_args(member)[-1]
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
