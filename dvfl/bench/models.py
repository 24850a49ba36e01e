"""The networks of the paper: forward passes and training steps, beside the literal transcription."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl.bench.literal import LiteralVideoFocalNet
from dvfl.bench.pairs import Sides, Sizes, Unavailable, pair
from dvfl.bench.products import count_operations, seconds_in_pytorch
from dvfl.models import create_model
from dvfl.models.inference import for_inference
from dvfl.models.registry import VIDEO_FOCALNETS
from dvfl.train.memory import HUGE_PAGES, allocate_large_blocks_apart

EAGER = "literal transcription, eager, float32"
SEED = 0


def networks(name: str, sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """The literal network and ours, of the same weights, in evaluation mode."""
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(SEED)
    ours = create_model(name, num_classes=sizes.num_classes, num_frames=sizes.frames, img_size=sizes.img_size)
    options = {key: value for key, value in VIDEO_FOCALNETS[name].items() if key != "init"}
    literal = LiteralVideoFocalNet(num_classes=sizes.num_classes, **options)
    literal.load_state_dict(ours.state_dict())
    return literal.eval(), ours.eval()


def random_clips(sizes: Sizes, batch: int) -> Tensor:
    """(B, T, 3, S, S), as if normalised."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(batch, sizes.frames, 3, sizes.img_size, sizes.img_size, generator=generator)


def forward(sizes: Sizes, name: str, batch: int, mode: str) -> Sides:
    """A forward pass: ours for inference in float32, in bfloat16 throughout, or as it is, compiled in bfloat16."""
    literal, ours = networks(name, sizes)
    clips = random_clips(sizes, batch)
    if mode == "compiled":
        _require_compiler()
    inputs = clips if mode == "float32" else clips.bfloat16()
    ours = ours if mode == "float32" else ours.bfloat16()
    fast = torch.compile(ours) if mode == "compiled" else for_inference(ours)
    with torch.inference_mode():
        wanted, found = literal(clips), fast(inputs).float()
    kept = (wanted.argmax(1) == found.argmax(1)).sum().item()
    largest = wanted.abs().max().item()
    return Sides(
        slow=_inference(literal, clips),
        fast=_inference(fast, inputs),
        deviation=(wanted - found).abs().max().item(),
        products=partial(seconds_in_pytorch, _inference(fast, inputs)),
        note=f"top-1 of {kept} of {batch} clips as in float32; the largest logit is {largest:.2g}",
    )


def _inference(network: nn.Module, clips: Tensor) -> Callable[[], Tensor]:
    return torch.inference_mode()(partial(network, clips))


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Unavailable("torch.compile needs a C++ compiler, and there is none") from error


for _name in ("vfl_net", "video_focalnet_base"):
    for _batch in (1, 4):
        _about = {"what": f"forward, {_name}, 8x224x224, batch {_batch}", "slow": EAGER}
        _quick = _name == "vfl_net" and _batch == 1
        pair(
            f"forward/{_name}/batch{_batch}/float32", **_about, fast="ours, for inference, float32", target=1.25,
            tolerance=1e-5, quick=_quick,
        )(partial(forward, name=_name, batch=_batch, mode="float32"))  # fmt: skip
        pair(
            f"forward/{_name}/batch{_batch}/bfloat16", **_about, fast="ours, for inference, bfloat16", target=2.2,
            tolerance=2e-2, quick=_quick,
        )(partial(forward, name=_name, batch=_batch, mode="bfloat16"))  # fmt: skip
pair(
    "forward/vfl_net/batch1/compiled", what="forward, vfl_net, 8x224x224, batch 1", slow=EAGER,
    fast="ours, torch.compile, bfloat16", target=2.2, tolerance=2e-2,
)(partial(forward, name="vfl_net", batch=1, mode="compiled"))  # fmt: skip


class Step:
    """Training steps of a network: SGD with Nesterov momentum, as the paper's."""

    def __init__(self, network: nn.Module, clips: Tensor, num_classes: int, precision: str) -> None:
        self.network, self.clips, self.precision = network.train(), clips, precision
        self.labels = torch.arange(len(clips)) % num_classes
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def __call__(self) -> None:
        self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def warm_up(self) -> None:
        """A step on a corner of one clip: from now on the optimiser has its state."""
        whole = self.clips, self.labels
        self.clips, self.labels = self.clips[:1, :, :, :32, :32], self.labels[:1]
        self()
        self.clips, self.labels = whole

    def gradients(self) -> Tensor:
        """Gradients of the loss, which is returned; stochastic depth is the same in every call."""
        loss = self.loss()
        loss.backward()
        return loss.detach()

    def loss(self) -> Tensor:
        torch.manual_seed(SEED)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            return F.cross_entropy(self.network(self.clips), self.labels)


def kept_bytes(step: Step) -> int:
    """Of what the forward pass of a step leaves for the way back, weights and input not counted."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (*step.network.parameters(), step.clips)}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a result that holds what made it, and is held by it, would never be freed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.loss()  # held, and with it what is counted, until the count is made
        size = sum(kept.values())
    del loss
    return size


def training_step(sizes: Sizes, precision: str, recompute: bool) -> Sides:
    """A step on a batch: the gradients of both sides are compared over all parameters together.

    recompute: ours with `train.gradient_checkpointing`, which computes each block again on the way back.
    """
    literal, ours = networks("vfl_net", sizes)
    ours.set_grad_checkpointing(recompute)
    clips = random_clips(sizes, sizes.step_batch)
    steps = Step(literal, clips, sizes.num_classes, "float32"), Step(ours, clips, sizes.num_classes, precision)
    gradients = []
    for step in steps:
        step.gradients()
        gradients.append({name: parameter.grad for name, parameter in step.network.named_parameters()})
    off = sum((gradients[1][name] - wanted).square().sum() for name, wanted in gradients[0].items())
    whole = sum(wanted.square().sum() for wanted in gradients[0].values())
    for step in steps:
        step.optimizer.zero_grad(set_to_none=True)
    return Sides(
        *steps,
        deviation=(off / whole).sqrt().item(),
        note="deviation: of all gradients, relative",
        products=partial(seconds_in_pytorch, steps[1]),
        # Forward, and backward to the inputs and to the weights.
        operations=3 * count_operations(ours, clips) if precision == "float32" else None,
    )


def step_memory(sizes: Sizes, precision: str, recompute: bool) -> Sides:
    """Peak resident memory of a process that takes steps, in MB; what PyTorch itself takes is in it."""

    def peak(side: str, precision: str, recompute: bool) -> float:
        request = {"side": side, "precision": precision, "recompute": recompute, "sizes": vars(sizes)}
        command = [sys.executable, "-m", "dvfl.bench.models"]
        environment = os.environ | ({HUGE_PAGES: "1"} if side == "ours" else {})
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, check=True, env=environment
        )
        return json.loads(done.stdout.splitlines()[-1])["peak_mb"]

    literal, ours = networks("vfl_net", sizes)
    ours.set_grad_checkpointing(recompute)
    clips = random_clips(sizes, sizes.step_batch)
    steps = Step(literal, clips, sizes.num_classes, "float32"), Step(ours, clips, sizes.num_classes, precision)
    plain_mb, ours_mb = (kept_bytes(step) / 1e6 for step in steps)
    return Sides(
        slow=partial(peak, "literal", "float32", recompute=False),
        fast=partial(peak, "ours", precision, recompute),
        deviation=None,  # the steps themselves are compared by their own pair
        amount=lambda work: work(),
        note="of the whole process, PyTorch included; for the way back autograd keeps "
        f"{ours_mb:,.0f} MB of it, on the plain side {plain_mb:,.0f} MB",
    )


def take_steps(side: str, precision: str, recompute: bool, sizes: Sizes) -> dict[str, Any]:
    """Three training steps of one side in this process, and its peak memory: by then the heap has grown to its size.

    Ours allocates as `dvfl train` does.
    """
    from dvfl.profile.machine import peak_bytes

    if side == "ours":
        allocate_large_blocks_apart()
    literal, ours = networks("vfl_net", sizes)
    ours.set_grad_checkpointing(recompute)
    network = literal if side == "literal" else ours
    del literal, ours
    step = Step(network, random_clips(sizes, sizes.step_batch), sizes.num_classes, precision)
    step.warm_up()
    for _ in range(3):
        step()
    return {"peak_mb": peak_bytes() / 1e6}


for _precision, _recompute in product(("float32", "bfloat16"), (False, True)):
    # In bfloat16 the literal network's own gradients are 0.088 off those in float32, at batch 2 0.058; so are ours.
    _tolerance = 1e-4 if _precision == "float32" else 0.1
    _name = f"vfl_net/{_precision}" + ("/recompute" if _recompute else "")
    _fast = f"ours, {_precision}" + (", blocks computed again on the way back" if _recompute else "")
    _about = {"what": "training step, vfl_net, batch 8", "slow": EAGER, "fast": _fast}
    pair(f"step/{_name}", **_about, target=2.5, tolerance=_tolerance)(
        partial(training_step, precision=_precision, recompute=_recompute)
    )
    _about["what"] = "peak memory of that step"
    pair(f"memory/{_name}", **_about, target=1 / 0.6, unit="MB")(
        partial(step_memory, precision=_precision, recompute=_recompute)
    )


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(take_steps(**asked | {"sizes": Sizes(**asked["sizes"])})))
