"""The published numbers, and the question which of them a config tests."""

from __future__ import annotations

import pandas as pd

from dvfl.config import Config, InputConfig, NetworkConfig
from dvfl.plan import run_config
from dvfl.report import inputs
from dvfl.run import Run

# What every published number was measured on, by the papers' text.
FRAMES, IMG_SIZE = 8, 224
UNSTATED_VIEWS = "the number of views, which the source does not state"
ANY = "any"  # data set of numbers that belong to a model, whatever it is trained on


def read_published() -> pd.DataFrame:
    """All rows as they stand: dataset, split, protocol, views, model, arm, metric, unit, value,
    source; text as text ('' where empty), value as float."""
    claims = pd.read_csv(inputs.PUBLISHED, dtype=str, keep_default_na=False)
    return claims.astype({"value": float})


def needs(config: Config, claim: pd.Series) -> list[str]:
    """What the config lacks to test a published accuracy; empty: it tests exactly that number.

    A source that does not state its views can be matched by no run: which views are its own is
    unknown.
    """
    lacking = []
    definition = config.dataset_definitions.get(claim["dataset"])
    if claim["dataset"] not in config.datasets or definition is None:
        lacking.append(f"data set {claim['dataset']} with split {claim['split']}")
    elif claim["split"] not in definition.splits:
        lacking.append(f"split {claim['split']}")
    if claim["protocol"] != config.protocol:
        lacking.append(f"protocol {claim['protocol']}")
    if not claim["views"].isdigit():
        lacking.append(UNSTATED_VIEWS)
    elif int(claim["views"]) != config.evaluate.clips * config.evaluate.crops:
        lacking.append(f"{claim['views']} views")
    return lacking + lacks_arm(config, claim["arm"], claim["model"])


def lacks_arm(config: Config, arm: str, model: str) -> list[str]:
    """What an arm lacks to be the paper's: its model, its input's size."""
    if arm not in config.arms:
        return [f"arm {arm} with {model}"]
    own, network = _trained(config, arm)
    if network.model != model:
        return [f"arm {arm} with {model}"]
    if (own.frames, own.img_size) != (FRAMES, IMG_SIZE) or network.model_overrides:
        return [f"an input of {FRAMES}x{IMG_SIZE}x{IMG_SIZE} and no model_overrides"]
    return []


def tested_claims(config: Config) -> dict[tuple[str, str, str, str], float]:
    """Published accuracies that this config tests: (dataset, split, arm, metric) -> value."""
    return {
        (claim["dataset"], claim["split"], claim["arm"], claim["metric"]): claim["value"]
        for _, claim in read_published().iterrows()
        if claim["dataset"] != ANY and not needs(config, claim)
    }


def model_claims() -> dict[tuple[str, str], float]:
    """Published numbers of the models themselves: (model, metric) -> value."""
    claims = read_published()
    claims = claims[claims["dataset"] == ANY]
    return {(claim["model"], claim["metric"]): claim["value"] for _, claim in claims.iterrows()}


def _trained(config: Config, arm: str) -> tuple[InputConfig, NetworkConfig]:
    """The input and the network of an arm, as the config gives them."""
    dataset = config.datasets[0]
    split = config.dataset_definitions[dataset].splits[0]
    own = run_config(config, Run(dataset, split, config.protocol, arm, seed=0))
    return own.input, getattr(own, config.arms[arm].network)
