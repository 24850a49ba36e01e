"""The schedule's values, and which parameters decay."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dvfl.config import TrainConfig
from dvfl.train.optimisation import build_optimizer, learning_rate, parameter_groups

TOTAL = 200


def schedule(total: int = TOTAL, **values) -> list[float]:
    train = TrainConfig(**{"lr": 0.4, "lr_floor": 0.01, "warmup": 0.1} | values)
    return [learning_rate(step, total, train) for step in range(total)]


def test_it_starts_and_ends_at_the_floor_and_peaks_at_lr():
    rates = schedule()
    assert rates[0] == pytest.approx(0.004)
    assert rates[-1] == pytest.approx(0.004)
    assert max(rates) == rates[20] == pytest.approx(0.4)


def test_it_warms_up_in_equal_steps_then_only_falls():
    rates = schedule()
    rises = [after - before for before, after in itertools.pairwise(rates[:21])]
    assert rises == pytest.approx([(0.4 - 0.004) / 20] * 20)
    assert all(after < before for before, after in itertools.pairwise(rates[20:]))


def test_it_is_a_cosine_halfway_down_in_the_middle():
    rates = schedule(total=201, warmup=0.0)
    assert rates[0] == pytest.approx(0.4)
    assert rates[100] == pytest.approx((0.4 + 0.004) / 2)
    assert rates[50] == pytest.approx(0.004 + 0.396 * (1 + 2**-0.5) / 2)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_short_trainings_stay_between_the_floor_and_lr(total, warmup):
    rates = schedule(total, warmup=warmup)
    assert all(0.004 - 1e-12 <= rate <= 0.4 + 1e-12 for rate in rates)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 2)
        self.norm = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_matrices_and_kernels_decay_and_one_dimensional_parameters_do_not():
    net = Net()
    decayed, exempt = parameter_groups(net, 0.05)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"conv.weight", "head.weight"}
    assert {names[id(p)] for p in exempt["params"]} == {
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "scale",
        "head.bias",
    }


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_without_gradients_decay_alone_shrinks_weights_and_biases_stay(name):
    net = Net()
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    optimizer = build_optimizer(net, TrainConfig(optimizer=name, lr=0.1, weight_decay=0.5))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    with torch.no_grad():
        assert net.head.weight.norm() < before["head.weight"].norm()
        assert torch.equal(net.scale, before["scale"])
        assert torch.equal(net.norm.weight, before["norm.weight"])
        assert torch.equal(net.frozen.weight, before["frozen.weight"])


def test_sgd_has_nesterov_momentum():
    groups = build_optimizer(Net(), TrainConfig(optimizer="sgd")).param_groups
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in groups)


def test_weight_decay_may_reach_nothing_whatever_is_configured():
    """As in the released optimiser; then SGD without gradients moves nothing at all."""
    net = Net()
    before = [parameter.clone() for parameter in net.parameters()]
    train = TrainConfig(optimizer="sgd", lr=0.1, weight_decay=0.5, decay_applies_to="none")
    optimizer = build_optimizer(net, train)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    assert all(torch.equal(parameter, old) for parameter, old in zip(net.parameters(), before, strict=True))


def test_the_schedule_scales_with_the_clips_of_a_step():
    small = schedule(lr_batch=512, batch_size=8, accumulate=3)
    large = schedule(lr_batch=512, batch_size=8, accumulate=6)
    assert max(small) == pytest.approx(0.4 * 24 / 512)
    assert large == pytest.approx([2 * rate for rate in small])
    group = build_optimizer(Net(), TrainConfig(lr=0.4, lr_batch=512, batch_size=8)).param_groups[0]
    assert group["lr"] == pytest.approx(0.4 * 8 / 512)
