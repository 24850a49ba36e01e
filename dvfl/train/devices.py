"""Which GPUs a job works on: never those of another job of the machine, unless both may share.

A GPU is leased by a lock on a file named after it. The system lets go of the lock when the process ends, however it
ends, and not before: as long as the process lives, CUDA may hold memory of the device.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dvfl.config import ConfigError, TrainConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Not the folder for temporary files that each user or job may have of its own: all jobs of a machine look here.
LEASES = Path(os.environ.get("DVFL_GPU_LEASES", "/tmp/dvfl-gpus"))

_held: dict[str, int] = {}  # GPUs that this process has leased: their files


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    They are asked for without waking CUDA, which looks at that variable only once. A name is the GPU's own where
    nvidia-smi can tell it, since a scheduler may call two GPUs of a machine 0 in two jobs.
    """
    names = _listed()
    asked = os.environ.get(VISIBLE)
    if asked is None:
        return names
    chosen = [name.strip() for name in asked.split(",")]
    own = {str(number): name for number, name in enumerate(names)}
    return [own.get(name, name) for name in chosen if name and name != "-1"]


def _listed() -> list[str]:
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True)
        if listed.returncode == 0:
            return listed.stdout.split()
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def candidates(train: TrainConfig) -> list[str]:
    """The GPUs that a training may take; none where it works on the CPU. Raises ConfigError for one that is not there.

    Where `train.device` asks for a GPU and there is none, the list is empty, too.
    """
    if train.device != "auto" and not train.device.startswith("cuda"):
        return []
    visible = visible_gpus()
    _, _, number = train.device.partition(":")
    if not number or not visible or not number.isdigit():
        return visible
    if int(number) >= len(visible):
        raise ConfigError(f"train.device: {train.device!r} was asked for, but there are {len(visible)} GPUs, from 0")
    return [visible[int(number)]]


def count_processes(train: TrainConfig) -> int:
    """Processes of a training: as many as asked for, else one for each GPU that it asks for and there is."""
    return train.processes or min(train.gpus, len(candidates(train))) or 1


def lease_gpus(count: int, among: Sequence[str], share: bool = False) -> list[str]:
    """Leases `count` of the GPUs for the life of this process; waits, with a line that says so, until they are free.

    With `share`, beside others that share: a free one is taken first. Raises ConfigError where there are too few.
    """
    if len(among) < count:
        raise ConfigError(
            f"train.processes: {count} need a GPU each, but there are {len(among)}; lower it: with the same "
            f"train.accumulate, fewer processes compute the same"
        )
    told = False
    while True:
        taken = {gpu: file for gpu, file in _held.items() if gpu in among}
        for mode in (fcntl.LOCK_EX, fcntl.LOCK_SH) if share else (fcntl.LOCK_EX,):
            for gpu in among:
                if len(taken) < count and gpu not in taken and (file := _try(gpu, mode)) is not None:
                    taken[gpu] = file
        if len(taken) >= count:
            chosen = list(taken)[:count]
            for gpu in chosen:
                if share:
                    fcntl.flock(taken[gpu], fcntl.LOCK_SH)
                os.ftruncate(taken[gpu], 0)
                os.pwrite(taken[gpu], f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
            _held.update(taken)
            return chosen
        # All or none: two jobs that each kept a part of what they need would wait for each other for ever.
        for gpu, file in taken.items():
            if gpu not in _held:
                os.close(file)
        if not told:
            busy = "; ".join(f"{gpu}: {_holder(gpu)}" for gpu in among if gpu not in taken)
            print(
                f"waiting for {count} of {len(among)} GPUs, {len(taken)} free now ({busy}); train.share_gpus would "
                f"work beside other jobs that share",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(1 + os.getpid() % 10 / 10)  # two that wait do not ask at the same moments for ever


def _file(gpu: str) -> Path:
    return LEASES / f"{gpu.replace('/', '_')}.lock"


def _try(gpu: str, mode: int) -> int | None:
    """The GPU's file, locked; None where another process has it."""
    LEASES.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):
        LEASES.chmod(0o777)  # other users' jobs lease the same GPUs
    file = os.open(_file(gpu), os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(PermissionError):
        os.fchmod(file, 0o666)
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _holder(gpu: str) -> str:
    return _file(gpu).read_text().strip() or "another process"
