"""Weights that others trained: where they come from, and how they are laid out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dvfl.config.datasets import ChecksumConfig
from dvfl.config.section import Count, Section


class WeightsDefinition(Section):
    file: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name under resources/weights/; .safetensors or a pickle."
    )
    urls: list[str] = Field(min_length=1, description="Addresses, the owner's first, then mirrors.")
    size: Count | None = Field(None, description="Bytes, where known.")
    checksum: ChecksumConfig | None = Field(
        None, description="Where nobody publishes one, the sha256 seen first is recorded and compared from then on."
    )
    layout: Literal["focalnet", "timm", "video"] | None = Field(
        description="focalnet: the owners' image FocalNets; timm: the same in timm; video: Video-FocalNets. A file of "
        "another one is refused; null: any will do."
    )
    licence: str = Field(description="Terms of use.")
    citation: str = Field(description="What to cite.")
