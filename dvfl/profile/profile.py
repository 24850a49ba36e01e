"""A model's efficiency: what it computes, how long that takes here, how much memory it needs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dvfl.deploy.runtimes import forms
from dvfl.errors import UserError
from dvfl.profile.machine import machine, usable_cores


class ProfileError(UserError):
    """A model could not be measured; the message says which, at which batch size, and why."""


def profile_model(
    name: str,
    *,
    num_classes: int,
    frames: int = 8,
    img_size: int = 224,
    overrides: Mapping[str, Any] | None = None,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 5,
    precision: Literal["float32", "bfloat16"] = "float32",
    threads: int | None = None,
    plugins: Sequence[str] = (),
    exported: Sequence[str] = (),
) -> dict[str, Any]:
    """Profile of a registered model with initial weights, ready for JSON.

    Compute (gmacs, gflops, other_gops: 10^9; activations_m: 10^6) is that of one clip. Each batch
    size is timed in a process of its own, on the GPU where there is one; memory and weights are
    in 10^6 bytes, see `dvfl.profile.latency.Measurement` for what the two kinds of memory hold.

    threads: PyTorch's; all cores that this process may use unless given.
    plugins: of the config; one of them may register the model.
    exported: precisions in which the model is exported, too, and timed on the CPU in the runtimes that compute so.

    Raises ProfileError.
    """
    request = {
        "model": name,
        "num_classes": num_classes,
        "frames": frames,
        "img_size": img_size,
        "overrides": dict(overrides or {}),
        "repeats": repeats,
        "precision": precision,
        "threads": threads or usable_cores(),
        "plugins": list(plugins),
    }
    first, *others = batch_sizes
    result = in_a_fresh_process({**request, "batch": first, "describe": True})
    batches = [result["batch"]] + [
        in_a_fresh_process({**request, "batch": batch, "describe": False})["batch"] for batch in others
    ]
    also = {"exported": _exported(request, exported, batch_sizes)} if exported else {}
    return {
        "model": name,
        "num_classes": num_classes,
        "frames": frames,
        "img_size": img_size,
        "overrides": request["overrides"],
        **result["model"],
        "precision": precision,
        "device": result["device"],
        "threads": result["threads"],
        "machine": machine(),
        "batches": batches,
        **also,
    }


def _exported(request: dict[str, Any], precisions: Sequence[str], batch_sizes: Sequence[int]) -> list[dict[str, Any]]:
    """For each precision and runtime: file_mb (10^6 bytes), threads, batches as above."""
    found = []
    sizes = {key: request[key] for key in ("model", "num_classes", "frames", "img_size", "overrides", "plugins")}
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            file = Path(folder) / f"{precision}.onnx"
            write = {"precision": precision, "file": str(file), "batch": 1}
            in_a_fresh_process({**sizes, **write}, "dvfl.profile.exporter")
            for runtime in forms(precision):
                timed = {**request, **write, "runtime": runtime}
                batches = [in_a_fresh_process({**timed, "batch": b}, "dvfl.profile.runner") for b in batch_sizes]
                found.append(
                    {
                        "runtime": runtime,
                        "precision": precision,
                        "device": "cpu",
                        "threads": request["threads"],
                        "file_mb": file.stat().st_size / 1e6,
                        "batches": batches,
                    }
                )
            file.unlink()
    return found


def in_a_fresh_process(
    request: dict[str, Any], module: str = "dvfl.profile.worker", what: str | None = None
) -> dict[str, Any]:
    """What the last line of `python -m module` says, as JSON, when it is given the request as JSON.

    A process's peak of memory never falls, and its allocator keeps what was freed: each measurement has its own.
    Raises ProfileError, which names `what` was measured.
    """
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    what = what or f"{request['model']}, batch of {request['batch']}"
    if done.returncode == -signal.SIGKILL:
        raise ProfileError(f"{what}: killed, most likely for want of memory; try a smaller one")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise ProfileError(f"{what}: {last}")
