"""How far the student is from the teacher: L_kd of the paper, and what it is compared with.

Throughout, p = softmax(teacher / T) and q = softmax(student / T) for logits (B, classes) and a
temperature T. Every loss is a mean over the batch, and a scalar. Logits at temperature T have
gradients about 1 / T^2 as large, so losses are multiplied by T^2 unless ``t_squared`` is False;
where T does something else to a loss, its docstring says so. By T^2, at high T all of them pull about
as hard as forward KL, except those whose docstrings tell otherwise.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Callable[..., Tensor]


# ------------------------------------------------------------------------------------------ Kullback, Leibler and kin


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """L_kd: KL(p || q) = sum p (log p - log q), the mass-covering direction (Hinton et al. 2015).

    Wherever the teacher puts mass the student must put some too.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean(_kl(log_p, log_q), temperature, t_squared)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """KL(q || p) = sum q (log q - log p), the mode-seeking direction (for distillation: Gu et al., MiniLLM, 2024).

    The student may choose among the teacher's modes, but must put no mass where the teacher has
    none.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean(_kl(log_q, log_p), temperature, t_squared)


def symmetric_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 (Jeffreys 1946, halved to be as large as one of the two)."""
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean((_kl(log_p, log_q) + _kl(log_q, log_p)) / 2, temperature, t_squared)


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True
) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 (Lin 1991): symmetric, and at most log 2 before T^2.

    At high T a quarter of forward KL, since m lies half-way.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return _batch_mean((_kl(log_p, log_m) + _kl(log_q, log_m)) / 2, temperature, t_squared)


def alpha_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    t_squared: bool = True,
    *,
    order: float = 0.5,
    skew: float = 0.1,
) -> Tensor:
    """sum [a p + (1 - a) m - p^a m^(1-a)] / (a (1 - a)) with a = ``order``, m = (1 - s) q + s p, s = ``skew``.

    Amari's alpha-divergence as Cichocki and Amari (2010) write it, from the teacher to a student that
    is mixed with some of the teacher: the skew of Lee (1999), for distillation Ko et al. (DistiLLM,
    2024), bounds what a class costs that the student misses. Order 1 is KL(p || m), order 0
    KL(m || p), order 1/2 four times the squared Hellinger distance. At high T, whatever the order, it
    is (1 - s)^2 as large as forward KL.
    """
    if not 0.0 <= order <= 1.0 or not 0.0 <= skew < 1.0:
        raise ValueError(f"order must be in [0, 1] and skew in [0, 1), got {order} and {skew}")
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    log_m = torch.logaddexp(log_q + math.log1p(-skew), log_p + math.log(skew)) if skew else log_q
    if order > 0.999:  # the limits, from where differences would drown in rounding
        distances = _kl(log_p, log_m)
    elif order < 0.001:
        distances = _kl(log_m, log_p)
    else:  # class by class no term is negative, so little is lost where p and m are nearly equal
        between = (order * log_p + (1 - order) * log_m).exp()
        terms = order * log_p.exp() + (1 - order) * log_m.exp() - between
        distances = terms.sum(-1) / (order * (1 - order))
    return _batch_mean(distances, temperature, t_squared)


def released_code(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """sum p (log p - q): what the authors' released code computes, kept to measure its effect.

    The student's probability q stands where its logarithm belongs. It is no divergence: it is
    negative, not zero when the student equals the teacher, and its gradient is far smaller.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean((log_p.exp() * (log_p - log_q.exp())).sum(-1), temperature, t_squared)


# ------------------------------------------------------------------------------------------------- other distances


def squared_logits(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True
) -> Tensor:
    """mean over classes of (student / T - teacher / T)^2 / 2 (Ba and Caruana 2014, L2 on logits).

    With T^2 the temperature cancels. It is what T^2 KL(p || q) tends to at high T for logits with mean
    zero (Hinton et al. 2015, section 2.1); unlike all others it tells logits apart that differ by a constant.
    """
    teacher, student = _at_temperature(teacher_logits, student_logits, temperature)
    return _batch_mean((student - teacher).square().mean(-1) / 2, temperature, t_squared)


def cosine(student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """1 - cos(p, q), the cosine over the classes of a clip.

    Ham et al. (2023) take the cosine of such predictions over the batch, class by class; this is the
    plain one.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    return _batch_mean(_angle(log_p.exp(), log_q.exp()), temperature, t_squared)


def standardised_logits(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True
) -> Tensor:
    """Forward KL of z-scored logits, (logit - mean) / deviation over a clip's classes (Sun et al., CVPR 2024).

    Shift and scale of the logits, student's or teacher's, do not matter, so a small network need not
    reach the range of a big one's. T and T^2 apply after the z-score: T is in units of the deviation.
    The deviation is the sample's (divided by classes - 1) plus 1e-7, as in their code.
    """
    teacher, student = _at_temperature(teacher_logits, student_logits, 1.0)
    return forward_kl(_z_score(student), _z_score(teacher), temperature, t_squared)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    t_squared: bool = True,
    *,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """alpha * TCKD + beta * NCKD: decoupled knowledge distillation (Zhao et al., CVPR 2022).

    TCKD is the KL of (p_y, 1 - p_y) for the label y, NCKD the KL among the other classes, each side
    renormalised without y. Forward KL is TCKD + (1 - p_y) NCKD: it hardly teaches what a confident
    teacher knows of the other classes. Both parts are multiplied by T^2; at high T and with many classes
    the loss is about beta times forward KL. Their warm-up of the loss over 20 epochs is left out.

    Args:
        labels: (B,) one class a clip. Clips that are mixed have two: see `DistillationTask`.
    """
    teacher, student = _at_temperature(teacher_logits, student_logits, temperature)
    (b_p, others_p), (b_q, others_q) = _decoupled(teacher, labels), _decoupled(student, labels)
    distances = alpha * _kl(b_p, b_q) + beta * _kl(others_p, others_q)
    return _batch_mean(distances, temperature, t_squared)


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    t_squared: bool = True,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """beta * inter + gamma * intra: one minus Pearson's correlation of p and q (DIST, Huang et al., NeurIPS 2022).

    inter is over the classes of each clip, intra over the clips of the batch for each class. A single
    clip has no intra, which is left out there. A correlation hardly changes with T, so T^2, by which
    the authors' code multiplies too, makes this loss and its gradient grow with T, unlike the others'.
    """
    log_p, log_q = _log_probabilities(teacher_logits, student_logits, temperature)
    p, q = log_p.exp(), log_q.exp()
    inter = _angle(_centred(p), _centred(q)).mean()
    intra = _angle(_centred(p.T), _centred(q.T)).mean() if len(p) > 1 else 0.0
    return _batch_mean(beta * inter + gamma * intra, temperature, t_squared)


DIVERGENCES: dict[str, Divergence] = {
    function.__name__: function
    for function in (
        forward_kl,
        reverse_kl,
        symmetric_kl,
        jensen_shannon,
        alpha_divergence,
        squared_logits,
        cosine,
        standardised_logits,
        dkd,
        dist,
        released_code,
    )
}
NEED_LABELS = {"dkd"}


def total_loss(kd: Tensor, ce: Tensor, alpha: float) -> Tensor:
    """L = alpha * L_kd + (1 - alpha) * L_ce."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return alpha * kd + (1.0 - alpha) * ce


# ------------------------------------------------------------------------------------------------------------ parts


def _at_temperature(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logits over T, (B, classes) each, in single precision or better."""
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
    return teacher_logits.to(precision) / temperature, student_logits.to(precision) / temperature


def _log_probabilities(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p and log q, (B, classes) each."""
    teacher, student = _at_temperature(teacher_logits, student_logits, temperature)
    return torch.log_softmax(teacher, dim=-1), torch.log_softmax(student, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL of each row: (B, classes) twice -> (B,)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_y, 1 - p_y), (B, 2), and log p among the other classes, (B, classes - 1)."""
    is_label = F.one_hot(labels, logits.shape[-1]).bool()
    label = logits[is_label].unsqueeze(-1)
    others = logits[~is_label].view(len(logits), -1)
    binary = torch.cat([label, others.logsumexp(-1, keepdim=True)], dim=-1)
    return torch.log_softmax(binary, dim=-1), torch.log_softmax(others, dim=-1)


def _z_score(logits: Tensor) -> Tensor:
    return _centred(logits) / (logits.std(-1, keepdim=True) + 1e-7)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a, b) of each row, as half the squared distance of unit vectors: nothing cancels where they are alike.

    Two rows of zeros are alike; one has no direction, and is as far from any other as 1/2.
    """
    return (F.normalize(a, dim=-1, eps=1e-8) - F.normalize(b, dim=-1, eps=1e-8)).square().sum(-1) / 2


def _batch_mean(distances: Tensor, temperature: float, t_squared: bool) -> Tensor:
    """Mean over the batch, times T^2 if asked."""
    loss = distances.mean()
    return loss * temperature**2 if t_squared else loss
