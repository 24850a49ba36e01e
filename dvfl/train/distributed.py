"""A job on several processes: how they start, what each does, how they put together what they did.

Work is cut into numbered pieces (micro-batches of a step, batches of a test) whatever the number of processes. Each
takes a contiguous share, so results put together by rank are in the order in which one process makes them.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dvfl.config import TrainConfig
from dvfl.distill.task import Batch, DistillationTask, Losses, SupervisedTask
from dvfl.errors import Stopped, UserError
from dvfl.train import devices
from dvfl.train.memory import allocate_large_blocks_apart
from dvfl.train.stopping import asked_to_stop

Item = TypeVar("Item")
Task = SupervisedTask | DistillationTask

# Others wait for rank 0 while that waits for a lease. A process that ends is noticed at once, not by this.
PATIENCE = timedelta(days=30)
GRACE = 10.0  # seconds that processes have to end by themselves when one of them failed


class ProcessEnded(UserError):
    """A process of a job was ended from outside."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the job; alone unless told otherwise."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among those of the job on this machine
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, tracks and talks."""
        return self.rank == 0

    def share(self, pieces: int) -> range:
        """Numbers of the pieces that this process does, of so many; shares differ by no more than one."""
        return range(self.rank * pieces // self.count, (self.rank + 1) * pieces // self.count)

    def gathered(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, by rank; everywhere the same."""
        if self.count == 1:
            return list(items)
        parts: list[Sequence[Item]] = [()] * self.count
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def any(self, here: bool) -> bool:
        """Whether it is so in any of the processes."""
        return self.summed({"here": float(here)})["here"] > 0

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the processes, by name; all have the same names."""
        if self.count == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def parallel(self, task: Task, device: torch.device) -> Callable[[Batch], Losses]:
        """The task; where there are more processes, its backward pass adds up their gradients."""
        if self.count == 1:
            return task
        # Of depthwise kernels (C, 1, k, k) the gradients differ in the stride of the dimension of size one alone, which
        # says nothing about where numbers lie: nothing is copied, unlike what torch says, once, in a backward pass.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        group = dist.new_group(backend="nccl") if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about a name that older ones do not know
            together = DistributedDataParallel(_Objective(task), process_group=group, broadcast_buffers=False)
        together.register_comm_hook(group, _add_up)
        return together

    def take_gpu(self, train: TrainConfig) -> None:
        """Leases a GPU for each process of this machine and lets this process see its own alone.

        Does nothing where the training works on the CPU, or has no GPU to work on.
        """
        among = devices.candidates(train)
        if not among:
            return
        leased = devices.lease_gpus(self.local_count, among, train.share_gpus) if self.local_rank == 0 else []
        here = os.uname().nodename
        mine = [gpu for node, gpu in self.gathered([(here, gpu) for gpu in leased]) if node == here]
        os.environ[devices.VISIBLE] = mine[self.local_rank]


ALONE = Processes()


def without_sync(objective: Callable[[Batch], Losses]) -> AbstractContextManager[None]:
    """Within the block, each process keeps its gradients to itself."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext()


def _add_up(group, bucket):  # torch refuses annotations that are strings, as they are here
    """The sum, where DistributedDataParallel by itself takes the mean: the loss is divided by micro-batches already."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


class _Objective(nn.Module):
    """A task as a module: DistributedDataParallel wants all that is trained, and the forward pass that uses it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.trained = task, task.trained

    def forward(self, batch: Batch) -> Losses:
        return self.task(batch)


# -------------------------------------------------------------------------------------------------- starting and ending


def run_on_processes(train: TrainConfig, work: Callable[..., None], *arguments: Any) -> None:
    """Calls `work(processes, *arguments)` on as many processes as the training asks for, and waits for all.

    One does it here. More are started, by `torchrun` if that is how this one was started, else by this one; then
    `work` is a module's function and the arguments can be pickled. What one raises is raised here, and ends the
    others. SIGTERM and Ctrl-C are handed on to them. Raises ProcessEnded where one was killed.
    """
    if dist.is_torchelastic_launched():
        rank, count, local_rank, local_count = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        processes = Processes(rank, count, local_rank, local_count)
        if count > 1 and not dist.is_initialized():  # a trial joins for its training, and tests as joined as it is
            dist.init_process_group("gloo", timeout=PATIENCE)
        return work(processes, *arguments)
    count = devices.count_processes(train)
    if count == 1:
        return work(ALONE, *arguments)
    with tempfile.TemporaryDirectory(prefix="dvfl-") as folder:
        started = (Path(folder), count, work, arguments)
        told = False
        with asked_to_stop() as stop:
            context = multiprocessing.start_processes(_work, started, nprocs=count, join=False, start_method="spawn")
            try:
                while not context.join(1.0, GRACE):
                    if stop() and not told:
                        told = True
                        _signal(context.processes, signal.SIGTERM)
            except KeyboardInterrupt:
                _interrupt(context.processes)
                raise
            except (multiprocessing.ProcessExitedException, multiprocessing.ProcessRaisedException) as error:
                reason = _reason(Path(folder), context.processes) or error
                if told and not isinstance(reason, UserError):  # it came before they could handle it
                    reason = Stopped("asked to end before the work began; the same command begins it")
                raise reason from None


def _work(rank: int, folder: Path, count: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """A process: joins the others, works, and leaves what went wrong, if it is the first, to be raised again."""
    allocate_large_blocks_apart()
    try:
        meet = f"file://{folder / 'store'}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count, timeout=PATIENCE)
        work(Processes(rank, count, rank, count), *arguments)
        dist.destroy_process_group()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())
        with suppress(Exception):  # one that cannot be handed over is told by torch, as text
            handed_over = pickle.dumps(error)
            pickle.loads(handed_over)
            with (folder / "error.pickle").open("xb") as file:
                file.write(handed_over)
        raise


def _reason(folder: Path, processes: Sequence[Any]) -> BaseException | None:
    """Why the processes ended: by Ctrl-C, by a signal, by an error; None where that is not known."""
    codes = [process.exitcode for process in processes]
    if 130 in codes:
        return KeyboardInterrupt()
    file = folder / "error.pickle"
    error = pickle.loads(file.read_bytes()) if file.exists() else None
    killed = [(rank, -code) for rank, code in enumerate(codes) if code < 0 and -code != signal.SIGTERM]
    if killed and not isinstance(error, UserError):  # others fail since they miss it
        rank, number = killed[0]
        return ProcessEnded(
            f"process {rank} of {len(codes)} was ended by {signal.Signals(number).name} (too little memory?); run the "
            f"same command again: what is finished is kept"
        )
    return error


def _signal(processes: Sequence[Any], number: signal.Signals) -> None:
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, number)


def _interrupt(processes: Sequence[Any]) -> None:
    """Ctrl-C for those that it did not reach; they hold leases, so none is left behind."""
    _signal(processes, signal.SIGINT)
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
