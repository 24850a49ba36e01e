"""The networks that are profiled: what each really is, and a name that says so.

Cost belongs to a network as it is built and shown its input, not to a model's name: the same name with overrides, at
another input or with other classes is another network. `label` names it by what sets it apart from the model of that
name; `profiled` gives the names of the files, in which the classes tell two networks of one label apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from dvfl import plan
from dvfl.ablate.trials import searched_keys
from dvfl.config import Config, digest
from dvfl.models.registry import VIDEO_FOCALNETS
from dvfl.run import Run

_UNTIMED = {"drop_path_rate"}  # of training alone: neither size nor compute depend on it
_LONGEST = 120  # letters of a label; a file's name may have 255


@dataclass(frozen=True)
class Network:
    """What decides a network's size and compute.

    overrides: `key=value`, by key, of those that are not the model's own values anyway.
    classes: how many, where the data set's definition says so; else the data set, whose index will.
    chosen_by: studies that choose a part of the network, which no config tells; the data set then stands in `classes`.
    """

    model: str
    overrides: tuple[str, ...]
    frames: int
    img_size: int
    classes: int | str
    chosen_by: tuple[str, ...] = ()


@dataclass
class Profiled:
    """A network whose profile lies at `paths.profile_path(name)`, and the arms that train it, if any.

    run: the first that trains it; None for a model at the paper's size, which needs no run.
    """

    name: str
    run: Run | None = None
    arms: list[str] = field(default_factory=list)


def network_of(config: Config, run: Run) -> Network:
    """What a run trains. Of what studies choose, only which do is known before they have run."""
    settings = plan.run_settings(config, run)
    model, given, size = settings.network.model, settings.network.model_overrides, settings.input
    chosen = _chosen(config, run)
    own = VIDEO_FOCALNETS.get(model, {})
    told = [
        f"{key}={_text(given[key])}"
        for key in sorted(given.keys() - _UNTIMED)
        if not (_same(given[key], own, key) or _among(f"{config.arms[run.arm].network}.model_overrides.{key}", chosen))
    ]
    classes = run.dataset if chosen else _classes(config, run.dataset)
    return Network(model, tuple(told), size.frames, size.img_size, classes, tuple(chosen))


def decides_network(key: str, role: str) -> bool:
    """Whether a dotted key of a config decides what `teacher` or `student` is, and not only how it is trained."""
    own = key in (f"{role}.model", f"{role}.model_overrides") or key.startswith(f"{role}.model_overrides.")
    return (own and key.split(".")[-1] not in _UNTIMED) or key in ("input.frames", "input.img_size")


def _chosen(config: Config, run: Run) -> dict[str, set[str]]:
    """The studies that choose a part of the run's network, each with the keys of that part."""
    own, role = plan.own_values(config, run), config.arms[run.arm].network
    studies = {}
    for choice in plan.choices_of(config, run):
        study = choice.parent.name
        keys = {key for key in searched_keys(config, study) - own.keys() if decides_network(key, role)}
        if keys:
            studies[study] = keys
    return studies


def _among(override: str, chosen: dict[str, set[str]]) -> bool:
    return any(override == key or override.startswith(f"{key}.") for keys in chosen.values() for key in keys)


def label(config: Config, network: Network) -> str:
    """The model's name, then what is not as in the model of that name: frames, pixels, overrides, a study's choice.

    A profiled paper model is known at `profile`'s size, any other at the config's `input`.
    """
    usual = config.profile if network.model in config.profile.paper_models else config.input
    parts = []
    if network.frames != usual.frames:
        parts.append(f"{network.frames}frames")
    if network.img_size != usual.img_size:
        parts.append(f"{network.img_size}px")
    parts += network.overrides
    parts += [f"chosen_by={study}" for study in network.chosen_by]
    name = ".".join([network.model, *parts])
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 20]}-{digest(name)}"


def label_of(config: Config, run: Run) -> str:
    """The label of what a run trains."""
    return label(config, network_of(config, run))


def profiled(config: Config) -> dict[Network, Profiled]:
    """The paper's models at the paper's size, then the networks of the final runs.

    The first of a label bears it as its name; others of that label, which differ in their classes, name these.
    """
    size = config.profile
    found = {
        Network(model, (), size.frames, size.img_size, size.num_classes): Profiled(model) for model in size.paper_models
    }
    taken = {each.name for each in found.values()}
    for run in _one_of_each_arm(config).values():
        network = network_of(config, run)
        if network not in found:
            name = label(config, network)
            if name in taken:
                known = isinstance(network.classes, int)
                name += f".{network.classes}classes" if known else f".classes_of={network.classes}"
            taken.add(name)
            found[network] = Profiled(name, run)
        if run.arm not in found[network].arms:
            found[network].arms.append(run.arm)
    return found


def profile_names(config: Config) -> dict[tuple[str, str], str]:
    """The name of the profile of what an arm trains on a data set, by (data set, arm)."""
    found = profiled(config)
    return {
        (dataset, arm): found[network_of(config, run)].name for (dataset, arm), run in _one_of_each_arm(config).items()
    }


def _one_of_each_arm(config: Config) -> dict[tuple[str, str], Run]:
    """By (data set, arm): splits and seeds train the same network."""
    runs: dict[tuple[str, str], Run] = {}
    for run in plan.final_runs(config):
        runs.setdefault((run.dataset, run.arm), run)
    return runs


def _classes(config: Config, dataset: str) -> int | str:
    definition = config.dataset_definitions[dataset]
    known = definition.source.expected.classes if definition.source and definition.kind != "folder" else None
    return known or dataset


def _same(value: Any, own: dict[str, Any], key: str) -> bool:
    """Whether an override gives a model what it has anyway."""
    return key in own and own[key] == (tuple(value) if isinstance(value, list) else value)


def _text(value: Any) -> str:
    """A value in letters that any file's name may hold; two values of one kind never have the same."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(r"\w+", value, re.ASCII)):
        return str(value).replace("+", "")
    if isinstance(value, list | tuple) and value and all(type(each) is int and each >= 0 for each in value):
        return "-".join(map(str, value))
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', str(value)).strip('-')[:40]}-{digest(value)}"
