"""How far the student is from the teacher: L_kd of the paper, and what it is compared with.

Throughout, p = softmax(teacher / T) and q = softmax(student / T) for logits (B, classes) and a
temperature T. Every loss is a mean over the batch, and a scalar. A softmax at temperature T has
gradients about 1 / T^2 as large, so losses are multiplied by T^2 unless ``t_squared`` is False.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Divergence = Callable[..., Tensor]


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """L_kd: KL(p || q) = sum p (log p - log q), the mass-covering direction.

    Wherever the teacher puts mass the student must put some too.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean(log_p.exp() * (log_p - log_q), temperature, t_squared)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """KL(q || p) = sum q (log q - log p), the mode-seeking direction.

    The student may choose among the teacher's modes, but must put no mass where the teacher has
    none.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean(log_q.exp() * (log_q - log_p), temperature, t_squared)


def released_code(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """sum p (log p - q): what the authors' released code computes, kept to measure its effect.

    The student's probability q stands where its logarithm belongs. It is no divergence: it is
    negative, not zero when the student equals the teacher, and its gradient is far smaller.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean(log_p.exp() * (log_p - log_q.exp()), temperature, t_squared)


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "released_code": released_code,
}


def total_loss(kd: Tensor, ce: Tensor, alpha: float) -> Tensor:
    """L = alpha * L_kd + (1 - alpha) * L_ce."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return alpha * kd + (1.0 - alpha) * ce


def _log_probabilities(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p and log q, (B, classes) each, in single precision or better."""
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if teacher_logits.shape != student_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            "teacher and student logits must both be (batch, classes), got "
            f"{tuple(teacher_logits.shape)} and {tuple(student_logits.shape)}; "
            "both models need the same num_classes"
        )
    # Half precision (mixed-precision logits, stored teacher targets) would lose small probabilities.
    precision = torch.promote_types(torch.promote_types(teacher_logits.dtype, student_logits.dtype), torch.float32)
    log_p = torch.log_softmax(teacher_logits.to(precision) / temperature, dim=-1)
    log_q = torch.log_softmax(student_logits.to(precision) / temperature, dim=-1)
    return log_p, log_q


def _batch_mean(terms: Tensor, temperature: float, t_squared: bool) -> Tensor:
    """Sum over classes, mean over the batch, times T^2 if asked."""
    loss = terms.sum(dim=-1).mean()
    return loss * temperature**2 if t_squared else loss
