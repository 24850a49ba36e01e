"""Both protocols side by side, with the finding behind each difference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from dvfl.config import Config
from dvfl.config.protocols import findings

HEAD = ("finding", "as_described", "as_released")


def as_table() -> Table:
    """A rich table that 100 columns hold."""
    table = Table(*HEAD, show_lines=True)
    for id_, text, where, described, released in _rows():
        finding = Text.assemble((id_, "bold"), f"\n{text}\n", (where, "dim"))
        table.add_row(finding, Text("\n".join(described)), Text("\n".join(released)))
    table.columns[0].ratio, table.columns[1].ratio, table.columns[2].ratio = 4, 3, 3
    for column in table.columns:
        column.overflow = "fold"
    table.expand = True
    return table


def as_markdown() -> str:
    """A pipe table; config keys as code."""
    head = ("finding", "what the released code does", "where", *HEAD[1:])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for id_, text, where, described, released in _rows(code="`"):
        cells = (f"`{id_}`", text, where, "<br>".join(described), "<br>".join(released))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def departures(config: Config) -> Iterator[str]:
    """Keys whose value here is not the protocol's, because a config file sets them."""
    here = config.model_dump(mode="json")
    unused = {f"dataset_definitions.{name}." for name in set(config.dataset_definitions) - set(config.datasets)}
    for finding in findings():
        for key, value in finding.values(config.protocol).items():
            found = reduce(lambda place, part: place[part], key.split("."), here)
            if found != value and not key.startswith(tuple(unused)):
                yield f"{key} is {_text(found)}, not the protocol's {_text(value)} ({finding.id})"


def _rows(code: str = "") -> Iterator[tuple[str, str, str, list[str], list[str]]]:
    for finding in findings():
        sides = (
            [f"{code}{key}: {_text(item)}{code}" for key, item in side.items()] if isinstance(side, dict) else [side]
            for side in (finding.as_described, finding.as_released)
        )
        yield finding.id, finding.finding, finding.where, *sides


def _text(value: Any) -> str:
    """A value as YAML has it."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
