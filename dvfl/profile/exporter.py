"""The process that exports a model with initial weights, so that its times in other runtimes can be measured.

    echo '{"model": "vfl_net", …}' | python -m dvfl.profile.exporter

reads the arguments of `write` as JSON. int8 takes its ranges from noise: times do not depend on them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from dvfl.deploy.onnx_file import as_onnx
from dvfl.deploy.packages import package
from dvfl.deploy.quantise import in_precision
from dvfl.models import create_model
from dvfl.models.plugins import import_plugin


def write(
    *,
    model: str,
    num_classes: int,
    frames: int,
    img_size: int,
    overrides: dict[str, Any],
    plugins: list[str],
    precision: Any,
    file: str,
    batch: int,
) -> None:
    """Writes the model to `file`; `batch`: clips that int8 takes its ranges from."""
    for plugin in plugins:
        import_plugin(plugin)
    torch.manual_seed(0)
    network = create_model(model, num_classes=num_classes, num_frames=frames, img_size=img_size, **overrides)
    clips = torch.randn(batch, frames, 3, img_size, img_size).numpy()
    graph = as_onnx(network, frames, img_size)
    path = Path(file)
    package("onnx").save(in_precision(graph, precision, [clips], path.parent), path)


if __name__ == "__main__":
    write(**json.load(sys.stdin))
    print("{}")
