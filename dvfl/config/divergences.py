"""What a divergence can be, the parameters that some have of their own, and who reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dvfl.config.section import ConfigError, Fraction, Section

if TYPE_CHECKING:
    from dvfl.config.schema import Config

DivergenceName = Literal[
    "forward_kl",
    "reverse_kl",
    "symmetric_kl",
    "jensen_shannon",
    "alpha_divergence",
    "squared_logits",
    "cosine",
    "standardised_logits",
    "dkd",
    "dist",
    "released_code",
]


class AlphaDivergenceConfig(Section):
    """Amari's alpha-divergence from the teacher to a student mixed with some of the teacher."""

    order: Fraction = Field(
        0.5, description="Amari's alpha: 1 is forward KL, 0 reverse KL, 0.5 four times the squared Hellinger distance."
    )
    skew: float = Field(0.1, ge=0, lt=1, description="Share of the teacher in the student's probabilities.")


class DkdConfig(Section):
    """Decoupled knowledge distillation."""

    alpha: float = Field(1.0, ge=0, description="Weight of the label's class against all others together [1].")
    beta: float = Field(8.0, ge=0, description="Weight of the classes other than the label's [0.5 to 10 by network].")


class DistConfig(Section):
    """DIST: correlations in place of probabilities."""

    beta: float = Field(1.0, ge=0, description="Weight of the correlation over the classes of each clip [1].")
    gamma: float = Field(1.0, ge=0, description="Weight of the correlation over the clips of each class [1].")


# distill.<name> holds the parameters of the divergence of that name.
PARAMETERS: dict[str, Section] = {
    "alpha_divergence": AlphaDivergenceConfig(),
    "dkd": DkdConfig(),
    "dist": DistConfig(),
}
_CHOICE = "distill.divergence"


def parameters_of(key: str) -> str | None:
    """The divergence that a dotted key is a parameter of; None where it is of none."""
    section, name, *_ = [*key.split("."), ""]
    return name if section == "distill" and name in PARAMETERS else None


def without_unread(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a study without what its own values make meaningless.

    Without distillation that is every key of it, and always the parameters of divergences other than the point's.
    """
    if point.get("distill.alpha") == 0:
        return {key: value for key, value in point.items() if not key.startswith("distill.") or key == "distill.alpha"}
    chosen = point.get(_CHOICE)
    return {key: value for key, value in point.items() if chosen is None or parameters_of(key) in (None, chosen)}


def check_parameters(config: Config) -> None:
    """Refuses a parameter where no run that it is given to computes its divergence: it would do nothing.

    What a sweep over divergences gives to those that read it is fine, and the others ignore it. Raises ConfigError.
    """
    given: dict[str, set[str]] = {}  # place in the config -> parameters that are set there
    reached: dict[str, set[str]] = {}  # place -> divergences of the runs that see what is set there
    for places in _chains(config):
        divergences: set[str] = set()
        for _, values in places:
            divergences = set(values.get(_CHOICE, ())) or divergences
        for place, values in places:
            given[place] = {key for key in values if parameters_of(key)}
            reached[place] = reached.get(place, set()) | divergences
    for place, keys in given.items():
        for key in sorted(keys):
            owner = parameters_of(key)
            if owner not in reached[place]:
                raise ConfigError(
                    f"{place}{key}: is read by divergence {owner!r} alone, and what it is given to uses "
                    f"{', '.join(sorted(reached[place]))}; set {_CHOICE}: {owner}, or leave it out"
                )


def _chains(config: Config) -> Iterator[list[tuple[str, Mapping[str, list[Any]]]]]:
    """For each arm and each point or grid of a study: the places that set its values, later ones over earlier ones."""
    changed = {
        f"distill.{name}": [] for name, default in PARAMETERS.items() if getattr(config.distill, name) != default
    }
    base = ("", {_CHOICE: [config.distill.divergence], **changed})
    yield [base]
    arms = {name: (f"arms.{name}.set: ", _listed(arm.set)) for name, arm in config.arms.items()}
    for arm in arms.values():
        yield [base, arm]
    for name, study in config.ablation.studies.items():
        place = f"ablation.studies.{name}"
        points = [(f"{place}.points.{number}: ", _listed(point)) for number, point in enumerate(study.points)]
        if study.grid:
            points.append((f"{place}.grid: ", study.grid))
        for arm, point in itertools.product(study.arms, points or [(f"{place}: ", {})]):
            yield [base, arms[arm], (f"{place}.set: ", _listed(study.set)), point]
    for name, tune in config.ablation.tune.items():
        place = f"ablation.tune.{name}"
        searched = {key: range.examples for key, range in tune.space.items()}
        yield [base, arms[tune.arm], (f"{place}.set: ", _listed(tune.set)), (f"{place}.space: ", searched)]


def _listed(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [value] for key, value in values.items()}
