"""The process that measures one model: started afresh each time, so that nothing else is in it.

    echo '{"model": "vfl_net", …}' | python -m dvfl.profile.worker

reads the arguments of `work` as JSON and prints what it returns as the last line.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dvfl.models import create_model
from dvfl.models.plugins import import_plugin
from dvfl.profile.compute import count_compute
from dvfl.profile.latency import Precision, measure


def work(
    *,
    model: str,
    num_classes: int,
    frames: int,
    img_size: int,
    overrides: dict[str, Any],
    batch: int,
    repeats: int,
    precision: Precision,
    threads: int,
    describe: bool,
    plugins: list[str],
) -> dict[str, Any]:
    """Measures a batch of clips; describe: the model, too, which costs one more forward pass."""
    for plugin in plugins:
        import_plugin(plugin)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = create_model(model, num_classes=num_classes, num_frames=frames, img_size=img_size, **overrides).to(device)
    clips = torch.randn(batch, frames, 3, img_size, img_size, device=device)
    measured = measure(network, clips, repeats=repeats, precision=precision)
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "batch": measured.summary(batch),
    }
    # Last, since memory that tracing and saving leave behind would count as the model's.
    return result | ({"model": description(network, clips[:1])} if describe else {})


def description(network: nn.Module, clip: Tensor) -> dict[str, Any]:
    """What does not depend on the machine: parameters, compute of one clip, size on disk."""
    count = count_compute(network, clip)
    return {
        "params": count.params,
        "gmacs": count.macs / 1e9,
        "gflops": count.flops / 1e9,
        "gmacs_by_operator": {name: macs / 1e9 for name, macs in count.macs_by_operator.items()},
        "other_gops": count.other / 1e9,
        "activations_m": count.activations / 1e6,
        "uncounted": count.uncounted,
        "weights_mb": weights_bytes(network) / 1e6,
    }


def weights_bytes(network: nn.Module) -> int:
    """Size of the network's safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(network.state_dict(), path)
        return path.stat().st_size


if __name__ == "__main__":
    print(json.dumps(work(**json.load(sys.stdin))))
