"""Studies that search a space: which keys, over which ranges, for what, and how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dvfl.config.section import Count, Name, Section, Seed
from dvfl.redaction import redact

Objective = Literal["top1", "latency_ms", "gmacs"]


def _without_password(url: str) -> str:
    """Whoever reads results may read the config that made them, so no password may stand in it."""
    wanted = "write postgresql://USER@HOST:PORT/DATABASE"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a port that is none
        raise ValueError(f"is no address; {wanted}") from None
    query = f"?{parts.query}"
    if parts.password is not None or "@" in parts.path or redact(query) != query:
        raise ValueError("holds a password, which would stand in results; set PGPASSWORD, or write it into ~/.pgpass")
    if parts.scheme not in ("postgresql", "postgresql+psycopg") or not host or not parts.path.strip("/"):
        raise ValueError(f"is no database of PostgreSQL; {wanted}")
    return url


DatabaseUrl = Annotated[str, AfterValidator(_without_password)]


class FloatRange(Section):
    type: Literal["float"] = Field(description="Any number between two.")
    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    log: bool = Field(False, description="Drawn evenly over the logarithm; needs low > 0 and no step.")
    step: Annotated[float, Field(gt=0)] | None = Field(None, description="Distance of the values; None: any value.")

    @model_validator(mode="after")
    def _is_a_range(self) -> FloatRange:
        _check_range(self.low, self.high, self.log, self.step is not None)
        return self

    @property
    def examples(self) -> list[Any]:
        """Both ends and a value between them, to be checked before the first trial."""
        between = self.low + (self.high - self.low) * 0.381966 if self.step is None else self.low + self.step
        return [self.low, self.high, min(between, self.high)]


class IntRange(Section):
    type: Literal["int"] = Field(description="Whole numbers between two.")
    low: int = Field(description="Smallest value.")
    high: int = Field(description="Largest value.")
    log: bool = Field(False, description="Drawn evenly over the logarithm; needs low > 0 and no step.")
    step: Count = Field(1, description="Distance of the values.")

    @model_validator(mode="after")
    def _is_a_range(self) -> IntRange:
        _check_range(self.low, self.high, self.log, self.step != 1)
        return self

    @property
    def examples(self) -> list[Any]:
        """Both ends, the upper one as far as the steps reach, and the value after the first."""
        last = self.high - (self.high - self.low) % self.step
        return [self.low, last, min(self.low + self.step, last)]


class Choices(Section):
    type: Literal["categorical"] = Field(description="Values one by one.")
    choices: list[bool | int | float | str | None] = Field(min_length=1, description="The values.")

    @property
    def examples(self) -> list[Any]:
        return self.choices


def _check_range(low: float, high: float, log: bool, stepped: bool) -> None:
    if low >= high:
        raise ValueError(f"goes from {low:g} to {high:g}: `low` must be below `high`")
    if log and low <= 0:
        raise ValueError(f"begins at {low:g}, which has no logarithm: raise `low`, or leave `log` out")
    if log and stepped:
        raise ValueError("has both `log` and `step`: leave one out")


Range = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


class TuneConfig(Section):
    """Optuna proposes, one seed of one arm answers. Judged on the validation subset, never on test."""

    arm: Name = Field(description="The arm that is trained.")
    space: dict[str, Range] = Field(min_length=1, description="Dotted keys, each with the range of its values.")
    trials: Count = Field(20, description="Trials of the study, pruned and failed ones included, however many workers.")
    workers: Count = Field(1, description="Jobs that run trials of it side by side.")
    objectives: list[Objective] = Field(
        ["top1"],
        min_length=1,
        max_length=2,
        description="What is sought: top1 (on validation) alone, or against latency_ms (one clip, with whatever runs "
        "beside the worker) or gmacs (multiply-adds of one clip, exact).",
    )
    seed: Seed = Field(0, description="Seed of each trial's training.")
    sampler_seed: Seed = Field(0, description="Seed of the proposals (TPE).")
    startup_trials: Count = Field(
        10, description="Trials drawn at random before TPE proposes, and before one is pruned."
    )
    prune: bool = Field(
        True,
        description="With one objective: stop a trial whose validation top-1 is below the median of the earlier ones "
        "at the same epoch. It is looked at every train.validate_every epochs.",
    )
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(5, description="Epochs before which no trial is pruned.")
    set: dict[str, Any] = Field({}, description="Dotted keys that differ for every trial of the study.")

    @model_validator(mode="after")
    def _objectives_agree(self) -> TuneConfig:
        if self.objectives[0] != "top1" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"seeks {', '.join(self.objectives)}: give top1 first, then at most one of the others")
        if both := sorted(self.space.keys() & self.set.keys()):
            raise ValueError(f"searches {both[0]} and sets it, too: leave one out")
        return self

    @property
    def prunes(self) -> bool:
        return self.prune and len(self.objectives) == 1
