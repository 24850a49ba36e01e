"""The process that times one exported file in one runtime: fresh each time, and without PyTorch in it.

    echo '{"file": "float32.onnx", "runtime": "openvino", …}' | python -m dvfl.profile.runner

prints a summary of the passes as the last line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from dvfl.deploy.runtimes import load
from dvfl.profile.latency import measure_call


def time_file(request: dict[str, Any]) -> dict[str, Any]:
    """Times `file` with `batch` clips of noise, in `runtime` with `threads`."""
    shape = (request["batch"], request["frames"], 3, request["img_size"], request["img_size"])
    clips = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    network = load(request["file"], request["runtime"], request["precision"], request["threads"])
    return measure_call(lambda: network(clips), repeats=request["repeats"]).summary(request["batch"])


if __name__ == "__main__":
    print(json.dumps(time_file(json.load(sys.stdin))))
