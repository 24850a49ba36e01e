"""Batch in, named losses out: the training loop never asks whether it distils."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from dvfl.config import DistillConfig
from dvfl.distill.divergences import DIVERGENCES, total_loss
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
        self.model = model

    def __call__(self, batch: Batch) -> Losses:
        logits = self.model(batch.inputs).float()
        loss = functional.cross_entropy(logits, batch.soft_labels)
        return Losses(loss, {"loss": loss.item(), "loss_ce": loss.item()}, logits.detach())


class DistillationTask:
    """L = alpha * L_kd + (1 - alpha) * L_ce, the teacher's logits for the very input that the student sees."""

    def __init__(self, student: nn.Module, targets: TeacherTargets, distill: DistillConfig):
        self.model = student
        self.targets = targets
        self.distill = distill
        self.divergence = DIVERGENCES[distill.divergence]

    def __call__(self, batch: Batch) -> Losses:
        teacher_logits = self.targets(batch.inputs, batch.positions, batch.epoch)
        logits = self.model(batch.inputs).float()
        loss_ce = functional.cross_entropy(logits, batch.soft_labels)
        loss_kd = self.divergence(logits, teacher_logits, self.distill.temperature, t_squared=self.distill.t_squared)
        loss = total_loss(loss_kd, loss_ce, self.distill.alpha)
        parts = {"loss": loss.item(), "loss_ce": loss_ce.item(), "loss_kd": loss_kd.item()}
        return Losses(loss, parts, logits.detach())


def frozen(teacher: nn.Module) -> nn.Module:
    """The teacher as distillation needs it: in eval mode, and no gradient reaches it."""
    teacher.eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher
