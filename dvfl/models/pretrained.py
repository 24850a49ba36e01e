"""Weights from elsewhere into a model, with an account of each: loaded, adapted, left as it was drawn, ignored."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvfl.models.layouts import IMAGE_LAYOUTS, Layout, in_our_names, is_temporal, layout_of
from dvfl.models.tensor_files import read_tensors
from dvfl.models.weights import WeightsError, misfit

HEAD = ("head.weight", "head.bias")
STEM = "patch_embed.proj.weight"
# Of the parameters that a file of its layout could fill, this share must come from it: below, training would start
# rather from chance than from the file.
ENOUGH = 0.5


@dataclass
class LoadReport:
    """What became of each weight of the model and of the file, by name; with reasons where there are several."""

    file: str
    layout: Layout
    model: str
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)  # changed to fit, or drawn anew because it cannot be
    initial: dict[str, str] = field(default_factory=dict)  # left at its initialisation
    ignored: dict[str, str] = field(default_factory=dict)  # in the file, and not wanted
    share: float = 0.0  # of the model's parameters, how much comes from the file

    def __str__(self) -> str:
        of = len(self.loaded) + len(self.adapted) + len(self.initial)
        lines = [
            f"{self.file} ({self.layout} layout) into {self.model}: {len(self.loaded)} of {of} weights loaded, "
            f"{self.share:.1%} of the parameters come from it"
        ]
        for what, names in (
            ("adapted", self.adapted),
            ("left at their initialisation", self.initial),
            ("ignored", self.ignored),
        ):
            lines += [f"  {what}: {count} ({why})" for why, count in Counter(names.values()).items()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def load_pretrained(
    model: nn.Module,
    path: str | Path,
    *,
    classes: list[str] | None = None,
    layout: Layout | None = None,
    complete: bool = False,
) -> LoadReport:
    """Fills a model with the weights of a file, as far as they are of its architecture.

    The file may be of any layout in `layouts`, as .safetensors or written by torch.save. What may differ is

    - the number of classes, or the classes themselves where both are known: the head stays as it was drawn,
    - frames that the stem fuses (tubelets): its weight is spread evenly over them, so that a clip that stands still
      gives what its frame gave,
    - time: an image model has no temporal branch, which stays as it was drawn,
    - depth: blocks that both have are filled.

    Args:
        model: changed in place, or not at all where the file is refused.
        path: the file.
        classes: behind the model's logits, where they are known.
        layout: what the file must be, where that is known.
        complete: whether every weight must fit as it is, to be used without training.

    Raises:
        WeightsError: for a file that cannot be read, or is of another layout, or does not fit, or fits too little.
    """
    content = read_tensors(path)
    expected = model.state_dict()
    found = layout_of(content.tensors, expected)
    if layout not in (None, found):
        raise WeightsError(f"{path}: is of layout {found!r}, not {layout!r}; mend weights_definitions or the file")
    given = in_our_names(content.tensors, found)
    report = LoadReport(str(path), found, type(model).__name__)
    values, misfits = _match(report, given, expected)
    others = content.description.classes if content.description and classes else None
    if others not in (None, classes) and HEAD[0] in values:
        for name in HEAD:
            del values[name]
            report.loaded.remove(name)
            report.adapted[name] = "head drawn anew: the file's classes are others"
    report.share = _parameters(values) / _parameters(expected)
    _check(report, given, expected, misfits, _parameters(values), complete)
    with torch.no_grad():
        model.load_state_dict(values, strict=False)
    return report


def _match(
    report: LoadReport, given: dict[str, Tensor], expected: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The values that fit, noted in the report with what does not matter; and names of what does not fit, by kind."""
    values: dict[str, Tensor] = {}
    missing, unknown, other_shape = [], [], []
    own_blocks, given_blocks = {"", *map(_block, expected)}, {"", *map(_block, given)}
    for name, own in expected.items():
        value = given.get(name)
        if value is None:
            if is_temporal(name) and report.layout in IMAGE_LAYOUTS:
                report.initial[name] = "of the temporal branch, which images do not have"
            elif _block(name) not in given_blocks:
                report.initial[name] = "of blocks that the file does not have"
            elif name in HEAD and given.keys().isdisjoint(HEAD):
                report.initial[name] = "the file has no head"
            else:
                missing.append(name)
        elif value.shape == own.shape:
            values[name] = value
            report.loaded.append(name)
        elif name in HEAD and len(value) != len(own):
            report.adapted[name] = f"head drawn anew: {len(value)} classes in the file, {len(own)} here"
        elif name == STEM and (fused := _tubelets(value, own)) is not None:
            values[name] = fused
            report.adapted[name] = f"spread over tubelets of {_frames(own)} frames, from {_frames(value)}"
        else:
            other_shape.append(name)
    for name in sorted(given.keys() - expected.keys()):
        if _block(name) not in own_blocks:
            report.ignored[name] = "of blocks that the model does not have"
        else:
            unknown.append(name)
    return values, {"missing": missing, "unknown": unknown, "other_shape": other_shape}


def _check(
    report: LoadReport,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
    misfits: dict[str, list[str]],
    filled: int,
    complete: bool,
) -> None:
    """Raises WeightsError where the file does not fit, or too little of it."""
    place = f"{report.file}: "
    if given.keys().isdisjoint(expected):
        raise WeightsError(
            f"{place}nothing of it fits {report.model}: it has {next(iter(given))} and the like, where "
            f"{next(iter(expected))} and the like are wanted; use weights of the same architecture"
        )
    if any(misfits.values()):
        raise WeightsError(
            f"{place}does not fit {report.model}: {misfit(**misfits)}; use weights of the same architecture and width"
        )
    if complete and (report.adapted or report.initial or report.ignored):
        some = {**report.adapted, **report.initial, **report.ignored}
        name, why = next(iter(some.items()))
        raise WeightsError(
            f"{place}{len(some)} weights do not fit as they are (for example {name}: {why}); weights that replace the "
            f"training must fit whole, so give them as start_from, and train"
        )
    able = {
        name: value
        for name, value in expected.items()
        if name not in HEAD and not (is_temporal(name) and report.layout in IMAGE_LAYOUTS)
    }
    share = filled / _parameters(able)
    if share < ENOUGH:
        raise WeightsError(
            f"{place}fills {share:.0%} of what it could of {report.model}, too little to start from (less than "
            f"{ENOUGH:.0%}); use weights of a model as deep"
        )


def _block(name: str) -> str:
    """The block that a weight belongs to: layers.2.blocks.0 of layers.2.blocks.0.norm1.weight; "" for those of none."""
    match = re.match(r"layers\.\d+\.blocks\.\d+(?=\.)", name)
    return match[0] if match else ""


def _frames(stem: Tensor) -> int:
    """Frames that a stem of this weight fuses."""
    return stem.shape[2] if stem.ndim == 5 else 1


def _tubelets(value: Tensor, own: Tensor) -> Tensor | None:
    """A stem's weight for tubelets of another length, of the same sum over time; None where more than that differs."""
    still = value.sum(2) if value.ndim == 5 else value  # what a frame that stands still is multiplied by
    if own.ndim == 5 and still.shape == own.shape[:2] + own.shape[3:]:
        return still.unsqueeze(2).expand_as(own) / own.shape[2]
    return still if still.shape == own.shape else None


def _parameters(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
