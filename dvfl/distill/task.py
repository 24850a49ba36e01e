"""Batch in, named losses out: the training loop never asks whether it distils."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from dvfl.config import DistillConfig
from dvfl.distill.divergences import DIVERGENCES, NEED_LABELS, total_loss
from dvfl.distill.modulators import ModulatorProjection, Modulators, watched
from dvfl.distill.targets import TeacherTargets


@dataclass(frozen=True)
class Batch:
    """What a network sees of a micro-batch of B clips, after mixing and normalisation."""

    inputs: Tensor  # (B, T, 3, H, W), float32
    labels: Tensor  # (B,), the classes before mixing
    soft_labels: Tensor  # (B, C), after label smoothing and mixing; rows sum to 1
    positions: Tensor  # (B,), of the clips in the data set
    epoch: int  # from 0


@dataclass(frozen=True)
class Losses:
    total: Tensor  # what is minimised
    parts: dict[str, float]  # what is logged, by name
    logits: Tensor  # (B, C), detached


class SupervisedTask:
    """L = L_ce: cross-entropy with the labels."""

    def __init__(self, model: nn.Module):
        self.model = self.trained = model

    def __call__(self, batch: Batch) -> Losses:
        logits = self.model(batch.inputs).float()
        loss = functional.cross_entropy(logits, batch.soft_labels)
        return Losses(loss, {"loss": loss.item(), "loss_ce": loss.item()}, logits.detach())


class DistillationTask:
    """L = alpha * L_kd + (1 - alpha) * L_ce, the teacher's logits for the very input that the student sees.

    With `features`, weight * L_features is added: the mean distance of the modulators in space and in time, from those
    of `teacher`, which `targets` asks for its logits.

    A divergence that needs one label for each clip (DKD) is given the class of its largest soft label: label smoothing
    does not matter, and a clip that is mixed from two counts as the one that more of it is from (at equal shares, as
    the class that comes first). Cross-entropy goes on with the soft labels.

    `trained` holds all that learns, `model` and projectors, for the optimiser and the checkpoint.
    """

    def __init__(
        self,
        student: nn.Module,
        targets: TeacherTargets,
        distill: DistillConfig,
        features: ModulatorProjection | None = None,
        teacher: nn.Module | None = None,
    ):
        self.model = student
        self.targets = targets
        self.distill = distill
        self.features = features
        self.teacher = teacher
        self.trained = student if features is None else nn.ModuleDict({"student": student, "features": features})
        self.divergence = partial(
            DIVERGENCES[distill.divergence],
            temperature=distill.temperature,
            t_squared=distill.t_squared,
            **distill.parameters,
        )

    def __call__(self, batch: Batch) -> Losses:
        with self._watched(self.teacher) as taught:
            teacher_logits = self.targets(batch.inputs, batch.positions, batch.epoch)
        with self._watched(self.model) as own:
            logits = self.model(batch.inputs).float()
        labels = {"labels": batch.soft_labels.argmax(1)} if self.distill.divergence in NEED_LABELS else {}
        loss_ce = functional.cross_entropy(logits, batch.soft_labels)
        loss_kd = self.divergence(logits, teacher_logits, **labels)
        loss = total_loss(loss_kd, loss_ce, self.distill.alpha)
        parts = {"loss_ce": loss_ce.item(), "loss_kd": loss_kd.item()}
        if self.features is not None:
            distances = self.features(own, taught)
            loss_features = sum(distances.values()) / len(distances)
            loss = loss + self.distill.features.weight * loss_features
            parts["loss_features"] = loss_features.item()
            parts |= {f"loss_features_{branch}": distance.item() for branch, distance in distances.items()}
        return Losses(loss, {"loss": loss.item(), **parts}, logits.detach())

    def _watched(self, network: nn.Module | None) -> AbstractContextManager[Modulators | None]:
        return nullcontext() if self.features is None else watched(network)


def frozen(teacher: nn.Module) -> nn.Module:
    """The teacher as distillation needs it: in eval mode, and no gradient reaches it."""
    teacher.eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher
