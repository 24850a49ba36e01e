"""What all sections of the config share: their strictness, types of values, and how mistakes are put into words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dvfl.errors import UserError
from dvfl.models.registry import check_name

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # what becomes a folder's name
Name = Annotated[str, Field(pattern=NAME)]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


def _each_once(values: list[Any]) -> list[Any]:
    """The same seed twice would be one training counted as two; a name twice, its work done or shown twice."""
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"names {twice!r} twice; leave one of them out")
    return values


EachOnce = AfterValidator(_each_once)
Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[list[Seed], Field(min_length=1), EachOnce]


def _known_model(name: str) -> str:
    check_name(name)
    return name


ModelName = Annotated[str, AfterValidator(_known_model)]


class ConfigError(UserError, ValueError):
    """The config is wrong; the message says which key, what was given, and what is allowed."""


class Section(BaseModel):
    """A part of the config: unknown keys are refused, and a checked config does not change.

    Strict, since `epochs: true` would be one epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False)


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' or the list of what there is."""
    known = sorted(str(key) for key in known)
    lowered = {key.lower(): key for key in known}
    close = difflib.get_close_matches(str(word).lower(), lowered, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {lowered[close[0]]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
