"""The two protocols, as data: what was found in the released code, and which config keys make each difference."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from dvfl.config.section import Name, Section

FINDINGS = Path(__file__).resolve().parents[2] / "config/protocols.yaml"
Protocol = Literal["as_described", "as_released"]
REFERENCE = "reference"


class Effect(Section):
    """How a difference is measured alone."""

    arm: Literal["student", "distilled"] = Field(description="The arm whose accuracy it may change.")
    given: dict[str, Any] = Field({}, description="Keys that both sides need for the difference to show.")
    switched: dict[str, Any] = Field({}, description="Keys that are switched; none: the finding's as_released.")


class Finding(Section):
    """Something that the released code does and the paper does not say; the keys that do it here, if any can."""

    id: Name = Field(description="Its name, also of its trial.")
    finding: str = Field(description="What the released code does, in plain words.")
    where: str = Field(description="Where in the released code.")
    as_described: dict[str, Any] | str = Field(description="Keys with the values described, or a sentence.")
    as_released: dict[str, Any] | str = Field(description="Keys with the released values, or a sentence.")
    yields_to: list[str] = Field([], description="Keys which, set in a config file, keep the preset from its own.")
    effect: Effect | None = Field(None, description="How its effect is measured; None: it is not.")

    @property
    def runs(self) -> bool:
        """Whether keys make the difference."""
        return isinstance(self.as_released, dict)

    def values(self, protocol: Protocol) -> dict[str, Any]:
        """Dotted keys with their values; none where a sentence stands for them."""
        values = getattr(self, protocol)
        return values if isinstance(values, dict) else {}

    @property
    def reference(self) -> str:
        """Name of the trial that its effect is measured against."""
        return f"{REFERENCE}.{self.id}" if self.effect and self.effect.given else REFERENCE


@cache
def findings() -> tuple[Finding, ...]:
    """All findings, in the order of config/protocols.yaml."""
    return tuple(Finding.model_validate(entry) for entry in yaml.safe_load(FINDINGS.read_text()))


def preset(protocol: Protocol, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a protocol sets under the values of the config files (`raw`), nested as they are."""
    values: dict[str, Any] = {}
    for finding in findings():
        if not any(_is_set(raw, key) for key in finding.yields_to):
            for key, value in finding.values(protocol).items():
                _set(values, key, value)
    return values


def measured() -> list[Finding]:
    """Findings whose effect a study can measure."""
    return [finding for finding in findings() if finding.effect is not None]


def effect_trials() -> dict[str, tuple[str, dict[str, Any]]]:
    """Arm and dotted keys of each trial that the effects are measured by: the references and one trial a finding.

    Keys may hold {dataset}, which stands for the name of the data set.
    """
    trials: dict[str, tuple[str, dict[str, Any]]] = {}
    for finding in measured():
        effect = finding.effect
        switched = effect.switched or finding.values("as_released")
        trials.setdefault(finding.reference, (effect.arm, effect.given))
        trials[finding.id] = (effect.arm, effect.given | switched)
    return trials


def _is_set(raw: Mapping[str, Any], key: str) -> bool:
    place: Any = raw
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return False
        place = place[part]
    return True


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value
